"""The agent's side of the protocol for agents that live in the client: connections, and frames to what they are about.

The engine in memory has such an agent, and containers whose image cannot run the real one. `served_streams` holds the
commands and their output; what a command or a file is belongs to each agent.
"""

from __future__ import annotations

import abc
import asyncio
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import Any, Protocol

from aviato.agent.frames import (
    MAGIC,
    S_ATTACH,
    S_CLOSING,
    S_CREDIT,
    S_ERROR,
    S_HELLO,
    S_MILLISECONDS,
    S_SIGNAL,
    S_START,
    S_WELCOME,
    VERSION_MAX,
    CloseReason,
    Frame,
    FrameReader,
    FrameType,
    pack_frame,
    pack_strings,
    unpack_strings,
)
from aviato.agent.served_streams import ServedCommand
from aviato.exceptions import AgentProtocolError

_SIGNALS = 64
_PING_MAX = 64
_MESSAGE_BYTES = 4096


class ServedStream(Protocol):
    """What a client has opened: a command, or a file on its way."""

    connection: AgentConnection | None

    def pump(self) -> None:
        """Move everything that can move."""

    def take_input(self, payload: bytes, *, end: bool) -> None:
        """Take STDIN or STDIN_EOF."""

    def credit(self, which: int, limit: int, /) -> None:
        """Take CREDIT."""

    def detach(self) -> None:
        """The client is gone."""

    def release(self) -> None:
        """The client wants no more of it."""


class AgentConnection(asyncio.Protocol):
    """One client; what it sends wrong closes its connection."""

    def __init__(self, agent: ServedAgent) -> None:
        self.agent = agent
        self.streams: dict[int, ServedStream] = {}
        self.transport: asyncio.Transport | None = None
        self.blocked = False
        self._ready = False
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream
        self.transport = transport
        self.agent.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Act on frames."""
        try:
            for frame in self._reader.feed(data):
                if self.transport is None or self.transport.is_closing():
                    return
                if self._ready:
                    self.agent.dispatch(self, frame)
                else:
                    self._hello(frame)
        except (AgentProtocolError, struct.error):
            self.close()

    def _hello(self, frame: Frame) -> None:
        if frame.type != FrameType.HELLO:
            raise AgentProtocolError("no hello")
        magic, low, high = S_HELLO.unpack(frame.payload)
        if magic != MAGIC:
            raise AgentProtocolError("not an aviato client")
        if not low <= VERSION_MAX <= high:
            self.error(0, errno.EPROTO, f"this agent speaks version {VERSION_MAX}, not {low} to {high}")
            self.close()
            return
        self._ready = True
        facts = [sys.version.split()[0].encode(), platform.machine().encode()]
        self.send(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, VERSION_MAX, 0), pack_strings(facts))

    def send(self, type_: int, stream: int, *payload: bytes) -> None:
        """Send a frame."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(pack_frame(type_, stream, *payload))

    def say_closing(self, reason: CloseReason, code: int) -> None:
        """Tell the sandbox's end to a client that was welcomed; another one sees the connection close."""
        if self._ready:
            self.send(FrameType.CLOSING, 0, S_CLOSING.pack(reason, code))

    def error(self, stream: int, number: int, message: str) -> None:
        """Send an ERROR, which ends the stream."""
        self.send(
            FrameType.ERROR,
            stream,
            S_ERROR.pack(number),
            pack_strings([message.encode("utf-8", "replace")[:_MESSAGE_BYTES]]),
        )

    def pause_writing(self) -> None:
        """Let outputs wait."""
        self.blocked = True

    def resume_writing(self) -> None:
        """Let outputs go on."""
        self.blocked = False
        for stream in list(self.streams.values()):
            stream.pump()

    def close(self) -> None:
        """Close after what was sent."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; its commands stay, its file transfers are undone."""
        del exc
        self.transport = None
        self.agent.connections.discard(self)
        for stream in list(self.streams.values()):
            stream.detach()
        self.streams.clear()
        self.agent.left(self)


class ServedAgent(abc.ABC):
    """Serves the clients of one sandbox."""

    def __init__(
        self,
        command: Callable[[Any, AgentConnection, int, int, tuple[int, int]], ServedCommand],
        reading: Callable[[Any, AgentConnection, int, bytes], ServedStream],
        writing: Callable[[Any, AgentConnection, int, bytes], ServedStream],
    ) -> None:
        """Take what clients can open: each is made with this agent, the client, the stream, and what the client said.

        Args:
            command: Makes a command that is not started yet, from its flags and the limits of its outputs.
            reading: Begins to read a file.
            writing: Begins to write a file.
        """
        self.connections: set[AgentConnection] = set()
        self.streams: dict[int, ServedStream] = {}
        self._command, self._reading, self._writing = command, reading, writing

    @property
    @abc.abstractmethod
    def is_ending(self) -> bool:
        """True when nothing more may be started."""

    @abc.abstractmethod
    def touch(self) -> None:
        """Take note that something began or ended: whoever counts idle time wants to know."""

    @abc.abstractmethod
    def shut_down(self, grace_seconds: float) -> None:
        """End the sandbox."""

    @abc.abstractmethod
    def extend(self, connection: AgentConnection, stream: int, seconds: float) -> None:
        """Let the sandbox live longer, and answer with EXTENDED."""

    @property
    def busy(self) -> bool:
        """True while a command runs or a file is on its way."""
        return any(not isinstance(item, ServedCommand) or item.running for item in self.streams.values())

    def left(self, connection: AgentConnection) -> None:
        """Take note that a client has gone."""
        del connection
        self.touch()

    def dispatch(self, connection: AgentConnection, frame: Frame) -> None:  # noqa: C901, PLR0912 - one branch a frame type
        """Act on one frame.

        Raises:
            AgentProtocolError: The client may not send this.
            struct.error: The payload is malformed.
        """
        type_, stream, payload = frame
        item = connection.streams.get(stream)
        if type_ in (FrameType.START, FrameType.FILE_READ, FrameType.FILE_WRITE):
            if not stream:
                raise AgentProtocolError("stream 0 is the agent's own")
            try:
                self._open(connection, frame)
            except OSError as error:
                self.fail(connection, stream, error)
        elif type_ in (FrameType.STDIN, FrameType.STDIN_EOF):
            if item is not None:
                item.take_input(payload, end=type_ == FrameType.STDIN_EOF)
        elif type_ == FrameType.CREDIT:
            which, limit = S_CREDIT.unpack(payload)
            if item is not None:
                item.credit(which, limit)
        elif type_ == FrameType.ATTACH:
            values = S_ATTACH.unpack(payload)
            known = self.streams.get(stream)
            if isinstance(known, ServedCommand):
                known.attach(connection, values[:2], values[2:])
            else:
                connection.error(stream, errno.ESRCH, "the agent does not know this command")
        elif type_ == FrameType.SIGNAL:
            number, scope = S_SIGNAL.unpack(payload)
            if not 0 < number <= _SIGNALS or scope > 1:
                raise AgentProtocolError("no such signal")
            known = self.streams.get(stream)
            if isinstance(known, ServedCommand):
                known.signal(number, tree=scope == 1)
        elif type_ == FrameType.RELEASE:
            if item is not None:
                item.release()
                self.touch()
        else:
            self._control(connection, frame)

    def _control(self, connection: AgentConnection, frame: Frame) -> None:
        type_, stream, payload = frame
        if type_ == FrameType.PING:
            if len(payload) > _PING_MAX:
                raise AgentProtocolError("ping too long")
            connection.send(FrameType.PONG, stream, payload)
        elif type_ == FrameType.SHUTDOWN:
            (grace,) = S_MILLISECONDS.unpack(payload)
            self.shut_down(grace / 1000)
        elif type_ == FrameType.EXTEND:
            (left,) = S_MILLISECONDS.unpack(payload)
            self.extend(connection, stream, left / 1000)
        else:
            raise AgentProtocolError("unknown frame")

    def fail(self, connection: AgentConnection, stream: int, error: OSError) -> None:
        """Answer with ERROR and forget the stream."""
        item = self.streams.get(stream)
        if item is not None and item.connection is connection:
            item.release()
        connection.error(stream, error.errno or errno.EIO, error.strerror or str(error))
        self.touch()

    def _open(self, connection: AgentConnection, frame: Frame) -> None:
        type_, stream, payload = frame
        known = self.streams.get(stream)
        if known is not None:
            if type_ != FrameType.START or not isinstance(known, ServedCommand):
                raise OSError(errno.EEXIST, "the stream is in use")
            known.attach(connection, (0, 0), S_START.unpack_from(payload)[2:])
            return
        if self.is_ending:
            raise OSError(errno.ESHUTDOWN, "the sandbox is stopping")
        item: ServedStream
        if type_ == FrameType.START:
            flags, timeout_ms, *limits = S_START.unpack_from(payload)
            argv, offset = unpack_strings(payload, S_START.size)
            env, offset = unpack_strings(payload, offset)
            options, offset = unpack_strings(payload, offset)
            if offset != len(payload):
                raise AgentProtocolError("start with more than a command")
            if not argv or not argv[0] or len(options) != 2:  # noqa: PLR2004 - directory and user
                raise OSError(errno.EINVAL, "a command needs a name")
            cwd, user = options
            item = command = self._command(self, connection, stream, flags, (limits[0], limits[1]))
            command.start(_texts(argv), _texts(env), os.fsdecode(cwd), os.fsdecode(user), timeout_ms)
        elif type_ == FrameType.FILE_READ:
            item = self._reading(self, connection, stream, payload)
        else:
            item = self._writing(self, connection, stream, payload)
        self.streams[stream] = connection.streams[stream] = item
        item.pump()
        self.touch()

    def say_closing(self, reason: CloseReason, code: int) -> None:
        """Tell the clients the end, and close."""
        for connection in list(self.connections):
            connection.say_closing(reason, code)
            connection.close()


def _texts(items: list[bytes]) -> list[str]:
    return [os.fsdecode(item) for item in items]
