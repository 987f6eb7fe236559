"""Files on their way, of an agent that lives in the client: what every such transfer takes, says and refuses."""

from __future__ import annotations

import abc
import os
import struct
from typing import TYPE_CHECKING, ClassVar

from aviato.agent.frames import S_FILE_READ, S_FILE_WRITE, S_OFFSET, FrameType, unpack_strings
from aviato.agent.served_streams import Input
from aviato.exceptions import AgentProtocolError

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection, ServedAgent


class ServedTransfer(abc.ABC):
    """A file on its way, until it is there or its client is gone.

    Attributes:
        HEAD: What the client's frame says before the path.
        head: What it said there.
        connection: The client, None when there is nobody to be told anything.
        path: As the client names it.
    """

    HEAD: ClassVar[struct.Struct]

    def __init__(self, agent: ServedAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        self.head = self.HEAD.unpack_from(payload)
        texts, end = unpack_strings(payload, self.HEAD.size)
        if end != len(payload) or len(texts) != 1:
            raise AgentProtocolError("a transfer needs one path")
        self.connection: AgentConnection | None = connection
        self.stream = stream
        self.path = os.fsdecode(texts[0])
        self._served = agent

    @abc.abstractmethod
    def pump(self) -> None:
        """Move everything that can move."""

    def _send(self, type_: FrameType, *payload: bytes) -> None:
        if self.connection is not None:
            self.connection.send(type_, self.stream, *payload)

    def _fail(self, error: OSError) -> None:
        if self.connection is not None:
            self._served.fail(self.connection, self.stream, error)

    def _complete(self, size: int) -> None:
        """Tell that all of it, so many bytes, is there, and end."""
        self._send(FrameType.FILE_END, S_OFFSET.pack(size))
        self.release()

    def detach(self) -> None:
        """End the transfer, since the client is gone."""
        self.release()

    def release(self) -> None:
        """End the transfer."""
        if self.connection is not None:
            self.connection.streams.pop(self.stream, None)
            self.connection = None
        self._served.streams.pop(self.stream, None)
        self._served.touch()


class ServedReading(ServedTransfer):
    """A file on its way to the client, as far as its credit goes.

    Attributes:
        offset: Where the next byte that is sent stands in the file.
        end: Where the part that the client wants ends.
        limit: How far its credit goes.
    """

    HEAD = S_FILE_READ

    def __init__(self, agent: ServedAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        self.offset, length, self.limit = self.head
        self.end = self.offset + length

    def _deliver(self, chunk: bytes) -> None:
        """Send the next bytes."""
        self._send(FrameType.STDOUT, S_OFFSET.pack(self.offset), chunk)
        self.offset += len(chunk)

    def take_input(self, payload: bytes, *, end: bool) -> None:
        """Refuse input.

        Raises:
            AgentProtocolError: Always.
        """
        del payload, end
        raise AgentProtocolError("input for a file that is read")

    def credit(self, _which: int, limit: int) -> None:
        """Take CREDIT."""
        self.limit = max(self.limit, limit)
        self.pump()


class ServedWriting(ServedTransfer):
    """A file on its way from the client.

    Attributes:
        flags: How it is written, `WriteFlags`.
        mode: Permissions of a new file.
    """

    HEAD = S_FILE_WRITE

    def __init__(self, agent: ServedAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        self.flags, mode = self.head
        self.mode = mode & 0o7777
        self._input = Input()

    @abc.abstractmethod
    def _keep(self, chunk: bytes) -> None:
        """Keep what came.

        Raises:
            OSError: It cannot be kept, which ends the transfer.
        """

    @abc.abstractmethod
    def _finish(self) -> None:
        """Act on the end of the content.

        Raises:
            OSError: The file cannot be put in place, which ends the transfer.
        """

    def take_input(self, payload: bytes, *, end: bool) -> None:
        """Take STDIN or STDIN_EOF.

        Raises:
            AgentProtocolError: It is not continuous.
        """
        source = self._input
        if end:
            source.end(payload)
        else:
            source.take(payload)
        try:
            while source.waiting:
                chunk = source.waiting.popleft()
                self._keep(chunk)
                source.accepted += len(chunk)
            if source.acknowledged != source.accepted:
                source.acknowledged = source.accepted
                self._send(FrameType.ACK, S_OFFSET.pack(source.accepted))
            if source.ended:
                self._finish()
        except OSError as error:
            self._fail(error)

    def credit(self, _which: int, _limit: int) -> None:
        """Refuse CREDIT.

        Raises:
            AgentProtocolError: Always.
        """
        raise AgentProtocolError("credit for a file that is written")
