"""Waiting for several things at once, natively."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterable
from functools import partial
from typing import Any, TypeVar, overload

__all__ = ["as_completed", "results", "wait"]

T = TypeVar("T")


def _several(waitables: Iterable[Any], name: str) -> builtins.list[Any]:
    if isinstance(waitables, Awaitable):
        raise TypeError(
            f"{name} must be an iterable of things to wait for, not one {type(waitables).__name__}: write [it]"
        )
    items = builtins.list(waitables)
    for item in items:
        if inspect.iscoroutine(item) or not isinstance(item, Awaitable):
            raise TypeError(
                f"{name} must hold handles, tasks or futures, not {item!r}; wrap a coroutine in asyncio.create_task()"
            )
    return items


async def _await(waitable: Awaitable[T]) -> T:
    return await waitable


def _task(waitable: Awaitable[Any]) -> asyncio.Future[Any]:
    return waitable if isinstance(waitable, asyncio.Future) else asyncio.ensure_future(_await(waitable))


@overload
async def results(refs: Awaitable[T]) -> T: ...


@overload
async def results(refs: Iterable[Awaitable[T]]) -> builtins.list[T]: ...


async def results(refs: Awaitable[T] | Iterable[Awaitable[T]]) -> T | builtins.list[T]:
    """Await one thing, or several at once, and return the value or the list of values in the order of the input.

    `[]` gives `[]`. The first failure to happen is raised; the others go on.

    Raises:
        BaseException: Whatever the first that fails raises.
    """
    if isinstance(refs, Awaitable):
        return await refs
    tasks = [_task(ref) for ref in refs]
    for task in tasks:
        task.add_done_callback(_look)
    if not tasks:
        return []
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task in done:
            task.result()
    return [task.result() for task in tasks]


def _look(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def wait(
    waitables: Iterable[Any],
    num_returns: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - ends only the waiting
) -> tuple[builtins.list[Any], builtins.list[Any]]:
    """Wait until `num_returns` of them are done: sandboxes when they run, processes and other awaitables when complete.

    Nothing is raised for one that failed: it is done. Nothing is cancelled.

    Args:
        waitables: Handles or awaitables.
        num_returns: How many to wait for; None is all.
        timeout: Seconds to wait at most; None waits as long as it takes.

    Returns:
        Two lists of the same objects: those done, in the order of completion, and those pending, in the order of the
        input.

    Raises:
        TypeError: `waitables` is not an iterable of awaitables.
        ValueError: `num_returns` is less than 1.
    """
    items = _several(waitables, "waitables")
    if num_returns is not None and num_returns < 1:
        raise ValueError(f"num_returns must be at least 1, got {num_returns!r}")
    if not items:
        return [], []
    done: builtins.list[Any] = []
    enough = asyncio.Event()
    wanted = len(items) if num_returns is None else min(num_returns, len(items))

    def finished(item: Any, task: asyncio.Future[Any]) -> None:
        _look(task)
        done.append(item)
        if len(done) >= wanted:
            enough.set()

    own: builtins.list[asyncio.Future[Any]] = []
    try:
        for item in items:
            task = _task(item)
            if task is not item:
                own.append(task)
            task.add_done_callback(partial(finished, item))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await enough.wait()
        first = builtins.list(done)
    finally:
        for task in own:
            task.cancel()  # ends the waiting for a handle, never what the handle stands for
        if own:
            await asyncio.wait(own)
    return first, [item for item in items if not any(item is other for other in first)]


async def as_completed(
    waitables: Iterable[Any],
    timeout: float | None = None,  # noqa: ASYNC109 - ends only the waiting
) -> AsyncIterator[Any]:
    """Iterate over the same objects in the order in which they are done; nothing is raised for one that failed.

    Raises:
        TypeError: `waitables` is not an iterable of awaitables.
        TimeoutError: `timeout` seconds passed before all were done.
    """
    pending = _several(waitables, "waitables")
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    while pending:
        remaining = None if deadline is None else max(0.0, deadline - loop.time())
        done, pending = await wait(pending, num_returns=1, timeout=remaining)
        if not done:
            raise TimeoutError(f"{len(pending)} were not done within {timeout:g} s")
        for item in done:
            yield item
