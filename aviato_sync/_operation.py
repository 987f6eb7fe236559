# ruff: noqa: SLF001 - the modules of this package share what is private to it
"""`OperationRef`, the future of an operation that runs on the loop thread, and waiting for several of them.

A ref is settled on the loop thread only: value first, state second, listeners last. Whoever waits appends a listener
and then looks at the state again, so no lock is needed: the settling either finds the listener or was seen.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import sys
from _thread import TIMEOUT_MAX, allocate_lock
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from aviato_sync import _runtime
from aviato_sync._runtime import LoopThread
from aviato_sync._tracebacks import Origin, describe, noted, origin, trimmed

__all__ = ["OperationRef"]

T_co = TypeVar("T_co", covariant=True)

CLEANUP_SECONDS = 5.0
"""How long Ctrl-C waits for the clean-up of the operation it cancelled."""

PENDING, VALUE, ERROR, CANCELLED = range(4)

_log = logging.getLogger("aviato")
_sequence = itertools.count()
_NOTHING: Any = None


class OperationRef(Generic[T_co]):
    """The result, to come, of an operation that is under way.

    May be used from many threads at once, and any number of times. It is awaitable on any running event loop, without
    blocking it. Dropping a ref does not stop the operation; a failure that nobody looked at is logged.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_cancelling",
        "_context",
        "_convert",
        "_function",
        "_home",
        "_keywords",
        "_listeners",
        "_observed",
        "_origin",
        "_settled_as",
        "_state",
        "_task",
        "_traceback",
        "_value",
    )

    _arguments: tuple[Any, ...]
    _context: Context
    _convert: Callable[[Any, LoopThread], Any] | None
    _function: Callable[..., Coroutine[Any, Any, Any]]
    _home: LoopThread
    _keywords: dict[str, Any]
    _listeners: list[Callable[[], object]]
    _origin: Origin
    _settled_as: int
    _state: int
    _task: asyncio.Task[None] | None
    _traceback: TracebackType | None
    _value: Any

    def __init__(self) -> None:
        raise TypeError("an OperationRef is returned by the methods of sandboxes and sessions, not made")

    @classmethod
    def _started(
        cls,
        home: LoopThread,
        convert: Callable[[Any, LoopThread], Any] | None,
        function: Callable[..., Coroutine[Any, Any, Any]],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Self:
        """Start a coroutine function on the loop."""
        self = cls.__new__(cls)
        self._prepare(home, origin())
        self._convert = convert
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._context = copy_context()
        home.post(self)
        return self

    def _prepare(self, home: LoopThread, place: Origin) -> None:
        self._home = home
        self._state = PENDING
        self._listeners = []
        self._observed = False
        self._cancelling = False
        self._task = None
        self._origin = place

    # On the loop thread ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the operation; called once, on the loop thread."""
        home = self._home
        task = home.start(self._drive(), self._context)
        if not self._state:
            self._task = task
            home.operations.add(self)
        del self  # from Python 3.12 on the frames of a traceback keep those that called them, and so this ref

    async def _drive(self) -> None:
        try:
            value = await self._function(*self._arguments, **self._keywords)
            if self._convert is not None:
                value = self._convert(value, self._home)
        except asyncio.CancelledError:
            self._settle(CANCELLED, None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._fail(error)
        else:
            self._settle(VALUE, value)
        del self  # as in `begin`

    def refuse(self, error: Exception) -> None:
        """Settle with the reason why the loop cannot run it."""
        if not self._state:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        # kept apart from the error, which a repeated raise would add frames to; trimmed, also because the frame of
        # _drive holds this ref, and a cycle would hide an unobserved failure from __del__
        self._traceback = trimmed(error.__traceback__)
        error.__traceback__ = None
        self._settle(ERROR, error)

    def _settle(self, state: int, value: Any) -> None:
        self._value = value
        self._settled_as = next(_sequence)
        self._state = state
        self._task = None
        self._function = self._arguments = self._keywords = self._context = _NOTHING  # kept alive no longer
        self._home.operations.discard(self)
        listeners = self._listeners
        while listeners:
            try:
                listener = listeners.pop(0)
            except IndexError:
                break  # its owner took it back meanwhile
            listener()

    # Anywhere --------------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Tell whether there is a result, an error or a cancellation; never blocks."""
        return self._state != PENDING

    def cancelled(self) -> bool:
        """Tell whether it was cancelled and its clean-up is over; never blocks."""
        return self._state == CANCELLED

    def cancel(self) -> bool:
        """Ask for the operation to be cancelled; False when it is already done.

        It counts as cancelled when its clean-up is over; one that completes nevertheless keeps its result. Asking
        again changes nothing.

        Raises:
            ForkError: It belongs to the parent process.
        """
        if self._state:
            return False
        self._home.post(_Cancellation(self))
        return True

    def result(self, timeout: float | None = None) -> T_co:
        """Wait for the result and return it.

        Args:
            timeout: Seconds to wait; None waits as long as it takes. Only the waiting ends: the operation goes on.

        Raises:
            TimeoutError: `timeout` passed; call again to wait on.
            concurrent.futures.CancelledError: The operation was cancelled.
            ForkError: It is not done and belongs to the parent process.
            RuntimeError: The calling thread is the loop's own, which would wait for itself.
            BaseException: Whatever the operation raised, always the same object.
        """
        __tracebackhide__ = True
        if not self._state:
            self._wait(timeout)
        self._observed = True
        if self._state == VALUE:
            return self._value  # type: ignore[no-any-return]  # what the operation returned
        raise self._failure()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the error that `result` would raise, None if there is none.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: `timeout` passed.
            concurrent.futures.CancelledError: The operation was cancelled.
            ForkError: It is not done and belongs to the parent process.
            RuntimeError: The calling thread is the loop's own.
        """
        if not self._state:
            self._wait(timeout)
        self._observed = True
        if self._state == CANCELLED:
            raise self._failure()
        return self._failure() if self._state == ERROR else None

    def add_done_callback(self, callback: Callable[[Self], object]) -> None:
        """Call `callback(ref)` when it is done, on a thread for callbacks; at once, in this thread, if it is done.

        The callback may block; callbacks run one after another. An error that it raises is logged.

        Raises:
            TypeError: `callback` cannot be called.
            ForkError: It is not done and belongs to the parent process.
        """
        if not callable(callback):
            raise TypeError(f"callback must be a function of one argument, not {callback!r}")
        context = copy_context()

        def run() -> None:
            context.run(_run_callback, callback, self)

        if self._state:
            run()
            return
        self._home.check()
        self._listen(partial(_runtime.callbacks.submit, run), otherwise=run)

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait for the result on the running event loop, without blocking it; cancelling the waiter changes nothing.

        Raises:
            concurrent.futures.CancelledError: The operation was cancelled.
            BaseException: As `result`.
        """
        __tracebackhide__ = True
        if not self._state:
            yield from self._until_done().__await__()
        return self.result()

    def __repr__(self) -> str:
        name = ("pending", "done", "failed", "cancelled")[self._state]
        return f"<{type(self).__name__} {name}, started at {describe(self._origin)}>"

    def __del__(self) -> None:
        if getattr(self, "_state", PENDING) != ERROR or self._observed or sys.is_finalizing():
            return
        error = self._value
        _log.error(
            "an operation started at %s failed and nobody looked at it: %s: %s",
            describe(self._origin),
            type(error).__name__,
            error,
        )

    # Waiting ---------------------------------------------------------------------------------------------------------

    def _listen(self, listener: Callable[[], object], *, otherwise: Callable[[], object] | None = None) -> None:
        """Have `listener` called on the loop thread when settled; if that is too late, call `otherwise` here."""
        self._listeners.append(listener)
        if self._state and self._unlisten(listener):
            (listener if otherwise is None else otherwise)()

    def _unlisten(self, listener: Callable[[], object]) -> bool:
        try:
            self._listeners.remove(listener)
        except ValueError:
            return False
        return True

    def _wait(self, timeout: float | None) -> None:
        __tracebackhide__ = True
        self._home.check_blocking()
        lock = allocate_lock()
        lock.acquire()
        release = lock.release
        try:
            self._listen(release)
            if timeout is None:
                lock.acquire()
            elif not lock.acquire(timeout=min(max(timeout, 0), TIMEOUT_MAX)) and self._unlisten(release):
                raise TimeoutError(f"not done within {timeout:g} s; it goes on")
        except KeyboardInterrupt:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """After Ctrl-C: cancel, and wait for the clean-up."""
        self.cancel()
        self._await_clean_up()

    def _await_clean_up(self) -> None:
        """Wait a bounded time while an exception is on its way out; a second Ctrl-C ends the waiting at once."""
        lock = allocate_lock()
        lock.acquire()
        self._listen(lock.release)
        lock.acquire(timeout=CLEANUP_SECONDS)
        self._observed = True  # the user sees that exception instead

    async def _until_done(self) -> None:
        self._home.check()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        wake = partial(_wake, loop, waiter)
        self._listen(wake)
        try:
            await waiter
        finally:
            self._unlisten(wake)

    def _failure(self) -> BaseException:
        if self._state == CANCELLED:
            return concurrent.futures.CancelledError(f"the operation started at {describe(self._origin)} was cancelled")
        error: BaseException = self._value
        return noted(error, self._origin).with_traceback(self._traceback)


class _Cancellation:
    """A wish to cancel on its way to the loop."""

    __slots__ = ("_ref",)

    def __init__(self, ref: OperationRef[Any]) -> None:
        self._ref = ref

    def begin(self) -> None:
        ref = self._ref
        task = ref._task
        if ref._state or ref._cancelling or task is None:
            return
        ref._cancelling = True  # a second CancelledError would hit the clean-up
        task.cancel()

    def refuse(self, error: Exception) -> None:
        """The ref itself is refused as well."""


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_release, waiter)
    except RuntimeError:
        _log.debug("the event loop that awaited an operation was closed before it was done")


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _run_callback(callback: Callable[[Any], object], ref: OperationRef[Any]) -> None:
    try:
        callback(ref)
    except Exception:  # noqa: BLE001 - there is nobody else to tell
        _log.exception("a done-callback of an operation failed")
