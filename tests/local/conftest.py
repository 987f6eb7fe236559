"""Tests of the local engine itself: they know where they run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aviato import aio
from tests.helpers.local import require_local

Session = Callable[..., aio.Session]


@pytest.fixture
async def sandbox() -> AsyncIterator[aio.Sandbox]:
    """A sandbox of the local engine with nothing asked for."""
    async with aio.Sandbox.run(engine="local") as made:
        yield made


@pytest.fixture
def local() -> Session:
    """A maker of sessions on the local engine; skipped with the reason where it cannot run."""
    require_local()

    def session(**defaults: Any) -> aio.Session:
        return aio.Session(defaults, engine="local")

    return session
