"""The stream of a command that runs by native execution: both outputs, their exact ends, and back-pressure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from aviato.engines.docker.hijack import ExecStream

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api

_FULL = 512 * 1024
_LOW = 128 * 1024
_BODY = json.dumps({"Detach": False, "Tty": False}).encode()


class Tank:
    """Bytes of one output that nobody has taken yet: a `Source` of `served_streams`."""

    def __init__(self) -> None:
        self.on_change: Callable[[], object] | None = None
        self.on_room: Callable[[], object] | None = None
        self.closed = False
        self._buffer = bytearray()
        self._discarding = False

    @property
    def held(self) -> int:
        """Bytes that can be taken now."""
        return len(self._buffer)

    @property
    def full(self) -> bool:
        """True when the stream is not to be read on."""
        return len(self._buffer) >= _FULL

    @property
    def low(self) -> bool:
        """True when it may be."""
        return len(self._buffer) <= _LOW

    @property
    def ended(self) -> bool:
        """True when nothing more can come."""
        return self.closed and not self._buffer

    def take(self, size: int) -> bytes:
        """Take what is there, at most `size` bytes."""
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        if data and self.on_room is not None:
            self.on_room()
        return data

    def put(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        if data and not self._discarding:
            self._buffer += data
            self._changed()

    def close(self) -> None:
        """Say that nothing more comes."""
        self.closed = True
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def discard(self) -> None:
        """Drop what is there and what comes."""
        self._discarding = True
        self._buffer.clear()
        if self.on_room is not None:
            self.on_room()


class Marked:
    """Cuts the wrapper's last line, behind its own word, from an output; what comes after that is dropped.

    Attributes:
        code: What the line says, None until it came.
    """

    def __init__(self, tank: Tank, nonce: bytes) -> None:
        self.code: int | None = None
        self._tank = tank
        self._mark = nonce + b" "
        self._tail = b""
        self._line: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.code is not None:
            return
        if self._line is None:
            data = self._tail + data if self._tail else data
            at = data.find(self._mark)
            if at < 0:
                kept = self._beginning(data)
                self._tail = data[len(data) - kept :]
                self._tank.put(memoryview(data)[: len(data) - kept])
                return
            self._tank.put(memoryview(data)[:at])
            self._tail, self._line, data = b"", b"", data[at + len(self._mark) :]
        self._line += data
        number, end, _ = self._line.partition(b"\n")
        if end:
            self.code = int(number) & 0xFF if number.isdigit() else 255

    def _beginning(self, data: bytes) -> int:
        """Count the bytes at the end that may be the beginning of the mark."""
        for size in range(min(len(self._mark) - 1, len(data)), 0, -1):
            if data.endswith(self._mark[:size]):
                return size
        return 0


class CommandStream(ExecStream):
    """The connection of one exec: what comes goes to `on_piece`, and its end to `on_over`.

    It is not read on while a tank is full, which the command feels; both outputs come over it, so one that nobody takes
    holds the other up.
    """

    def __init__(
        self,
        path: str,
        on_piece: Callable[[int, bytes], None],
        on_over: Callable[[bool], None],
        on_room: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(path, _BODY)
        self.can_write = True
        self._on_piece = on_piece
        self._on_over = on_over
        self._on_room = on_room
        self._held_up = False

    @classmethod
    async def start(
        cls,
        api: Api,
        exec_id: str,
        on_piece: Callable[[int, bytes], None],
        on_over: Callable[[bool], None],
        on_room: Callable[[], None] | None = None,
    ) -> CommandStream:
        """Start the exec.

        Raises:
            EngineResponseError: The daemon refused.
            EngineConnectionError: It cannot be reached, or hung up.
        """
        stream = cls(api.path(f"/exec/{exec_id}/start"), on_piece, on_over, on_room)
        await stream.begin(api)
        return stream

    def _take(self, data: bytes) -> None:
        self._on_piece(self._kind, data)

    def hold_up(self, *, wanted: bool) -> None:
        """Stop reading, or go on."""
        transport = self._transport
        if transport is None or wanted is self._held_up or transport.is_closing():
            return
        self._held_up = wanted
        if wanted:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def write_eof(self) -> None:
        """End the command's input."""
        transport = self._transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def pause_writing(self) -> None:
        """Let input wait."""
        self.can_write = False

    def resume_writing(self) -> None:
        """Let input go on."""
        self.can_write = True
        if self._on_room is not None:
            self._on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits; whole: nothing is known to be missing."""
        started = self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None
        whole = exc is None and not self._left and not self._piece_head
        super().connection_lost(exc)
        if started:
            self._on_over(whole)
        else:
            asyncio.get_running_loop().call_soon(self._consume)

    def _consume(self) -> None:
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()  # whoever opened it has seen it
