"""Cancel a coroutine at its n-th suspension."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

LONGEST_SECONDS = 20.0


class _Cancelling:
    """Awaits something, and cancels the task that does so when it suspends for the n-th time."""

    def __init__(self, awaitable: Awaitable[Any], at: int) -> None:
        self._awaitable = awaitable
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        task = asyncio.current_task()
        assert task is not None
        sent: Any = None
        suspensions = 0
        while True:
            try:
                yielded = steps.send(sent)
            except StopIteration as stop:
                return stop.value
            suspensions += 1
            if suspensions == self._at:
                task.cancel()
            try:
                sent = yield yielded
            except BaseException as error:
                yielded = error
                try:
                    again = steps.throw(error)
                except StopIteration as stop:
                    return stop.value
                sent = yield again


async def cancelled_at(make: Callable[[], Awaitable[Any]], at: int) -> bool:
    """Run it, cancel it at a suspension, and tell whether it got that far.

    Raises:
        AssertionError: It went on although it was cancelled, or hung.
    """

    async def run() -> None:
        await _Cancelling(make(), at)

    task = asyncio.ensure_future(run())
    done, _ = await asyncio.wait([task], timeout=LONGEST_SECONDS)
    if not done:
        task.cancel()
        raise AssertionError(f"still running {LONGEST_SECONDS:g} s after its cancellation at suspension {at}")
    if task.cancelled():
        return True
    task.result()
    assert not task.cancelling(), f"the cancellation at suspension {at} was swallowed"
    return False
