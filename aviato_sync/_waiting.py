# ruff: noqa: SLF001 - the modules of this package share what is private to it
"""Waiting for several operations at once: one wake-up, however many there are."""

from __future__ import annotations

import contextlib
import queue
import time
from _thread import TIMEOUT_MAX, allocate_lock
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, overload

from aviato_sync._bridge import AwaitableHandle, Handle
from aviato_sync._operation import CLEANUP_SECONDS, VALUE, OperationRef

__all__ = ["as_completed", "results", "wait"]

T = TypeVar("T")
Waitable = OperationRef[Any] | AwaitableHandle
W = TypeVar("W", bound=Waitable)


def _refs(waitables: Iterable[Any], name: str) -> list[tuple[Any, OperationRef[Any]]]:
    if isinstance(waitables, (OperationRef, Handle)) or not isinstance(waitables, Iterable):
        raise TypeError(f"{name} must be an iterable of handles and refs, not {waitables!r}; for one, write [it]")
    return [(item, _ref(item, name)) for item in waitables]


def _ref(item: Any, name: str) -> OperationRef[Any]:
    if isinstance(item, OperationRef):
        return item
    if isinstance(item, AwaitableHandle):
        return item._as_ref()
    raise TypeError(f"{name} must hold sandboxes, processes and other OperationRefs, not {item!r}")


class _Tally:
    """Counts refs that are done; the thread that waits is woken once."""

    def __init__(self, refs: Iterable[OperationRef[Any]], wanted: int, *, until_failure: bool) -> None:
        self._wanted = wanted
        self._finished: list[OperationRef[Any]] = []
        self._until_failure = until_failure
        self._lock = allocate_lock()
        self._lock.acquire()
        self._listeners: list[tuple[OperationRef[Any], Callable[[], object]]] = []
        for ref in refs:
            listener = partial(self._done, ref)
            self._listeners.append((ref, listener))
            ref._listen(listener)

    def _done(self, ref: OperationRef[Any]) -> None:
        # called on the loop thread and, for what is done already, on the one that will wait: hence a list, which two
        # threads may append to, and a lock that may be found released
        self._finished.append(ref)
        if len(self._finished) >= self._wanted or (self._until_failure and ref._state != VALUE):
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def wait(self, timeout: float | None) -> None:
        """Wait until there are enough, or `timeout` seconds have passed."""
        try:
            self._lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX))
        finally:
            for ref, listener in self._listeners:
                if not ref.done():
                    ref._unlisten(listener)


@overload
def results(refs: OperationRef[T]) -> T: ...


@overload
def results(refs: Iterable[OperationRef[T]]) -> list[T]: ...


def results(refs: OperationRef[T] | Iterable[OperationRef[T]]) -> T | list[T]:
    """Wait for one ref, or for several at once, and return the value, or the values in the order of the input.

    `[]` gives `[]`. The first failure to happen is raised at once; the others go on. Ctrl-C while it waits cancels
    those that are not done.

    Raises:
        TypeError: `refs` holds something else than refs and handles.
        concurrent.futures.CancelledError: One was cancelled, and that was the first failure.
        BaseException: What the first that failed raises.
    """
    __tracebackhide__ = True
    if isinstance(refs, (OperationRef, Handle)):
        return _ref(refs, "refs").result()  # type: ignore[no-any-return]  # a handle gives itself
    items = [ref for _, ref in _refs(refs, "refs")]
    pending = [ref for ref in items if not ref.done()]
    try:
        if pending and not _failed(items):
            pending[0]._home.check_blocking()
            _Tally(pending, len(pending), until_failure=True).wait(None)
    except KeyboardInterrupt:
        _give_up(pending)
        raise
    for ref in _failed(items)[:1]:
        ref.result()  # raises
    return [ref.result() for ref in items]


def _failed(refs: list[OperationRef[T]]) -> list[OperationRef[T]]:
    found = [ref for ref in refs if ref._state > VALUE]
    found.sort(key=_when)
    return found


def _when(ref: OperationRef[Any]) -> int:
    return ref._settled_as


def _give_up(refs: list[OperationRef[Any]]) -> None:
    for ref in refs:
        ref.cancel()
    _Tally(refs, len(refs), until_failure=False).wait(CLEANUP_SECONDS)
    for ref in refs:
        ref._observed = True  # the user sees KeyboardInterrupt instead


@overload
def wait(
    waitables: Iterable[W], num_returns: int | None = None, timeout: float | None = None
) -> tuple[list[W], list[W]]: ...


@overload
def wait(  # type: ignore[overload-cannot-match]  # without it, mypy takes [sandbox, ref] for a list of objects
    waitables: Iterable[Waitable], num_returns: int | None = None, timeout: float | None = None
) -> tuple[list[Waitable], list[Waitable]]: ...


def wait(
    waitables: Iterable[Any], num_returns: int | None = None, timeout: float | None = None
) -> tuple[list[Any], list[Any]]:
    """Wait until `num_returns` of them are done: sandboxes when they run, processes and other refs when complete.

    Nothing is raised for one that failed: it is done. Nothing is cancelled, not by Ctrl-C either.

    Args:
        waitables: Refs and awaitable handles.
        num_returns: How many to wait for; None is all.
        timeout: Seconds to wait at most; None waits as long as it takes.

    Returns:
        Two lists of the same objects: those done, in the order of completion, and those pending, in the order of the
        input.

    Raises:
        TypeError: `waitables` is not an iterable of refs and handles.
        ValueError: `num_returns` is less than 1.
        ForkError: One that is not done belongs to the parent process.
        RuntimeError: The calling thread is the loop's own.
    """
    if num_returns is not None and num_returns < 1:
        raise ValueError(f"num_returns must be at least 1, got {num_returns!r}")
    pairs = _refs(waitables, "waitables")
    done, pending = _partition(pairs)
    wanted = (len(pairs) if num_returns is None else min(num_returns, len(pairs))) - len(done)
    try:
        if pending and wanted > 0:
            pending[0][1]._home.check_blocking()
            _Tally([ref for _, ref in pending], wanted, until_failure=False).wait(timeout)
            done, pending = _partition(pairs)
    finally:
        _release(pairs)
    for _, ref in done:
        ref._observed = True
    return [item for item, _ in done], [item for item, _ in pending]


def _release(pairs: list[tuple[Any, OperationRef[Any]]]) -> None:
    for item, ref in pairs:
        if ref is not item:  # made here, only to wait
            ref._observed = True
            ref.cancel()


@overload
def as_completed(waitables: Iterable[W], timeout: float | None = None) -> Iterator[W]: ...


@overload
def as_completed(  # type: ignore[overload-cannot-match]  # as for `wait`
    waitables: Iterable[Waitable], timeout: float | None = None
) -> Iterator[Waitable]: ...


def as_completed(waitables: Iterable[Any], timeout: float | None = None) -> Iterator[Any]:
    """Iterate over the same objects in the order in which they are done; nothing is raised for one that failed.

    Args:
        waitables: As for `wait`.
        timeout: Seconds, from the call, in which all must be done; None waits as long as it takes.

    Raises:
        TypeError: `waitables` is not an iterable of refs and handles.
        TimeoutError: `timeout` passed before all were done.
        ForkError: One that is not done belongs to the parent process.
        RuntimeError: The calling thread is the loop's own.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    return _completions(_refs(waitables, "waitables"), timeout, deadline)


def _completions(
    pairs: list[tuple[Any, OperationRef[Any]]], timeout: float | None, deadline: float | None
) -> Iterator[Any]:
    finished: queue.SimpleQueue[tuple[Any, OperationRef[Any]]] = queue.SimpleQueue()
    listeners: list[tuple[OperationRef[Any], Callable[[], object]]] = []
    done, pending = _partition(pairs)
    try:
        if pending:
            pending[0][1]._home.check_blocking()
        for pair in pending:
            listener: Callable[[], object] = partial(finished.put, pair)
            listeners.append((pair[1], listener))
            pair[1]._listen(listener)
        for item, ref in done:
            ref._observed = True
            yield item
        for left in range(len(pending), 0, -1):
            try:
                item, ref = finished.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{left} of {len(pairs)} were not done within {timeout:g} s") from None
            ref._observed = True
            yield item
    finally:
        for ref, listener in listeners:
            if not ref.done():
                ref._unlisten(listener)
        _release(pairs)


def _partition(
    pairs: list[tuple[Any, OperationRef[Any]]],
) -> tuple[list[tuple[Any, OperationRef[Any]]], list[tuple[Any, OperationRef[Any]]]]:
    """Return those done, in the order of completion, and those pending, in the order given."""
    done: list[tuple[Any, OperationRef[Any]]] = []
    pending: list[tuple[Any, OperationRef[Any]]] = []
    for pair in pairs:
        (done if pair[1].done() else pending).append(pair)
    done.sort(key=lambda pair: _when(pair[1]))
    return done, pending
