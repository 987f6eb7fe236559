"""Whoever is told of changes, or what is logged to, may block or fail: no call waits for it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from typing import Any

import pytest

from aviato import aio
from aviato.models import SandboxInfo, SandboxStatus

pytestmark = pytest.mark.fault("F29")


async def test_a_report_that_blocks(engine: Any) -> None:
    """Sandboxes start, work and end while the callback has not returned from its first change."""
    entered, release = threading.Event(), threading.Event()
    told: list[SandboxStatus] = []

    def report(info: SandboxInfo) -> None:
        entered.set()
        release.wait(50)
        told.append(info.status)

    try:
        async with aio.Session(engine=engine, report_to=report) as session:
            sandboxes = [session.sandbox() for _ in range(3)]
            for sandbox in sandboxes:
                assert (await sandbox.exec(["true"])).returncode == 0
            assert await asyncio.to_thread(entered.wait, 30)
        assert all(sandbox.status.is_terminal for sandbox in sandboxes)
        assert told == []
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("aviato-report"):
                await asyncio.to_thread(thread.join)


class _Full:
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Have nothing to write."""


async def test_a_log_that_is_full(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that cannot write changes nothing for the one who calls."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("aviato")
    handler = logging.StreamHandler(_Full())
    logger.addHandler(handler)
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", failed.append)
    try:
        async with aio.Sandbox.run(engine=engine) as sandbox:
            sandbox._life.on_change.append(lambda info: logger.warning("now %s", info.status))
            assert (await sandbox.exec(["echo", "fine"])).stdout == "fine\n"
        assert failed
    finally:
        logger.removeHandler(handler)
