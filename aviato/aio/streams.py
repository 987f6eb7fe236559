"""Readers and writers of a process's streams."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from aviato.aio import _facade as facade
from aviato.exceptions import SandboxExecutionError

if TYPE_CHECKING:
    import asyncio
    import builtins
    from types import TracebackType

    from aviato.agent.remote import RemoteProcess

__all__ = ["StreamReader", "StreamWriter"]

T = TypeVar("T", str, bytes)


class _Source(Protocol[T]):
    async def next_items(self) -> builtins.list[T]: ...

    async def close(self) -> None: ...


class _Place(Protocol):
    def activate(self) -> None: ...

    def deactivate(self) -> None: ...


class _Iterator(Generic[T]):
    """One `async for` over a reader; while it lives, output that is not kept waits for it."""

    def __init__(self, reader: StreamReader[T]) -> None:
        self._reader: StreamReader[T] = reader
        self._items: deque[T] = reader._items  # noqa: SLF001 - the reader's own iterator
        reader._hold(1)  # noqa: SLF001 - likewise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._items:  # most lines come with others, and one coroutine each is enough
            return self._items.popleft()
        return await self._reader._next()  # noqa: SLF001 - the reader's own iterator

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        self._reader._hold(-1)  # noqa: SLF001 - the reader's own iterator


@facade.handle
class StreamReader(Generic[T]):
    """Output of a command, in order, each byte once.

    A reader of `str` gives complete lines with their newline; the last one may lack it. A line that stays incomplete
    for 100 ms, or grows over 1 Mi characters, is handed on as it is, never splitting a character. Text is UTF-8 with
    replacement characters for what is not. A reader of `bytes` gives the pieces as they arrived, at most 64 KiB each.

    The place is the reader's: a second loop goes on where the first ended. Reading never takes anything
    from the process's result. Leaving a loop early neither blocks nor ends the process.
    """

    def __init__(
        self,
        source: _Source[T],
        place: _Place | None = None,
        *,
        empty: T,
        buffer: Callable[[], StreamReader[bytes]] | None = None,
    ) -> None:
        self._source: _Source[T] = source
        self._empty: T = empty
        self._place = place
        self._make_buffer = buffer
        self._items: deque[T] = deque()
        self._holders = 0
        self._closed = False

    def __repr__(self) -> str:
        kind = "text" if isinstance(self._empty, str) else "bytes"
        return f"<StreamReader of {kind}{', closed' if self._closed else ''}>"

    @property
    def buffer(self) -> StreamReader[bytes]:
        """The same output as bytes, read from its start, independently of this reader.

        Raises:
            TypeError: This reader gives bytes already, or there are no bytes below it.
        """
        if self._make_buffer is None:
            raise TypeError("this reader has no bytes below it")
        return self._make_buffer()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def _hold(self, change: int) -> None:
        self._holders += change
        if self._place is not None and not self._closed:
            if self._holders > 0:
                self._place.activate()
            else:
                self._place.deactivate()

    async def _next(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            items = await self._source.next_items()
            if not items:
                raise StopAsyncIteration
            self._items.extend(items)
        return self._items.popleft()

    def __aiter__(self) -> AsyncIterator[T]:
        """Iterate over what has not been read yet, until the stream ends."""
        return _Iterator(self)

    async def __anext__(self) -> T:
        """Return the next line or piece."""
        if self._place is not None and not self._closed:
            self._place.activate()
        return await self._next()

    @facade.skip("the facade's iterator calls it, so that many lines cost one crossing")
    async def read_batch(self, limit: int) -> builtins.list[T]:
        """Return up to `limit` items that are there, waiting only for the first; `[]` at the end."""
        if not self._items:
            if self._closed:
                return []
            if self._place is not None:
                self._place.activate()
            self._items.extend(await self._source.next_items())
        return [self._items.popleft() for _ in range(min(limit, len(self._items)))]

    @facade.skip("the facade gives back what crossed and was not taken")
    def unread(self, items: builtins.list[T]) -> None:
        """Put items that `read_batch` gave back in front of what is there."""
        self._items.extendleft(reversed(items))

    async def read(self) -> T:
        """Read everything until the stream ends and return it joined.

        Raises:
            OutputLostError: Output beyond `max_output_bytes` passed before the reading began.
        """
        items: builtins.list[Any] = [item async for item in self]
        return self._empty.join(items)

    async def close(self) -> None:
        """Stop reading: iteration ends and nothing waits for this reader any more.

        The process and its result are not touched. Idempotent; raises nothing of its own.
        """
        if not self._closed:
            self._closed = True
            self._items.clear()
            if self._place is not None:
                self._place.deactivate()
            await self._source.close()

    async def __aenter__(self) -> Self:
        """Return the reader."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the reader."""
        await self.close()


@facade.handle
class StreamWriter:
    """Input of a command.

    Writes are accepted in the order of the calls, with back-pressure: at most 256 KiB are on their way at a time.
    """

    def __init__(self, label: str, loop: asyncio.AbstractEventLoop, sandbox_id: str | None) -> None:
        self._label = label
        self._loop = loop
        self._sandbox_id = sandbox_id
        self._remote: RemoteProcess | None = None
        self._pending: deque[tuple[memoryview | None, asyncio.Future[None]]] = deque()
        self._closing = False
        self._broken: str | None = None

    @property
    def closed(self) -> bool:
        """True after `close`, and when the process ended or closed its input."""
        return self._closing or self._broken is not None

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when all of them were accepted on their way.

        If cancelled, the bytes not yet accepted are not sent.

        Raises:
            TypeError: `data` is not bytes.
            SandboxExecutionError: The writer is closed, or the process ended or closed its input.
        """
        if isinstance(data, str) or not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {type(data).__name__}; for text use writeline()")
        await self._queue(memoryview(bytes(data)))

    async def writeline(self, text: str, encoding: str = "utf-8") -> None:
        r"""Send text and a newline (`\n`), encoded.

        Raises:
            TypeError: `text` is not a string.
            UnicodeEncodeError: It cannot be encoded.
            SandboxExecutionError: As `write`.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}; for bytes use write()")
        await self.write((text + "\n").encode(encoding))

    async def close(self) -> None:
        """Send end-of-file after everything written before; returns when that was accepted.

        Idempotent, and no error when the process has already ended.
        """
        if self.closed:
            return
        self._closing = True
        await self._queue(None)

    async def _queue(self, view: memoryview | None) -> None:
        if self._broken is not None or (self._closing and view is not None):
            raise self._error()
        accepted: asyncio.Future[None] = self._loop.create_future()
        entry = (view, accepted)
        self._pending.append(entry)
        self._pump()
        try:
            await accepted
        except BaseException:
            if entry in self._pending:
                self._pending.remove(entry)
            raise

    def _put(self, view: memoryview | None) -> None:
        """Queue what nobody waits for: a command that ends without reading all of it is no error."""
        accepted: asyncio.Future[None] = self._loop.create_future()
        accepted.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._pending.append((view, accepted))

    def _error(self) -> SandboxExecutionError:
        reason = self._broken or "it was closed"
        return SandboxExecutionError(f"input of {self._label} is closed: {reason}", sandbox_id=self._sandbox_id)

    def _attach(self, remote: RemoteProcess) -> None:
        self._remote = remote
        self._pump()

    def _pump(self) -> None:
        remote = self._remote
        if remote is None:
            return
        while self._pending:
            view, accepted = self._pending[0]
            if accepted.cancelled():
                self._pending.popleft()
                continue
            if view is None:
                remote.close_stdin()
            elif view:
                free = remote.stdin_free
                if free <= 0:
                    return
                remote.send_stdin(bytes(view[:free]))
                if len(view) > free:
                    self._pending[0] = (view[free:], accepted)
                    return
            self._pending.popleft()
            if not accepted.done():
                accepted.set_result(None)

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
        self._remote = None
        while self._pending:
            view, accepted = self._pending.popleft()
            if accepted.done():
                continue
            if view is None:
                accepted.set_result(None)  # the end of input is what was asked for, and it is reached
            else:
                accepted.set_exception(self._error())
