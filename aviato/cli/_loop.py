"""Runs a command's coroutine, with Ctrl-C and SIGTERM as its cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(body: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run to the end and return the exit code; the first signal cancels, a second one ends the process at once."""
    return asyncio.run(_run(body))


async def _run(body: Callable[[], Coroutine[Any, Any, int]]) -> int:
    from aviato.aio import disable_signal_handlers  # noqa: PLC0415 - --help does without

    disable_signal_handlers()  # those below do the same, and let the coroutine clean up
    loop = asyncio.get_running_loop()
    task = loop.create_task(body())
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        task.cancel(number)

    installed = []
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: nobody sends signals there
                loop.add_signal_handler(number, stop, number)
                installed.append(number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            return 128 + received[0]
        task.cancel()
        raise
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
