"""Commands of an agent that lives in the client: output by credit, input with acknowledgements, an exact end."""

from __future__ import annotations

import abc
import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from aviato.agent.frames import (
    DATA_CHUNK,
    S_CREDIT,
    S_EXIT,
    S_OFFSET,
    S_STARTED,
    STDIN_WINDOW,
    WINDOW,
    FrameType,
    StartFlags,
    Which,
)
from aviato.exceptions import AgentProtocolError

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection, ServedAgent


class Source(Protocol):
    """Where the bytes of an output come from.

    Attributes:
        on_change: Called, if set, when bytes or the end have come.
    """

    on_change: Callable[[], object] | None

    @property
    @abc.abstractmethod
    def held(self) -> int:
        """Bytes that can be taken now."""

    @property
    @abc.abstractmethod
    def ended(self) -> bool:
        """True when nothing more can come."""

    @abc.abstractmethod
    def take(self, size: int) -> bytes:
        """Take what is there, at most `size` bytes."""

    def discard(self) -> None:
        """Drop what is there and what comes."""


class Output:
    """One output: what the client may still be sent, and what is kept until it was consumed."""

    def __init__(self, command: ServedCommand, which: Which, limit: int, source: Source) -> None:
        self.source = source
        self.ended = False
        self.total = 0
        self._command = command
        self._which = which
        self._type = FrameType.STDOUT if which is Which.STDOUT else FrameType.STDERR
        self._limit = limit
        self._sent = self._base = 0
        self._kept: deque[bytes] = deque()
        self._again: deque[bytes] = deque()
        self._budget = -1
        self._scheduled = False
        self.source.on_change = self._schedule

    @property
    def finished(self) -> bool:
        """True when all was sent."""
        return self.ended and not self._again

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Send what credit and the connection allow."""
        self._scheduled = False
        command = self._command
        while (connection := command.connection) is not None and not connection.blocked:
            room = min(self._limit - self._sent, DATA_CHUNK)
            if self._again and room > 0:
                chunk = self._again.popleft()
                if len(chunk) > room:
                    self._again.appendleft(chunk[room:])
                    chunk = chunk[:room]
            elif self._again or self.ended:
                break
            else:
                if self._budget >= 0:
                    room = min(room, self._budget)
                chunk = self.source.take(room) if room > 0 else b""
                if not chunk:
                    if self._budget == 0 or self.source.ended:
                        self._finish()
                    break
                self.total += len(chunk)
                self._kept.append(chunk)
                if self._budget >= 0:
                    self._budget -= len(chunk)
            connection.send(self._type, command.stream, S_OFFSET.pack(self._sent), chunk)
            self._sent += len(chunk)
        command.settle()

    def _finish(self) -> None:
        self.ended = True
        self.source.on_change = None
        self.source.discard()

    def drain(self) -> None:
        """Keep what the pipe holds at the command's end, and drop what those left behind write later."""
        if self._budget < 0:
            self._budget = self.source.held
            self._schedule()

    def drop(self) -> None:
        """Forget all of it."""
        self._kept.clear()
        self._again.clear()
        self._finish()

    def credit(self, limit: int) -> None:
        """Take a new limit, which says what was consumed."""
        if limit > self._limit:
            self._limit = limit
            while self._kept and self._base + len(self._kept[0]) <= limit - WINDOW:
                self._base += len(self._kept.popleft())
            self.pump()

    def resume(self, connection: AgentConnection, offset: int, limit: int) -> None:
        """Go on from `offset`; say so when that is no longer there.

        Raises:
            AgentProtocolError: The offset is behind the end.
        """
        if offset > self.total:
            raise AgentProtocolError("attached behind the end of the output")
        if offset < self._base:
            connection.send(FrameType.GAP, self._command.stream, S_CREDIT.pack(self._which, self._base))
            offset = self._base
        self._limit = max(limit, offset)
        self._sent = offset
        self._again.clear()
        position = self._base
        for chunk in self._kept:
            end = position + len(chunk)
            if end > offset:
                self._again.append(chunk[max(0, offset - position) :])
            position = end


class Input:
    """Bytes on their way in; offsets make repeated frames harmless."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.received = self.accepted = self.acknowledged = 0
        self.ended = False

    def take(self, payload: bytes) -> None:
        """Take STDIN.

        Raises:
            AgentProtocolError: It leaves a gap, or goes beyond the end or the window.
        """
        (offset,) = S_OFFSET.unpack_from(payload)
        if offset > self.received:
            raise AgentProtocolError("input is not continuous")
        fresh = payload[S_OFFSET.size + self.received - offset :]
        if fresh:
            if self.ended or self.received + len(fresh) - self.accepted > STDIN_WINDOW:
                raise AgentProtocolError("input beyond its end or its window")
            self.waiting.append(fresh)
            self.received += len(fresh)

    def end(self, payload: bytes) -> None:
        """Take STDIN_EOF.

        Raises:
            AgentProtocolError: Another length was sent.
        """
        if S_OFFSET.unpack(payload)[0] != self.received:
            raise AgentProtocolError("input ended at another length than was sent")
        self.ended = True


class ServedCommand(abc.ABC):
    """A command that a client asked for, until the client releases it."""

    def __init__(  # noqa: PLR0917 - what START says, and where the output comes from
        self,
        agent: ServedAgent,
        connection: AgentConnection,
        stream: int,
        flags: int,
        limits: tuple[int, int],
        sources: tuple[Source, Source],
    ) -> None:
        self.connection: AgentConnection | None = connection
        self.stream = stream
        self.outputs = (
            Output(self, Which.STDOUT, limits[0], sources[0]),
            Output(self, Which.STDERR, limits[1], sources[1]),
        )
        self._served = agent
        self._input = Input() if flags & StartFlags.STDIN else None
        self._status: tuple[int, int] | None = None
        self._flags = 0
        self._told = False
        self._input_refused = False
        self._began = time.monotonic()
        self._duration_us = 0

    @property
    def running(self) -> bool:
        """True until the command ended."""
        return self._status is None

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Its number inside the sandbox, 0 until it is known."""

    @abc.abstractmethod
    def start(self, argv: list[str], env: list[str], cwd: str, user: str, timeout_ms: int) -> None:
        """Start it.

        Raises:
            OSError: It cannot be tried.
        """

    @abc.abstractmethod
    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal to the command, or to all it started."""

    @abc.abstractmethod
    def _move_input(self) -> None:
        """Hand on what came in."""

    @abc.abstractmethod
    def _close_input(self) -> None:
        """Take no more input."""

    @property
    def may_tell_its_end(self) -> bool:
        """False while its end is kept back."""
        return True

    def _say_started(self) -> None:
        if self.connection is not None and self.pid:
            accepted = 0
            if self._input is not None:
                accepted = self._input.acknowledged = self._input.accepted
            self.connection.send(FrameType.STARTED, self.stream, S_STARTED.pack(self.pid, accepted))

    def attach(self, connection: AgentConnection, offsets: tuple[int, ...], limits: tuple[int, ...]) -> None:
        """Go on with a client that holds the output up to `offsets`.

        Raises:
            AgentProtocolError: An offset is behind the end.
        """
        if self.connection is not None and self.connection is not connection:
            self.connection.streams.pop(self.stream, None)
        self.connection = connection
        self._told = False
        connection.streams[self.stream] = self
        if self._input_refused:
            connection.send(FrameType.STDIN_CLOSED, self.stream)
        self._say_started()
        for output, offset, limit in zip(self.outputs, offsets, limits, strict=True):
            output.resume(connection, offset, limit)
        self.pump()

    def pump(self) -> None:
        """Move everything that can move."""
        for output in self.outputs:
            output.pump()

    def take_input(self, payload: bytes, *, end: bool) -> None:
        """Take STDIN or STDIN_EOF.

        Raises:
            AgentProtocolError: The command has no input, or it is not continuous.
        """
        if self._input is None:
            raise AgentProtocolError("input for a command without")
        if end:
            self._input.end(payload)
        else:
            self._input.take(payload)
        self._move_input()

    def _accept_input(self) -> None:
        """Acknowledge what was handed on."""
        source = self._input
        if source is not None and source.accepted != source.acknowledged and self.connection is not None:
            source.acknowledged = source.accepted
            self.connection.send(FrameType.ACK, self.stream, S_OFFSET.pack(source.accepted))

    def _refuse_input(self) -> None:
        """Tell that the command takes no more."""
        self._close_input()
        self._input_refused = True
        if self.connection is not None:
            self.connection.send(FrameType.STDIN_CLOSED, self.stream)

    def credit(self, which: int, limit: int) -> None:
        """Take CREDIT.

        Raises:
            AgentProtocolError: There is no such output.
        """
        if which not in (Which.STDOUT, Which.STDERR):
            raise AgentProtocolError("credit for an unknown output")
        self.outputs[which - 1].credit(limit)

    def _ended(self, code: int, number: int) -> None:
        self._status = (code, number)
        self._duration_us = int((time.monotonic() - self._began) * 1e6)
        self._close_input()
        for output in self.outputs:
            output.drain()
        self._served.touch()

    def settle(self) -> None:
        """Tell the end when all is said."""
        if self._status is None or self._told or self.connection is None or not self.may_tell_its_end:
            return
        out, err = self.outputs
        if out.finished and err.finished:
            self._told = True
            code, number = self._status
            status = S_EXIT.pack(code, number, self._flags, self._duration_us, out.total, err.total)
            self.connection.send(FrameType.EXIT, self.stream, status)

    def detach(self) -> None:
        """Let the output wait until a client comes back."""
        self.connection = None

    def release(self) -> None:
        """Forget it; if it runs it goes on, and what it writes is dropped."""
        if self.connection is not None:
            self.connection.streams.pop(self.stream, None)
            self.connection = None
        self._served.streams.pop(self.stream, None)
        self._close_input()
        for output in self.outputs:
            output.drop()
