"""Fixtures for pytest, there in every project that has aviato installed.

`fake_engine` is a fresh `FakeEngine`; `sandbox_session` is an open `aviato.Session` on it, closed after the test. Both
are made only by a test that asks for them, and a project's own fixture of the same name wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import aviato
    from aviato.testing.fake import FakeEngine

__all__ = ["fake_engine", "sandbox_session"]


@pytest.fixture
def fake_engine() -> FakeEngine:
    """Return an engine in memory."""
    from aviato.testing.fake import FakeEngine  # noqa: PLC0415 - a plugin is imported in every run of pytest

    return FakeEngine()


@pytest.fixture
def sandbox_session(fake_engine: FakeEngine) -> Iterator[aviato.Session]:
    """Return a session whose sandboxes are in memory; everything in it is stopped after the test."""
    import aviato  # noqa: PLC0415 - likewise

    with aviato.Session(engine=fake_engine) as session:
        yield session
