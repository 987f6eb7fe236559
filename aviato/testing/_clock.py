"""The clocks by which a fake sandbox's time limits run."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `Clock.call_later` gives."""

    def cancel(self) -> None:
        """Forget the call; harmless when it was made."""


class Clock(Protocol):
    """Tells the time and calls back."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...

    def call_later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Call `action` in `seconds`, on the event loop."""
        ...


class LoopClock:
    """Real time, on the running event loop."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def call_later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Call `action` in `seconds`."""
        return asyncio.get_running_loop().call_later(seconds, action)


class _ManualTimer:
    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Forget the call."""
        self.action = None


class ManualClock:
    """Time that passes only when a test says so.

    It governs lifetimes, idle and orphan limits and graces, not `sleep` in a command.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._due: list[tuple[float, int, _ManualTimer]] = []

    def time(self) -> float:
        """Return the present moment."""
        return self._now

    def call_later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Keep `action` until `advance` has passed its moment."""
        timer = _ManualTimer(action)
        heapq.heappush(self._due, (self._now + seconds, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass and make the calls that fall due, in order; call it on the event loop.

        Args:
            seconds: At least 0.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds!r}")
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            moment, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, moment)
            action, timer.action = timer.action, None
            if action is not None:
                action()
        self._now = end
