"""The transports in memory keep asyncio's contract: order, flow control, half-close, abort."""

from __future__ import annotations

import asyncio

from aviato.agent.memory import MemoryTransport, connect_in_memory


class Recorder(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.events: list[str] = []
        self.data = b""
        self.lost = asyncio.Event()
        self.eof = asyncio.Event()
        self.transport: MemoryTransport | None = None
        self._keep_open = keep_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note it."""
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.data += data

    def eof_received(self) -> bool:
        """Note it."""
        self.events.append("eof")
        self.eof.set()
        return self._keep_open

    def pause_writing(self) -> None:
        """Note it."""
        self.events.append("pause")

    def resume_writing(self) -> None:
        """Note it."""
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.events.append(f"lost {type(exc).__name__}")
        self.lost.set()


async def test_bytes_arrive_in_order_and_close_waits_for_them() -> None:
    """Closing delivers what was written; both sides hear of the end once."""
    client, server = Recorder(), Recorder()
    near = connect_in_memory(client, server)
    pieces = [bytes([n]) * 50_000 for n in range(20)]
    near.writelines(pieces)
    near.close()
    near.write(b"late")
    await asyncio.gather(client.lost.wait(), server.lost.wait())
    assert server.data == b"".join(pieces)
    assert client.events[-1] == server.events[-1] == "lost NoneType"
    assert server.events.count("eof") == 1


async def test_a_reader_that_pauses_is_felt_by_the_writer() -> None:
    """The writer is told to pause, and to go on when the reader does."""
    client, server = Recorder(), Recorder()
    near = connect_in_memory(client, server)
    assert server.transport is not None
    server.transport.pause_reading()
    near.write(bytes(1_000_000))
    await asyncio.sleep(0)
    assert client.events == ["pause"]
    assert near.get_write_buffer_size() == 1_000_000
    assert server.data == b""
    server.transport.resume_reading()
    near.close()
    await server.lost.wait()
    assert client.events[:2] == ["pause", "resume"]
    assert len(server.data) == 1_000_000


async def test_half_close_leaves_the_other_way_open() -> None:
    """After write_eof the other side can still write."""
    client, server = Recorder(), Recorder(keep_open=True)
    near = connect_in_memory(client, server)
    near.write(b"question")
    near.write_eof()
    await server.eof.wait()
    assert server.transport is not None
    server.transport.write(b"answer")
    server.transport.close()
    await client.lost.wait()
    assert (server.data, client.data) == (b"question", b"answer")


async def test_abort_drops_what_was_not_delivered() -> None:
    """Both sides end, nothing more arrives."""
    client, server = Recorder(), Recorder()
    near = connect_in_memory(client, server)
    near.write(b"never")
    near.abort()
    await asyncio.gather(client.lost.wait(), server.lost.wait())
    assert server.data == b""
    assert near.is_closing()


async def test_breaking_off_is_an_error_on_both_sides() -> None:
    """As when a network fails."""
    client, server = Recorder(), Recorder()
    connect_in_memory(client, server).break_off(ConnectionResetError("gone"))
    await asyncio.gather(client.lost.wait(), server.lost.wait())
    assert client.events == server.events == ["lost ConnectionResetError"]
