"""An agent that is an enemy: it answers as a script says, over a transport with no other end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from aviato.agent.channel import Channel
from aviato.agent.frames import (
    MAGIC,
    S_ERROR,
    S_EXIT,
    S_OFFSET,
    S_STARTED,
    S_WELCOME,
    WINDOW,
    FrameReader,
    FrameType,
    pack_frame,
    pack_strings,
)
from aviato.exceptions import SandboxLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

STREAM = 77
"""The command that is lied about; its neighbour, about which nothing is said, is one below."""


def frame(type_: int, *parts: bytes, stream: int = STREAM) -> bytes:
    """Pack a frame about the command."""
    return pack_frame(type_, stream, *parts)


def welcome(*facts: bytes, magic: bytes = MAGIC, version: int = 1) -> bytes:
    """Pack a welcome."""
    return pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(magic, version, 0), pack_strings(facts))


def out(offset: int, data: bytes, type_: int = FrameType.STDOUT, stream: int = STREAM) -> bytes:
    """Pack output."""
    return frame(type_, S_OFFSET.pack(offset), data, stream=stream)


def end(returncode: int = 0, signal: int = 0, flags: int = 0, out: int = 0, err: int = 0) -> bytes:
    """Pack an exit."""
    return frame(FrameType.EXIT, S_EXIT.pack(returncode, signal, flags, 1, out, err))


def error(number: int, *texts: bytes, stream: int = STREAM) -> bytes:
    """Pack an error."""
    return frame(FrameType.ERROR, S_ERROR.pack(number), pack_strings(texts), stream=stream)


WELCOME = welcome(b"3.11", b"x86_64")
STARTED = frame(FrameType.STARTED, S_STARTED.pack(5, 0))
FLOOD = b"".join(out(start, bytes(65536)) for start in range(0, 2 * WINDOW, 65536))


class Pipe(asyncio.Transport):
    """A transport with no other end; what the channel writes goes to a function."""

    def __init__(self, protocol: asyncio.Protocol, on_write: Callable[[Pipe, bytes], None]) -> None:
        super().__init__()
        self.protocol = protocol
        self.on_write = on_write
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand to the script, as another turn of the loop would."""
        asyncio.get_running_loop().call_soon(self.on_write, self, bytes(data))

    def abort(self) -> None:
        """Close."""
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def say(self, data: bytes) -> None:
        """Speak as the agent, through the buffer that a socket is read into and that is others' after that."""
        protocol = self.protocol
        assert isinstance(protocol, asyncio.BufferedProtocol)
        while data and not self.aborted:
            buffer = memoryview(protocol.get_buffer(-1)).cast("B")
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            buffer[:size] = bytes(size)
            data = data[size:]


class Streams(NamedTuple):
    """What the client has asked for, each by its stream."""

    command: int
    read: int
    write: int
    ping: int
    extend: int


class Enemy:
    """Answers the first hello, then every frame as the script says; refuses to be connected to again.

    Args:
        welcome: The answer to the hello.
        answers: By type of the client's frame.
        script: Called once, when a command, a read, a write, a ping and an extension have all been asked for.
    """

    def __init__(
        self,
        welcome: bytes = WELCOME,
        answers: dict[int, bytes] | None = None,
        script: Callable[[Pipe, Streams], None] | None = None,
    ) -> None:
        self.welcome = welcome
        self.answers = answers or {}
        self.script = script
        self.seen: dict[int, int] = {}
        self.reader = FrameReader()
        self.pipe: Pipe | None = None
        self.channel = Channel(self.connect, sandbox_id="sbx-enemy")

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect once; after that, the sandbox is lost as an engine would say."""
        if self.pipe is not None:
            raise SandboxLostError("only once")
        self.pipe = Pipe(protocol, self.on_write)
        protocol.connection_made(self.pipe)
        return self.pipe

    async def is_heard(self, operations: Sequence[Awaitable[object]]) -> None:
        """Wait until what was said has arrived: at once, where nothing is in between."""

    async def is_left(self) -> bool:
        """Tell whether the client has hung up."""
        return self.pipe is not None and self.pipe.aborted

    def on_write(self, pipe: Pipe, data: bytes) -> None:
        """Answer."""
        for type_, stream, _ in self.reader.feed(data):
            self.seen[type_] = stream
            answer = self.welcome if type_ == FrameType.HELLO else self.answers.get(type_)
            if answer is not None:
                pipe.say(answer)
        asked = (FrameType.START, FrameType.FILE_READ, FrameType.STDIN_EOF, FrameType.PING, FrameType.EXTEND)
        if self.script is not None and self.seen.keys() >= set(asked):
            script, self.script = self.script, None
            script(pipe, Streams(*(self.seen[kind] for kind in asked)))
