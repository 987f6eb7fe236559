"""Admission of starts: how many at once, how many sandboxes altogether, and how many a second."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aviato.aio.pooling.pressure import startable

if TYPE_CHECKING:
    from pathlib import Path

    from aviato.aio.pooling.slots import Slot
    from aviato.models import Limits

_FIRST_POLL = 0.01
_LONGEST_POLL = 0.2
_SHORT_JITTER = 0.005


class Limiter:
    """What one pool asks before it starts a sandbox."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        if limits is not None:
            from aviato.aio.pooling import slots  # noqa: PLC0415 - it needs the file locks of POSIX

            self._slots = slots
        self._folder: Path | None = None
        self._started = 0
        self._news = asyncio.Event()
        self._turns: dict[str, asyncio.Lock] = {}

    async def running(self) -> Callable[[], object]:
        """Wait until one more sandbox may be there; returns what gives its place back."""
        if self._limits is None or self._limits.running is None:
            return _nothing
        most = self._limits.running
        return (await self._slot("running", lambda: most)).release

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Wait until one more may start, and have it counted as starting meanwhile.

        Raises:
            ConfigurationError: The shared files cannot be used.
        """
        if self._limits is None:
            async with self._alone():
                yield
            return
        most = self._limits.starting
        slot = await self._slot("starting", startable if most is None else lambda: most)
        try:
            if self._limits.per_second is not None:
                await asyncio.sleep(self._slots.reserve(self._directory(), self._limits.per_second))
            yield
        finally:
            slot.release()

    def _directory(self) -> Path:
        if self._folder is None:
            assert self._limits is not None  # noqa: S101 - only shared limits have files
            self._folder = self._slots.folder(self._limits.name)
        return self._folder

    async def _slot(self, kind: str, count: Callable[[], int]) -> Slot:
        """Take a shared slot, in turn within this process and by trying again among processes."""
        turn = self._turns.setdefault(kind, asyncio.Lock())
        async with turn:
            pause = _FIRST_POLL
            while True:
                slot = self._slots.try_slot(self._directory(), kind, count())
                if slot is not None:
                    return slot
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreading load is no secret
                pause = min(_LONGEST_POLL, pause * 1.5)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Count the starts of this pool alone, against what the machine can bear just now."""
        if self._started:
            await asyncio.sleep(random.uniform(0, _SHORT_JITTER))  # noqa: S311 - spreading load is no secret
        async with self._turns.setdefault("alone", asyncio.Lock()):
            while self._started >= startable():
                self._news.clear()
                await self._news.wait()
            self._started += 1
        try:
            yield
        finally:
            self._started -= 1
            self._news.set()


def _nothing() -> None:
    pass
