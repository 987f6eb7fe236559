"""Tests of the local engine itself: they know where they run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aviato import aio
from aviato.engines.local.images import ImageStore
from tests.helpers.local import require_local
from tests.helpers.registry import FakeRegistry

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


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's logins and proxies out of the tests."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return folder / "config.json"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An empty store."""
    return ImageStore(str(tmp_path / "home"))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """A registry that behaves until it is told not to."""
    async with FakeRegistry() as made:
        yield made
