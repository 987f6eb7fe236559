"""A core of a few lines and its facade, so that the runtime is tested by itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Self

from aviato_sync._bridge import AwaitableHandle, ContextHandle, RefHandle, facade_of
from aviato_sync._iterators import BatchReader, BlockingIterator
from aviato_sync._operation import OperationRef

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class CoreJob:
    """Something under way; done when told so."""

    def __init__(self) -> None:
        self._future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callbacks: list[Callable[[CoreJob], object]] = []

    def finish(self, value: str) -> None:
        """End it."""
        self._future.set_result(value)
        self._tell()

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._future.set_exception(error)
        self._tell()

    def cancel(self) -> bool:
        """Cancel it."""
        if self._future.done():
            return False
        self._future.cancel()
        self._tell()
        return True

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[CoreJob], object]) -> None:
        """Call back when done."""
        self._callbacks.append(callback)

    async def result(self, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the shape of the core
        """Wait for it."""
        if self._future.done():
            return self._future.result()
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._future)

    def __await__(self) -> Generator[Any, None, str]:
        return self.result().__await__()


class CoreReader:
    """Numbers up to `count`, handed out in batches."""

    def __init__(self, count: int) -> None:
        self._left = list(range(count))
        self.holders = 0
        self.batches = 0

    def __aiter__(self) -> AsyncIterator[int]:
        return _Held(self)

    async def __anext__(self) -> int:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)

    async def read_batch(self, limit: int) -> list[int]:
        """Hand out some."""
        self.batches += 1
        batch, self._left = self._left[:limit], self._left[limit:]
        return batch

    def unread(self, items: list[int]) -> None:
        """Take some back."""
        self._left[:0] = items

    async def read(self) -> int:
        """Return the sum of what is left."""
        total, self._left = sum(self._left), []
        return total


class _Held:
    def __init__(self, reader: CoreReader) -> None:
        self._reader = reader
        reader.holders += 1

    def __aiter__(self) -> _Held:
        return self

    async def __anext__(self) -> int:
        return await self._reader.__anext__()

    def __del__(self) -> None:
        self._reader.holders -= 1


class CoreBox:
    """A handle with one of everything."""

    def __init__(self, name: str = "box") -> None:
        if not name:
            raise ValueError("name must not be empty")
        self.name = name
        self.gate = asyncio.Event()
        self.log: list[str] = []
        self.child: CoreBox | None = None
        self.loop_thread = threading.current_thread().name

    def __repr__(self) -> str:
        return f"<Box {self.name}>"

    async def echo(self, value: Any) -> Any:
        """Return the value."""
        return value

    async def fail(self, error: BaseException) -> None:
        """Raise the error from two functions deep."""
        await self._deeper(error)

    async def _deeper(self, error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    async def block(self) -> str:
        """Wait for the gate, and take note of a cancellation and of its clean-up."""
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await asyncio.sleep(0.01)
            self.log.append("cleaned")
            raise
        return "through"

    async def stubborn(self) -> str:
        """Complete in spite of a cancellation."""
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            return "completed nevertheless"
        return "through"

    async def gather(self) -> str:
        """Return a context variable as the loop sees it."""
        await asyncio.sleep(0)
        return variable.get()

    def context(self) -> str:
        """Return the same from a plain function."""
        return variable.get()

    def open(self) -> None:
        """Open the gate."""
        self.gate.set()

    def explode(self) -> None:
        """Raise from a plain function."""
        raise ValueError("exploded")

    def make_child(self) -> CoreBox:
        """Return the one child."""
        if self.child is None:
            self.child = CoreBox("child")
        return self.child

    async def children(self) -> list[CoreBox]:
        """Return handles in a list."""
        return [self.make_child(), self]

    def job(self) -> CoreJob:
        """Return something under way."""
        return CoreJob()

    def reader(self, count: int) -> CoreReader:
        """Return a reader."""
        return CoreReader(count)

    async def numbers(self, count: int) -> AsyncIterator[int]:
        """Make numbers, and take note of the end."""
        try:
            for number in range(count):
                self.log.append(f"made {number}")
                yield number
        finally:
            self.log.append("closed")

    def __await__(self) -> Generator[Any, None, CoreBox]:
        return self._opened().__await__()

    async def _opened(self) -> CoreBox:
        await self.gate.wait()
        return self

    async def __aenter__(self) -> Self:
        self.log.append("entered")
        return self

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        await asyncio.sleep(0)
        self.log.append(f"left with {exc!r}")


@facade_of(CoreJob)
class Job(RefHandle[str]):
    """The facade of `CoreJob`."""

    _core: CoreJob

    def cancel(self) -> bool:
        """Cancel it."""
        return self._call(self._core.cancel)

    def finish(self, value: str) -> None:
        """End it."""
        self._call(self._core.finish, value)

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._call(self._core.fail, error)


@facade_of(CoreReader)
class Reader(BatchReader[int]):
    """The facade of `CoreReader`."""

    _core: CoreReader

    def read(self) -> OperationRef[int]:
        """Return the sum of what is left."""
        return self._start(self._core.read)


@facade_of(CoreBox)
class Box(AwaitableHandle, ContextHandle):
    """The facade of `CoreBox`."""

    _core: CoreBox

    def __init__(self, name: str = "box") -> None:
        self._make(CoreBox, name)

    @property
    def log(self) -> list[str]:
        """What happened."""
        return self._core.log

    def echo(self, value: Any) -> OperationRef[Any]:
        """Return the value."""
        return self._start(self._core.echo, value)

    def fail(self, error: BaseException) -> OperationRef[None]:
        """Raise the error."""
        return self._start(self._core.fail, error)

    def block(self) -> OperationRef[str]:
        """Wait for the gate."""
        return self._start(self._core.block)

    def stubborn(self) -> OperationRef[str]:
        """Complete in spite of a cancellation."""
        return self._start(self._core.stubborn)

    def gather(self) -> OperationRef[str]:
        """Return a context variable."""
        return self._start(self._core.gather)

    def context(self) -> str:
        """Return a context variable."""
        return self._call(self._core.context)

    def open(self) -> None:
        """Open the gate."""
        self._call(self._core.open)

    def explode(self) -> None:
        """Raise from a plain function."""
        self._call(self._core.explode)

    def make_child(self) -> Box:
        """Return the one child."""
        child: Box = self._call_wrapped(self._core.make_child)
        return child

    def children(self) -> OperationRef[list[Box]]:
        """Return handles in a list."""
        return self._start_wrapped(self._core.children)

    def job(self) -> Job:
        """Return something under way."""
        job: Job = self._call_wrapped(self._core.job)
        return job

    def reader(self, count: int) -> Reader:
        """Return a reader."""
        reader: Reader = self._call_wrapped(self._core.reader, count)
        return reader

    def numbers(self, count: int) -> BlockingIterator[int]:
        """Make numbers."""
        return BlockingIterator(self._home, self._core.numbers, count)
