"""Tests of the Docker engine that need a daemon, and a session on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aviato.engines.docker.engine import DockerEngine
from tests.helpers.docker import require_docker


@pytest.fixture
async def docker_engine() -> AsyncIterator[DockerEngine]:
    """An engine of the test's own."""
    require_docker()
    async with DockerEngine() as engine:
        yield engine
