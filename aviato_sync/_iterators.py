# ruff: noqa: SLF001 - the modules of this package share what is private to it
"""Iterating over what arrives on the loop: in order, many items for one crossing, blocking or awaited."""

from __future__ import annotations

import asyncio
import warnings
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Self, TypeVar

from aviato_sync._bridge import Handle, wrap
from aviato_sync._operation import VALUE, OperationRef

if TYPE_CHECKING:
    from types import TracebackType

    from aviato_sync._runtime import LoopThread

__all__ = ["BlockingIterator"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

BATCH = 256
"""Most items that one crossing brings."""
AHEAD = 64
"""Most items that a pump makes before anybody has asked for them."""


class _Source(Protocol[T]):
    """What batches come from, on the loop thread."""

    async def read_batch(self, limit: int) -> list[T]: ...


class _Batches(Generic[T]):
    """Items that have crossed and were not taken yet, and the one fetch that may be under way."""

    def __init__(self, source: _Source[T], home: LoopThread) -> None:
        self._source = source
        self._home = home
        self._lock = allocate_lock()
        self._fetching: OperationRef[list[T]] | None = None
        self.items: deque[T] = deque()

    def _fetch(self) -> OperationRef[list[T]]:
        with self._lock:
            if self._fetching is None:
                self._fetching = OperationRef._started(self._home, None, self._source.read_batch, (BATCH,), {})
            return self._fetching

    def _take(self, ref: OperationRef[list[T]]) -> None:
        """Take the fetched items over; several threads may have waited for the same fetch, the first of them does.

        Also when the waiting was interrupted: it may have been at the moment when the items came.
        """
        with self._lock:
            if self._fetching is ref and ref.done():
                self._fetching = None
                if ref._state == VALUE:
                    self.items.extend(ref._value)

    def next(self) -> list[T]:
        """Return the next item in a list, blocking until there is one; an empty list at the end."""
        __tracebackhide__ = True
        while True:
            try:
                return [self.items.popleft()]
            except IndexError:
                ref = self._fetch()
            try:
                batch = ref.result()
            finally:
                self._take(ref)
            if not batch:
                return []

    async def next_awaited(self) -> list[T]:
        """Likewise, without blocking the running loop."""
        while True:
            try:
                return [self.items.popleft()]
            except IndexError:
                ref = self._fetch()
            try:
                batch = await ref
            finally:
                self._take(ref)
            if not batch:
                return []


class BatchReader(Handle, Generic[T]):
    """A facade reader whose core hands out its items in batches.

    Items that have crossed and that nobody took belong to the reader, not to one loop over it; before any other
    operation they go back to the core.
    """

    def _bind(self, core: Any, home: LoopThread) -> None:
        super()._bind(core, home)
        self._batches: _Batches[T] = _Batches(core, home)

    def _start(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> OperationRef[R]:
        if not self._batches.items:
            return super()._start(function, *args, **kwargs)

        async def give_back_first() -> R:
            items: list[T] = []
            while self._batches.items:
                items.append(self._batches.items.popleft())
            self._core.unread(items)
            return await function(*args, **kwargs)

        return super()._start(give_back_first)

    def __iter__(self) -> Iterator[T]:
        return _ReaderIterator(self)

    def __aiter__(self) -> AsyncIterator[T]:
        return _ReaderIterator(self)

    def __next__(self) -> T:
        __tracebackhide__ = True
        for item in self._batches.next():
            return item
        raise StopIteration

    async def __anext__(self) -> T:
        for item in await self._batches.next_awaited():
            return item
        raise StopAsyncIteration


class _ReaderIterator(Generic[T]):
    """One loop over a reader; while it lives, the core knows that somebody reads."""

    def __init__(self, reader: BatchReader[T]) -> None:
        self._reader = reader
        self._held = reader._call(reader._core.__aiter__)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        __tracebackhide__ = True
        return next(self._reader)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._reader.__anext__()

    def __del__(self) -> None:
        held = self.__dict__.pop("_held", None)
        if held is not None:
            self._reader._home.forget(held)


class _Pump(Generic[T]):
    """Runs an asynchronous iterator in one task of the loop, a bounded number of items ahead of the reader."""

    def __init__(self, source: AsyncIterator[T], home: LoopThread) -> None:
        self._source = source
        self._home = home
        self._items: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failure: BaseException | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing is made any more; from any thread."""
        return self._task is not None and self._task.done()

    async def _run(self) -> None:
        try:
            await self._fill()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failure = error
        except BaseException as error:  # noqa: BLE001 - raised where items are asked for; here some would end the loop
            self._failure = error

    async def _fill(self) -> None:
        try:
            async for item in self._source:
                self._items.append(wrap(item, self._home))
                self._news.set()
                if len(self._items) >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._news.set()
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()

    async def read_batch(self, limit: int) -> list[T]:
        """Return what is there, waiting for the first; `[]` at the end."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="aviato-pump")
            self._home.tasks.add(self._task)
            self._task.add_done_callback(self._home.tasks.discard)
        while not self._items:
            if self._task.done():
                if self._failure is not None:
                    raise self._failure
                return []
            self._news.clear()
            waiting = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
        batch = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
        self._room.set()
        return batch

    async def close(self) -> None:
        """Cancel the iterator and wait for its clean-up."""
        self._items.clear()
        if self._task is None:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()
            return
        if not self._closing:
            self._closing = True
            self._task.cancel()  # once: again would hit the clean-up
        await asyncio.wait([self._task])


class BlockingIterator(Generic[T]):
    """Items that are made on the loop as they are asked for, a bounded number ahead.

    An iterator of both kinds, and a context manager of both kinds that closes it. One that is dropped before its end
    without being closed warns and is closed. Ctrl-C while it blocks, or another exception of a signal handler, closes
    it, and comes out once the clean-up is over or 5 s have passed.
    """

    def __init__(
        self, home: LoopThread, function: Callable[P, AsyncIterator[Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self._home = home
        self._pump: _Pump[T] = home.call(lambda: _Pump(function(*args, **kwargs), home))
        self._batches: _Batches[T] = _Batches(self._pump, home)
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> T:
        __tracebackhide__ = True
        try:
            for item in self._batches.next():
                return item
        except BaseException:
            self._abandon()
            raise
        self._ended = True
        raise StopIteration

    def _abandon(self) -> None:
        """After an exception: unless it came from what makes the items, that is still at it and must be stopped."""
        if self._pump.over or self._home._refusal is not None:
            self._ended = True
        elif get_ident() != self._home.ident:  # there blocking was refused, and nothing happened
            self.close()._await_clean_up()

    async def __anext__(self) -> T:
        try:
            for item in await self._batches.next_awaited():
                return item
        except BaseException:
            if self._pump.over or self._home._refusal is not None:
                self._ended = True  # else the waiting was cancelled, and may go on
            raise
        self._ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Do what `close` does, under the name that `contextlib.aclosing` knows."""
        await self.close()

    def close(self) -> OperationRef[None]:
        """End the iteration and wait for the clean-up of what makes the items. Idempotent."""
        closing: OperationRef[None] = OperationRef._started(self._home, None, self._pump.close, (), {})
        self._ended = True  # last: interrupted before, `__del__` closes
        self._batches.items.clear()
        return closing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close().result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # not sys.is_finalizing(), for at the interpreter's end this module's globals may be gone
        if not self.__dict__.get("_ended", True) and self._home._refusal is None:
            warnings.warn("an iterator was dropped before its end without being closed", ResourceWarning, stacklevel=2)
            self.close()


def feed(data: Any) -> Any:
    """Make what the user iterates over in his own way fit for the loop.

    An asynchronous iterable is iterated on the loop that runs in the calling thread, where it belongs, if there is one;
    a plain iterable that may block on a thread of its own. Everything else is left as it is.
    """
    if isinstance(data, AsyncIterable):
        loop = asyncio._get_running_loop()
        return data if loop is None else _from_loop(data, loop)
    if isinstance(data, (str, bytes, bytearray, memoryview, list, tuple, dict)) or not isinstance(data, Iterable):
        return data
    return _from_thread(data)


async def _from_loop(data: AsyncIterable[T], loop: asyncio.AbstractEventLoop) -> AsyncIterator[T]:
    iterator = aiter(data)

    async def step() -> tuple[list[T], BaseException | None]:
        try:
            async for item in iterator:
                return [item], None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised below; SystemExit would end the user's loop from this task
            return [], error
        return [], None

    while True:
        batch, error = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(), loop))
        if error is not None:
            raise error
        if not batch:
            return
        yield batch[0]


async def _from_thread(data: Iterable[T]) -> AsyncIterator[T]:
    iterator = iter(data)

    def step() -> list[T]:
        for item in iterator:
            return [item]
        return []

    while True:
        batch = await asyncio.to_thread(step)
        if not batch:
            return
        yield batch[0]
