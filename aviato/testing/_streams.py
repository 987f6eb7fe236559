"""Pipes and open files of fake processes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

from aviato.testing._files import FileSystem, Node, failure

CAPACITY = 64 * 1024
CHUNK = 64 * 1024


class Pipe:
    """Bytes from writers to readers, at most `CAPACITY` at a time.

    Attributes:
        on_change: Called, if set, in place of a reader when bytes or the last writer's end have come.
        on_room: Called, if set, in place of a writer when bytes were taken or the last reader has gone.
    """

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.readers = self.writers = 0
        self.discarding = False
        self.on_change: Callable[[], object] | None = None
        self.on_room: Callable[[], object] | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    @property
    def held(self) -> int:
        """Bytes that can be taken now."""
        return len(self.buffer)

    @property
    def ended(self) -> bool:
        """True when nothing more can come."""
        return not self.buffer and not self.writers

    def changed(self) -> None:
        """Wake whoever waits on either side."""
        for event in (self._readable, self._writable):
            event.set()
        for callback in (self.on_change, self.on_room):
            if callback is not None:
                callback()

    def take(self, size: int) -> bytes:
        """Take what is there, at most `size` bytes."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        if data:
            self._writable.set()
            if self.on_room is not None:
                self.on_room()
        return data

    def give(self, data: bytes | memoryview) -> int:
        """Put in what fits; give the number of bytes.

        Raises:
            BrokenPipeError: Nobody can read it.
        """
        if self.discarding:
            return len(data)
        if not self.readers:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        room = CAPACITY - len(self.buffer)
        if room <= 0:
            return 0
        self.buffer += data[:room]
        self._readable.set()
        if self.on_change is not None:
            self.on_change()
        return min(room, len(data))

    def discard(self) -> None:
        """Drop what is there and what comes, for the sake of writers left behind."""
        self.discarding = True
        self.buffer.clear()
        self.changed()

    async def read(self, size: int, *, line: bool = False) -> bytes:
        """Wait for bytes; at most `size`, with `line` not beyond a newline; empty at the end."""
        while not self.buffer:
            if not self.writers:
                return b""
            self._readable.clear()
            await self._readable.wait()
        if line:
            size = min(size, self.buffer.find(b"\n", 0, size) + 1 or size)
        return self.take(size)

    async def write(self, data: bytes) -> None:
        """Put all of it in, waiting for room.

        Raises:
            BrokenPipeError: Nobody can read it.
        """
        rest = memoryview(data)
        while rest:
            done = self.give(rest)
            rest = rest[done:]
            if self.discarding:
                await asyncio.sleep(0)
            elif rest:
                self._writable.clear()
                await self._writable.wait()


class Open:
    """An open file description; shared by `dup`, closed with its last holder."""

    def __init__(self) -> None:
        self._holders = 1

    def dup(self) -> Open:
        """Share it."""
        self._holders += 1
        return self

    def close(self) -> None:
        """Let go of it."""
        self._holders -= 1
        if self._holders == 0:
            self.last_close()

    def last_close(self) -> None:
        """Release what it stands for."""

    async def read(self, size: int) -> bytes:
        """Read at most `size` bytes, waiting for the first; empty at the end.

        Raises:
            OSError: It is not open for reading.
        """
        del size
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    async def read_line(self) -> bytes:
        """Read up to a newline and not a byte further; empty at the end.

        Raises:
            OSError: It is not open for reading.
        """
        parts: list[bytes] = []
        while piece := await self.read_line_piece():
            parts.append(piece)
            if piece.endswith(b"\n"):
                break
        return b"".join(parts)

    async def read_line_piece(self) -> bytes:
        """Read some of a line."""
        return await self.read(1)

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting for room.

        Raises:
            OSError: It is not open for writing, or nobody reads.
        """
        del data
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class PipeReader(Open):
    """The end of a pipe that is read."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe
        pipe.readers += 1

    def last_close(self) -> None:
        """Break the pipe for its writers."""
        self.pipe.readers -= 1
        self.pipe.changed()

    async def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        return await self.pipe.read(size)

    async def read_line_piece(self) -> bytes:
        """Read some of a line."""
        return await self.pipe.read(CHUNK, line=True)


class PipeWriter(Open):
    """The end of a pipe that is written."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe
        pipe.writers += 1

    def last_close(self) -> None:
        """Let the readers see the end."""
        self.pipe.writers -= 1
        self.pipe.changed()

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        await self.pipe.write(data)


class Sink(Open):
    """Hands what is written to a function."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        super().__init__()
        self._take = take

    async def write(self, data: bytes) -> None:
        """Hand it on."""
        self._take(data)
        await asyncio.sleep(0)  # a program that writes for ever must not hold the loop


class OpenNode(Open):
    """An open file or device."""

    def __init__(self, node: Node, *, read: bool, write: bool, append: bool = False) -> None:
        super().__init__()
        self.node = node
        self.offset = 0
        self._read, self._write, self._append = read, write, append

    async def read(self, size: int) -> bytes:
        """Read from the present offset."""
        await asyncio.sleep(0)
        return self.read_now(size)

    def read_now(self, size: int) -> bytes:
        """Read without waiting.

        Raises:
            OSError: It is not open for reading.
        """
        if not self._read:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.node.device:
            return bytes(min(size, CHUNK)) if self.node.device == "zero" else b""
        data = bytes(self.node.data[self.offset : self.offset + size])
        self.offset += len(data)
        return data

    async def read_line_piece(self) -> bytes:
        """Read some of a line."""
        end = self.node.data.find(b"\n", self.offset) + 1
        return await self.read((end or len(self.node.data)) - self.offset)

    async def write(self, data: bytes) -> None:
        """Write at the present offset, or at the end when appending."""
        await asyncio.sleep(0)  # a program that writes for ever must not hold the loop
        self.write_now(data)

    def write_now(self, data: bytes) -> None:
        """Write without waiting.

        Raises:
            OSError: It is not open for writing.
        """
        if not self._write:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.node.device:
            return
        content = self.node.data
        if self._append:
            self.offset = len(content)
        if self.offset > len(content):
            content += bytes(self.offset - len(content))
        content[self.offset : self.offset + len(data)] = data
        self.offset += len(data)


def open_file(
    files: FileSystem,
    path: str,
    cwd: str,
    *,
    read: bool = False,
    write: bool = False,
    append: bool = False,
    truncate: bool = False,
    exclusive: bool = False,
    create: bool = True,
    mode: int = 0o644,
) -> OpenNode:
    """Open a path.

    Raises:
        OSError: As `FileSystem.node` and `FileSystem.create`; EISDIR.
    """
    if write:
        if not create:
            files.node(path, cwd)
        node = files.create(path, cwd, mode=mode, exclusive=exclusive)
        if truncate:
            node.data.clear()
    else:
        node = files.node(path, cwd)
        if node.entries is not None:
            raise failure(errno.EISDIR, path)
    return OpenNode(node, read=read, write=write, append=append)
