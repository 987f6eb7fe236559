"""File transfers of a fake sandbox."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
from typing import TYPE_CHECKING

from aviato.agent.frames import (
    DATA_CHUNK,
    S_FILE_READ,
    S_FILE_WRITE,
    S_OFFSET,
    FrameType,
    WriteFlags,
    unpack_strings,
)
from aviato.agent.served_streams import Input
from aviato.exceptions import AgentProtocolError
from aviato.testing._files import Node, failure

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection
    from aviato.testing._agent import FakeAgent


def _path(payload: bytes, offset: int) -> str:
    texts, end = unpack_strings(payload, offset)
    if end != len(payload) or len(texts) != 1:
        raise AgentProtocolError("a transfer needs one path")
    return os.fsdecode(texts[0])


def _check_regular(node: Node, path: str) -> None:
    if node.entries is not None:
        raise failure(errno.EISDIR, path)
    if node.device:
        raise OSError(errno.EINVAL, "is not a regular file")


class Reading:
    """A file on its way to the client, a chunk for each turn of the loop."""

    def __init__(self, agent: FakeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        self.agent = agent
        self.connection: AgentConnection | None = connection
        self.stream = stream
        self._offset, length, self._limit = S_FILE_READ.unpack_from(payload)
        path = _path(payload, S_FILE_READ.size)
        self._node = agent.sandbox.kernel.files.node(path, agent.sandbox.cwd)
        _check_regular(self._node, path)
        self._end = self._offset + length
        self._scheduled = False

    def pump(self) -> None:
        """Go on soon."""
        if not self._scheduled and self.connection is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        connection = self.connection
        if connection is None or connection.blocked:
            return
        room = min(self._limit, self._end) - self._offset
        if room <= 0 and self._offset < self._end:
            return
        chunk = bytes(self._node.data[self._offset : self._offset + min(room, DATA_CHUNK)]) if room > 0 else b""
        if chunk:
            connection.send(FrameType.STDOUT, self.stream, S_OFFSET.pack(self._offset), chunk)
            self._offset += len(chunk)
            self.pump()
        else:
            connection.send(FrameType.FILE_END, self.stream, S_OFFSET.pack(self._offset))
            self.release()
            self.agent.sandbox.touch()

    def take_input(self, payload: bytes, *, end: bool) -> None:
        """Refuse input.

        Raises:
            AgentProtocolError: Always.
        """
        del payload, end
        raise AgentProtocolError("input for a file that is read")

    def credit(self, _which: int, limit: int) -> None:
        """Take CREDIT."""
        self._limit = max(self._limit, limit)
        self.pump()

    def release(self) -> None:
        """End the transfer."""
        if self.connection is not None:
            self.connection.streams.pop(self.stream, None)
            self.connection = None
        self.agent.streams.pop(self.stream, None)

    detach = release


class Writing:
    """A file on its way from the client; with ATOMIC the name shows the whole content or the old one."""

    def __init__(self, agent: FakeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        self.agent = agent
        self.connection: AgentConnection | None = connection
        self.stream = stream
        self._flags, mode = S_FILE_WRITE.unpack_from(payload)
        self._path = _path(payload, S_FILE_WRITE.size)
        self._input = Input()
        self._content = bytearray()
        self._mode = mode & 0o7777
        files, cwd = agent.sandbox.kernel.files, agent.sandbox.cwd
        if self._flags & WriteFlags.PARENTS:
            files.make_dirs(posixpath.dirname(posixpath.join(cwd, self._path)))
        try:
            node = files.node(self._path, cwd)
        except FileNotFoundError:
            node = None
            if self._path.endswith("/"):
                raise
            files.node(posixpath.dirname(posixpath.join(cwd, self._path)))
        if node is not None:
            _check_regular(node, self._path)
            if node.readonly:
                raise failure(errno.EROFS, self._path)
        if not self._flags & WriteFlags.ATOMIC:
            self._place()

    def _place(self) -> None:
        files, cwd = self.agent.sandbox.kernel.files, self.agent.sandbox.cwd
        existed = files.exists(self._path, cwd)
        node = files.create(self._path, cwd, mode=self._mode)
        if not existed:
            node.mode = self._mode
        node.data[:] = self._content
        if not self._flags & WriteFlags.ATOMIC:
            self._content = node.data

    def pump(self) -> None:
        """Nothing waits here."""

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
        while source.waiting:
            chunk = source.waiting.popleft()
            self._content += chunk
            source.accepted += len(chunk)
        connection = self.connection
        if connection is None:
            return
        if source.acknowledged != source.accepted:
            source.acknowledged = source.accepted
            connection.send(FrameType.ACK, self.stream, S_OFFSET.pack(source.accepted))
        if source.ended:
            try:
                if self._flags & WriteFlags.ATOMIC:
                    self._place()
            except OSError as error:
                self.agent.fail(connection, self.stream, error)
                return
            connection.send(FrameType.FILE_END, self.stream, S_OFFSET.pack(source.accepted))
            self.release()
            self.agent.sandbox.touch()

    def credit(self, _which: int, _limit: int) -> None:
        """Refuse CREDIT.

        Raises:
            AgentProtocolError: Always.
        """
        raise AgentProtocolError("credit for a file that is written")

    def release(self) -> None:
        """End the transfer; without ATOMIC what came stays."""
        if self.connection is not None:
            self.connection.streams.pop(self.stream, None)
            self.connection = None
        self.agent.streams.pop(self.stream, None)

    detach = release
