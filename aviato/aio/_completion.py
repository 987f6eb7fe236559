"""A value that arrives once and is awaited any number of times, on one event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from aviato.aio import _fork

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_log = logging.getLogger("aviato")


class Completion(Generic[_T]):
    """What a handle's operation comes to: pending, a value, an error or cancelled.

    Unlike a future, awaiting it cannot cancel it, its error is raised with the same short traceback however often,
    and an error that nobody looked at is logged with a name that says whose it was.
    """

    __slots__ = (
        "_callbacks",
        "_error",
        "_generation",
        "_label",
        "_loop",
        "_state",
        "_traceback",
        "_value",
        "_waiters",
        "observed",
    )

    def __init__(self, label: str, loop: asyncio.AbstractEventLoop) -> None:
        self._label = label
        self._loop = loop
        self._generation = _fork.generation
        self._state = "pending"
        self._value: _T | None = None
        self._error: BaseException | None = None
        self._traceback: object = None
        self._waiters: list[asyncio.Future[None]] = []
        self._callbacks: list[Callable[[], object]] = []
        self.observed = False

    @property
    def done(self) -> bool:
        """True when a value, an error or a cancellation is there."""
        return self._state != "pending"

    @property
    def cancelled(self) -> bool:
        """True when it was cancelled and the cancelling is over."""
        return self._state == "cancelled"

    @property
    def error(self) -> BaseException | None:
        """The error, or None; looking counts as having observed it."""
        self.observed = True
        return self._error

    @property
    def peek(self) -> _T | None:
        """The value if it is there."""
        return self._value

    def set_result(self, value: _T) -> None:
        """Settle with a value; later settling is ignored."""
        if self._state == "pending":
            self._state, self._value = "value", value
            self._wake()

    def set_error(self, error: BaseException) -> None:
        """Settle with an error; later settling is ignored."""
        if self._state == "pending":
            self._state, self._error, self._traceback = "error", error, error.__traceback__
            self._wake()

    def set_cancelled(self) -> None:
        """Settle as cancelled; later settling is ignored."""
        if self._state == "pending":
            self._state = "cancelled"
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - a user's callback must not harm the loop
            _log.exception("a done-callback of %s failed", self._label)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` when settled, or now if it is."""
        if self._state == "pending":
            self._callbacks.append(callback)
        else:
            self._call(callback)

    async def wait(self, timeout: float | None = None) -> _T:  # noqa: ASYNC109 - the shape of concurrent.futures
        """Return the value or raise the error; cancelling the waiter leaves the operation alone.

        Raises:
            TimeoutError: `timeout` seconds passed; the operation goes on.
            asyncio.CancelledError: The operation was cancelled.
            ForkError: It belongs to the parent process.
            RuntimeError: It belongs to another event loop.
        """
        if self._state == "pending":
            await self.settled(timeout)
        self.observed = True
        if self._state == "value":
            return self._value  # type: ignore[return-value]  # set together with the state
        if self._state == "cancelled":
            raise asyncio.CancelledError(f"{self._label} was cancelled")
        assert self._error is not None  # noqa: S101 - narrows the type
        raise self._error.with_traceback(self._traceback)  # type: ignore[arg-type]  # kept as found

    async def settled(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """Wait until settled, whatever the outcome.

        Raises:
            TimeoutError: `timeout` seconds passed.
            ForkError: It belongs to the parent process.
            RuntimeError: It belongs to another event loop.
        """
        _fork.check(self._generation, self._label)
        check_loop(self._loop, self._label)
        if self._state != "pending":
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(max(timeout, 0), _expire, waiter, self._label, timeout)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def __del__(self) -> None:
        if self._state == "error" and not self.observed and not _fork.is_stale(self._generation):
            _log.error("the failure of %s was never looked at: %s", self._label, self._error)


def _expire(waiter: asyncio.Future[None], label: str, timeout: float) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError(f"{label} has not finished within {timeout:g} s; it goes on"))


def check_loop(loop: asyncio.AbstractEventLoop, label: str) -> None:
    """Refuse use from another loop than the one a handle was made on.

    Raises:
        RuntimeError: Another loop runs, or none.
    """
    if asyncio.get_running_loop() is not loop:
        state = "closed" if loop.is_closed() else "other"
        raise RuntimeError(
            f"{label} belongs to an event loop that is {state if state == 'closed' else 'not the running one'}; "
            "make it on the loop that uses it; the handles of `import aviato` work from any loop and thread"
        )
