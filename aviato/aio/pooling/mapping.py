"""Doing something with every item of an input that is read lazily, and yielding the results as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

from aviato.exceptions import SandboxTerminatedError

LOOK_AHEAD = 4
"""Results that may wait to be yielded, times the number of items at work: one slow item then holds up few others."""

_END = object()
_Work = Callable[[int, Any], Awaitable[Any]]
_closing: set[asyncio.Task[BaseException | None]] = set()
"""Clean-up that goes on when nobody waits for it any more; the loop itself holds tasks weakly."""


class Source:
    """The items, of either kind of iterable; no generator, so that one that is dropped has nothing nested to close."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self._iterator: Any = None

    async def next(self) -> Any:
        """Return the next item.

        Raises:
            StopAsyncIteration: There is none.
            BaseException: What the input raised.
        """
        if isinstance(self._items, AsyncIterable):
            if self._iterator is None:
                self._iterator = aiter(self._items)
            return await anext(self._iterator)
        if self._iterator is None:
            self._iterator = iter(self._items)
        item = next(self._iterator, _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def close(self) -> None:
        """Close an asynchronous generator."""
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


def check_items(items: Any) -> None:
    """Refuse what cannot be iterated over.

    Raises:
        TypeError: It cannot, or is a bare string.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, (Iterable, AsyncIterable)):
        raise TypeError(f"items must be an iterable or asynchronous iterable of items, not {items!r}")


def _cancelled() -> bool:
    """Tell whether the running task is cancelled, and not only something that it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Run:
    """One run over one input."""

    def __init__(self, source: Source, *, concurrency: int, ordered: bool, return_exceptions: bool) -> None:
        self._source = source
        self.taken = 0
        """Items taken from the input."""
        self._ordered = ordered
        self._keep_errors = return_exceptions
        self._running = asyncio.Semaphore(concurrency)
        self._window = asyncio.Semaphore(concurrency * (LOOK_AHEAD if ordered else 2))
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: dict[int, tuple[Any, BaseException | None]] = {}
        self._finished: deque[int] = deque()
        self._feeder: asyncio.Task[None] | None = None
        self._expected = 0
        self._fed = False
        self._failure: BaseException | None = None
        self._interrupt: KeyboardInterrupt | None = None
        self._end: asyncio.Task[BaseException | None] | None = None

    async def _feed(self, work: _Work) -> None:
        try:
            while True:
                await self._window.acquire()
                await self._running.acquire()
                try:
                    item = await self._source.next()
                except StopAsyncIteration:
                    break
                if self._end is not None:
                    break  # the input took the cancellation for something else
                task = asyncio.create_task(self._one(work, self.taken, item), name="aviato-map")
                self._tasks.add(task)
                task.add_done_callback(self._over)
                self.taken += 1
        except asyncio.CancelledError as error:
            if _cancelled():
                raise
            self._failure = RuntimeError(
                f"items raised CancelledError after {self.taken} items though the iteration was not cancelled: "
                "something that it waits for was"
            )
            self._failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised behind the results of the items before it
            self._failure = error
            if isinstance(error, KeyboardInterrupt):
                self._interrupt = error
        finally:
            self._fed = True
            self._news.set()

    async def _one(self, work: _Work, number: int, item: Any) -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (await work(number, item), None)
        except asyncio.CancelledError:
            if _cancelled():
                raise
            outcome = (None, SandboxTerminatedError(f"the work of items[{number}] was cancelled by another"))
        except BaseException as error:  # noqa: BLE001 - it is yielded or raised in its place
            outcome = (None, error)
            if isinstance(error, KeyboardInterrupt):
                self._interrupt = error
            elif isinstance(error, Exception):  # its place may say nothing, and its text only what went wrong
                error.add_note(f"in the work of items[{number}]")
        self._outcomes[number] = outcome
        self._finished.append(number)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running.release()
        self._news.set()
        if not task.cancelled():
            task.exception()

    def _next(self) -> int | None:
        """Return the number of the item whose outcome is to be yielded, if it is there."""
        if self._ordered:
            return self._expected if self._expected in self._outcomes else None
        return self._finished.popleft() if self._finished else None

    def begin(self, work: _Work) -> None:
        """Begin to take items."""
        self._feeder = asyncio.create_task(self._feed(work), name="aviato-map-feed")

    async def next(self) -> Any:
        """Return the next result, or its error if errors are kept.

        Raises:
            StopAsyncIteration: There is none.
            RuntimeError: The input raised `CancelledError` though nobody cancelled this.
            KeyboardInterrupt: Work or the input was interrupted; results before it are not waited for.
            BaseException: What its work, or the input, raised; only an `Exception` of the work is kept.
        """
        while True:
            if self._interrupt is not None:
                raise self._interrupt
            number = self._next()
            if number is not None:
                value, error = self._outcomes.pop(number)
                self._expected += 1
                self._window.release()
                if error is not None and not (self._keep_errors and isinstance(error, Exception)):
                    raise error
                return value if error is None else error
            if self._fed and not self._tasks:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Cancel what is at work; nothing is any more when this returns.

        If this is cancelled, the clean-up goes on by itself.

        Raises:
            BaseException: What the input raised when it was closed.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._clear(), name="aviato-map-end")
            _closing.add(self._end)
            self._end.add_done_callback(_closing.discard)
        error = await asyncio.shield(self._end)
        if error is not None:
            raise error

    async def _clear(self) -> BaseException | None:
        tasks = [*self._tasks, *([] if self._feeder is None else [self._feeder])]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            error = await self._close_source()
        return error

    async def _close_source(self) -> BaseException | None:
        try:
            await self._source.close()
        except (SystemExit, KeyboardInterrupt) as error:
            return error  # a task that raises them ends the loop
        return None
