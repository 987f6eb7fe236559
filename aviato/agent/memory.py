"""Two connected transports in memory, with the flow control and the ends of a socket's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

_HIGH = 256 * 1024
_LOW = 64 * 1024
_STEP = 256 * 1024


class MemoryTransport(asyncio.Transport):
    """One end; what is written here is given to the other end's protocol in a later turn of the loop."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"peername": "memory", "sockname": "memory"})
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._peer: MemoryTransport | None = None
        self._out: deque[bytes] = deque()
        self._size = 0
        self._high, self._low = _HIGH, _LOW
        self._scheduled = False
        self._writing_paused = False
        self._reading = True
        self._eof = False
        self._eof_told = False
        self._closing = False
        self._lost = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Tell whether it is closed or being closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Tell whether it delivers what comes."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`; the other end feels it as back-pressure."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading = True
        if self._peer is not None:
            self._peer._schedule()  # noqa: SLF001 - the other half of one thing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Choose when the protocol is told to pause and to go on."""
        self._high = (_HIGH if low is None else 4 * low) if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return low and high."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the bytes not delivered yet."""
        return self._size

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Queue bytes for the other end.

        Raises:
            RuntimeError: `write_eof` was called.
        """
        if self._eof:
            raise RuntimeError("cannot write after write_eof()")
        if not data or self._closing:
            return
        self._out.append(bytes(data))
        self._size += len(data)
        if self._size > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()
        self._schedule()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Queue several pieces."""
        for piece in list_of_data:
            self.write(piece)

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Tell the other end, after what was written, that nothing more comes."""
        self._eof = True
        self._schedule()

    def close(self) -> None:
        """Close after what was written is delivered."""
        if not self._closing:
            self._closing = True
            self._schedule()

    def abort(self) -> None:
        """Close at once; what is not delivered is dropped."""
        self._closing = True
        self._out.clear()
        self._size = 0
        self._end(None)

    def break_off(self, error: Exception) -> None:
        """Let both protocols see the connection lost to `error`."""
        peer = self._peer
        self._end(error)
        if peer is not None:
            peer._end(error)  # noqa: SLF001 - the other half of one thing

    def _schedule(self) -> None:
        if not self._scheduled and not self._lost and not self._loop.is_closed():
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        peer = self._peer
        if self._lost:
            return
        if peer is None or peer._lost:  # noqa: SLF001 - the other half of one thing
            self._end(None)
            return
        if self._out and not peer._reading and not peer._closing:  # noqa: SLF001 - likewise
            return
        taken: list[bytes] = []
        size = 0
        while self._out and size < _STEP:
            taken.append(self._out.popleft())
            size += len(taken[-1])
        self._size -= size
        if taken and not peer._closing:  # noqa: SLF001 - likewise
            protocol = peer._protocol  # noqa: SLF001 - likewise
            assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - a stream has stream protocols
            protocol.data_received(taken[0] if len(taken) == 1 else b"".join(taken))
        if self._writing_paused and self._size <= self._low and not self._lost:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._out:
            self._schedule()
        elif self._closing:
            self._end(None)
        elif self._eof and not self._eof_told:
            self._eof_told = True
            peer._on_eof()  # noqa: SLF001 - likewise

    def _on_eof(self) -> None:
        if self._closing:
            return
        protocol = self._protocol
        assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - a stream has stream protocols
        if not protocol.eof_received():
            self.close()

    def _end(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._out.clear()
        self._size = 0
        if self._loop.is_closed():
            return
        self._loop.call_soon(self._protocol.connection_lost, error)
        peer = self._peer
        if peer is not None and not peer._lost:  # noqa: SLF001 - the other half of one thing
            self._loop.call_soon(peer._hang_up)  # noqa: SLF001 - likewise

    def _hang_up(self) -> None:
        """See the other end closed: no more comes, and nothing written arrives."""
        if not self._lost:
            if not self._eof_told:
                self._on_eof()
            self._end(None)


def connect_in_memory(client: asyncio.Protocol, server: asyncio.Protocol) -> MemoryTransport:
    """Connect two protocols; give the client's transport.

    `connection_made` of both has been called when this returns.
    """
    near, far = MemoryTransport(client), MemoryTransport(server)
    near._peer, far._peer = far, near  # noqa: SLF001 - made here
    server.connection_made(far)
    client.connection_made(near)
    return near
