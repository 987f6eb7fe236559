"""What happens to sandboxes when the process ends: normal exit, SIGTERM, SIGHUP, and fork.

SIGINT keeps Python's own handling: `KeyboardInterrupt` unwinds the program, `with` blocks stop their sandboxes, and the
exit hook stops the rest. A process killed by SIGTERM or SIGHUP would run no exit hook, so handlers for these
two are installed with the first sandbox that the main thread makes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from aviato.aio import _fork

if TYPE_CHECKING:
    from types import FrameType

    from aviato.engines.base import Engine

BUDGET_SECONDS = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_earlier: dict[int, Any] = {}
_handlers_wanted = True
_in_handler = False


def remember_engine(engine: Engine) -> None:
    """End what this engine made when the process ends."""
    _engines.add(engine)


def forget_engine(engine: Engine) -> None:
    """The engine was closed."""
    _engines.discard(engine)


def stop_all_at_exit(seconds: float = BUDGET_SECONDS) -> tuple[str, ...]:
    """End every sandbox that this process made and that is not detached, without an event loop.

    May be called from any thread and more than once; needs no executor, so it works while the interpreter ends.

    Args:
        seconds: How long it may take in all.

    Returns:
        The ids of those which could not be ended in that time; their engine ends them as orphans.
    """
    deadline = time.monotonic() + seconds
    remaining: list[str] = []
    for engine in list(_engines):
        try:
            remaining += engine.stop_all_at_exit(max(0.0, deadline - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - one engine must not keep the others from stopping
            print(f"aviato: sandboxes of the {engine.name} engine could not be stopped: {error}", file=sys.stderr)  # noqa: T201 - the last words of a process
    return tuple(remaining)


def _at_exit() -> None:
    try:
        remaining = stop_all_at_exit()
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    if remaining:
        print(f"aviato: could not stop in time: {', '.join(remaining)}", file=sys.stderr)  # noqa: T201 - as above


atexit.register(_at_exit)


def install_signal_handlers() -> None:
    """Install the handlers, once, if this is the main thread and they are wanted."""
    if not _handlers_wanted or _earlier or threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        earlier = signal.getsignal(number)
        if earlier is None or earlier is signal.SIG_IGN:
            continue  # installed by something that is not Python, or ignored on purpose (nohup)
        _earlier[number] = earlier
        signal.signal(number, _on_signal)


def disable_signal_handlers() -> None:
    """Install no signal handlers, and take away those installed unless something else has replaced them.

    Call it from the main thread. Sandboxes are then not stopped on SIGTERM and SIGHUP unless the program does it;
    those of a process that is gone end after their `orphan_timeout_seconds`. Idempotent; raises nothing of its own.
    """
    global _handlers_wanted  # noqa: PLW0603 - handlers are one per process
    _handlers_wanted = False
    for number, earlier in list(_earlier.items()):
        if signal.getsignal(number) is _on_signal:
            with contextlib.suppress(ValueError):  # not the main thread: the handler then finds itself unwanted
                signal.signal(number, earlier)
                del _earlier[number]


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _in_handler  # noqa: PLW0603 - a second signal must find the first
    if _in_handler:
        os._exit(128 + number)
    earlier = _earlier.get(number, signal.SIG_DFL)
    if _handlers_wanted:
        _in_handler = True
        try:
            remaining = stop_all_at_exit()
        finally:
            _in_handler = False
        if remaining:
            print(f"aviato: could not stop in time: {', '.join(remaining)}", file=sys.stderr)  # noqa: T201 - as above
    if callable(earlier):
        earlier(number, frame)
    else:
        signal.signal(number, earlier)
        os.kill(os.getpid(), number)


def _after_fork() -> None:
    for engine in list(_engines):
        engine.forget_after_fork()
    _engines.clear()


_fork.in_child(_after_fork)
