"""File transfers of a fake sandbox."""

from __future__ import annotations

import asyncio
import errno
import posixpath
from typing import TYPE_CHECKING

from aviato.agent.frames import DATA_CHUNK, WriteFlags
from aviato.agent.served_files import ServedReading, ServedWriting
from aviato.testing._files import Node, failure

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection
    from aviato.testing._agent import FakeAgent


def _check_regular(node: Node, path: str) -> None:
    if node.entries is not None:
        raise failure(errno.EISDIR, path)
    if node.device:
        raise OSError(errno.EINVAL, "is not a regular file")


class Reading(ServedReading):
    """A file on its way to the client, a chunk for each turn of the loop."""

    def __init__(self, agent: FakeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        self._node = agent.sandbox.kernel.files.node(self.path, agent.sandbox.cwd)
        _check_regular(self._node, self.path)
        self._scheduled = False

    def pump(self) -> None:
        """Go on soon."""
        if not self._scheduled and self.connection is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self.connection is None or self.connection.blocked:
            return
        room = min(self.limit, self.end) - self.offset
        if room <= 0 and self.offset < self.end:
            return
        chunk = bytes(self._node.data[self.offset : self.offset + min(room, DATA_CHUNK)]) if room > 0 else b""
        if chunk:
            self._deliver(chunk)
            self.pump()
        else:
            self._complete(self.offset)


class Writing(ServedWriting):
    """A file on its way from the client; with ATOMIC the name shows the whole content or the old one.

    Without ATOMIC what came stays when the transfer ends early.
    """

    def __init__(self, agent: FakeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        self._content = bytearray()
        self._files, self._cwd = agent.sandbox.kernel.files, agent.sandbox.cwd
        folder = posixpath.dirname(posixpath.join(self._cwd, self.path))
        if self.flags & WriteFlags.PARENTS:
            self._files.make_dirs(folder)
        try:
            node = self._files.node(self.path, self._cwd)
        except FileNotFoundError:
            node = None
            if self.path.endswith("/"):
                raise
            self._files.node(folder)
        if node is not None:
            _check_regular(node, self.path)
            if node.readonly:
                raise failure(errno.EROFS, self.path)
        if not self.flags & WriteFlags.ATOMIC:
            self._place()

    def _place(self) -> None:
        existed = self._files.exists(self.path, self._cwd)
        node = self._files.create(self.path, self._cwd, mode=self.mode)
        if not existed:
            node.mode = self.mode
        node.data[:] = self._content
        if not self.flags & WriteFlags.ATOMIC:
            self._content = node.data

    def pump(self) -> None:
        """Nothing waits here."""

    def _keep(self, chunk: bytes) -> None:
        self._content += chunk

    def _finish(self) -> None:
        if self.flags & WriteFlags.ATOMIC:
            self._place()
        self._complete(self._input.accepted)
