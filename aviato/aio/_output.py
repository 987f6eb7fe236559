"""The client's side of one output stream: what is kept for the result, and what readers still want.

The first `cap` bytes are kept for the result, and readers read them there. What comes after them is handed to the
readers that are iterating at that time, with back-pressure: the writer in the sandbox is given credit only as far as
the slowest of them has read. Without a reader it is dropped from the result and counted, and never held up.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import weakref
from collections import deque
from typing import TYPE_CHECKING

from aviato.exceptions import OutputLostError

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_PATIENCE = 0.1
"""Seconds after which an incomplete line is handed on."""
LONGEST_PIECE = 1 << 20
"""Characters of an incomplete line after which it is handed on at once."""


class OutputBuffer:
    """Bytes of one stream of one process."""

    def __init__(self, name: str, cap: int, loop: asyncio.AbstractEventLoop, sandbox_id: str | None) -> None:
        self.name = name
        self.cap = cap
        self.loop = loop
        self.sandbox_id = sandbox_id
        self.chunks: list[bytes] = []
        self.kept = 0
        self.received = 0
        self.ended = False
        self.truncated = False
        self.lost: OutputLostError | None = None
        self.grant: Callable[[int], None] = _no_credit
        self._cursors: tuple[weakref.ref[Cursor], ...] = ()  # iterated over for each piece: a WeakSet takes 2 us for it
        self._waiters: list[asyncio.Future[bool]] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.received += len(data)
        room = self.cap - self.kept
        if room > 0:
            head = data if len(data) <= room else data[:room]
            self.chunks.append(head)
            self.kept += len(head)
            data = data[room:] if len(data) > room else b""
        if data:
            self.truncated = True
            for ref in self._cursors:
                cursor = ref()
                if cursor is None:
                    continue
                if cursor.active:
                    cursor.overflow.append(data)
                else:
                    cursor.missed = True
        self.give_credit()
        if self._waiters:
            self._wake()

    def gap(self, missing: int) -> None:
        """Note that `missing` bytes cannot be had any more."""
        self.truncated = True
        self.lost = OutputLostError(
            f"{missing} bytes of {self.name} were no longer available when the connection came back",
            stream=self.name,
            received=self.received,
            sent=self.received + missing,
            sandbox_id=self.sandbox_id,
        )
        self.end()

    def end(self) -> None:
        """Note that nothing more comes."""
        self.ended = True
        self.grant = _no_credit
        self._wake()

    def joined(self) -> bytes:
        """Return what is kept for the result."""
        if len(self.chunks) > 1:
            self.chunks = [b"".join(self.chunks)]
            for ref in self._cursors:
                if (cursor := ref()) is not None:
                    cursor.rebase()
        return self.chunks[0] if self.chunks else b""

    def give_credit(self) -> None:
        """Tell the sender how far the stream counts as read."""
        position = self.received
        if position > self.cap:
            for ref in self._cursors:
                cursor = ref()
                if cursor is not None and cursor.active and cursor.position < position:
                    position = cursor.position
        self.grant(position)

    def register(self, cursor: Cursor) -> None:
        """Count a reader in."""
        living = [ref for ref in self._cursors if ref() is not None]
        self._cursors = (*living, weakref.ref(cursor))

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    async def wait(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - a bound on waiting, not an error
        """Wait for news; False when `timeout` seconds passed first."""
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self._waiters.append(waiter)
        timer = None if timeout is None else self.loop.call_later(max(timeout, 0.0), _give_up, waiter)
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def _no_credit(_total: int) -> None:
    """Stand in until the process has started."""


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class Cursor:
    """One reader's place in an `OutputBuffer`."""

    def __init__(self, buffer: OutputBuffer) -> None:
        self.buffer = buffer
        self.position = 0
        self.active = False
        self.missed = False
        self.overflow: deque[bytes] = deque()
        self._index = 0
        self._skip = 0
        if buffer.received > buffer.kept:
            self.missed = True
        buffer.register(self)

    def activate(self) -> None:
        """Hold the sender back from now on for what is not kept."""
        self.active = True

    def deactivate(self) -> None:
        """Hold nothing back any more."""
        if self.active:
            self.active = False
            if self.overflow:
                self.overflow.clear()
                self.missed = True
            self.buffer.give_credit()

    def rebase(self) -> None:
        """Find the place again after the kept chunks were joined into one."""
        self._index, self._skip = (0, self.position) if self.position < self.buffer.kept else (1, 0)

    def take(self) -> bytes | None:
        """Return the next bytes, None when there are none yet, `b""` at the end.

        Raises:
            OutputLostError: Bytes between the kept ones and the next are gone.
        """
        buffer = self.buffer
        if self._index < len(buffer.chunks):
            chunk = buffer.chunks[self._index]
            self._index += 1
            if self._skip:
                chunk, self._skip = chunk[self._skip :], 0
            self.position += len(chunk)
            return chunk
        if self.missed:
            raise OutputLostError(
                f"{buffer.name} went on beyond max_output_bytes ({buffer.cap}) while nobody was reading it",
                stream=buffer.name,
                received=self.position,
                sent=buffer.received,
                sandbox_id=buffer.sandbox_id,
                hint="Iterate while the command runs, or raise max_output_bytes.",
            )
        if self.overflow:
            chunk = self.overflow.popleft()
            self.position += len(chunk)
            buffer.give_credit()
            return chunk
        if buffer.ended:
            if buffer.lost is not None:
                raise buffer.lost
            return b""
        return None


class ChunkSource:
    """Bytes as they came."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor

    async def next_items(self) -> list[bytes]:
        """Return the next pieces, `[]` at the end."""
        while (chunk := self.cursor.take()) is None:
            await self.cursor.buffer.wait(None)
        return [chunk] if chunk else []

    async def close(self) -> None:
        """Hold nothing: the process keeps its output."""


class LineSource:
    """Complete lines of text, and incomplete ones after a while."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = ""
        self._tail_since = 0.0
        self._finished = False

    async def next_items(self) -> list[str]:
        """Return the next lines, `[]` at the end."""
        while True:
            chunk = None if self._finished else self.cursor.take()
            if chunk is None:
                if self._finished:
                    return []
                if not await self.cursor.buffer.wait(self._patience()):
                    return [self._hand_on()]
                continue
            if not chunk:
                self._finished = True
            if lines := self._split(chunk):
                return lines

    async def close(self) -> None:
        """Hold nothing: the process keeps its output."""

    def _patience(self) -> float | None:
        if not self._tail:
            return None
        return LINE_PATIENCE - (self.cursor.buffer.loop.time() - self._tail_since)

    def _hand_on(self) -> str:
        piece, self._tail = self._tail, ""
        return piece

    def _split(self, chunk: bytes) -> list[str]:
        text = self._decoder.decode(chunk, final=self._finished)
        if "\n" not in text:
            if not self._tail:
                self._tail_since = self.cursor.buffer.loop.time()
            self._tail += text
            if self._tail and (self._finished or len(self._tail) >= LONGEST_PIECE):
                return [self._hand_on()]
            return []
        lines = io.StringIO(text, newline="\n").readlines()  # at this end of a line only, and faster than a split
        last = "" if lines[-1].endswith("\n") else lines.pop()
        lines[0] = self._tail + lines[0]
        self._tail, self._tail_since = last, self.cursor.buffer.loop.time()
        if self._finished and self._tail:
            lines.append(self._hand_on())
        return lines
