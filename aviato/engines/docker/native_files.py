"""Files by the daemon's archive API: read as a tar of one entry, written as one beside the old file, and renamed.

Docker's archives do not show /proc, /sys and /dev of a container, and a write is atomic only where there is `mv`; the
errors say so. Content on its way in waits in a temporary file of the client, since a tar must say its size first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from typing import IO, TYPE_CHECKING, Any

from aviato.agent.frames import DATA_CHUNK, UNABLE, WriteFlags
from aviato.agent.served_files import ServedReading, ServedTransfer, ServedWriting
from aviato.engines.docker import native_scripts
from aviato.engines.docker.api import ApiError
from aviato.exceptions import EngineError

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection
    from aviato.engines.docker.native import NativeAgent

_IN_MEMORY = 1 << 20
_BLOCK = 512
_SLICE = 256 * 1024
_DIRECTORY, _LINK = 1 << 31, 1 << 27
_NO_REGULAR_FILE = _DIRECTORY | _LINK | 1 << 26 | 1 << 25 | 1 << 24
_UNSEEN = ("/proc", "/sys", "/dev")
_WRITE_SECONDS = 3600.0
_NOT_FOUND, _IS_DIRECTORY = 404, 21
_TAR = {"Content-Type": "application/x-tar"}
_ERRORS = {"Permission denied": errno.EACCES, "Read-only": errno.EROFS, "No space left": errno.ENOSPC}
_ERRORS |= {"Operation not permitted": errno.EPERM, "not permitted": errno.EPERM, "read-only": errno.EROFS}
_ERRORS |= {"no space left": errno.ENOSPC, "permission denied": errno.EACCES, "not a directory": errno.ENOTDIR}


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise OSError(UNABLE, "names that are not UTF-8 need python3 in the image") from None
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path with a null byte")


def _error(error: EngineError) -> OSError:
    said = error.said if isinstance(error, ApiError) else str(error)
    if isinstance(error, ApiError) and error.status == _NOT_FOUND:
        return OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    number = next((number for text, number in _ERRORS.items() if text in said), errno.EIO)
    return OSError(number, said)


class _Transfer(ServedTransfer):
    """What both directions do by the daemon."""

    def __init__(self, agent: NativeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        _check_path(self.path)
        self.agent = agent
        self._work: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def pump(self) -> None:
        """Go on."""
        self._changed.set()
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._guarded(), name="aviato-native-file")

    async def _guarded(self) -> None:
        try:
            await self._run()
        except OSError as error:
            self._fail(
                error
                if error.errno is not None and not isinstance(error, EngineError)
                else OSError(errno.EIO, str(error))
            )
        except EngineError as error:
            self._fail(_error(error))

    async def _run(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """End the transfer; what was begun is undone."""
        super().release()
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()

    # The daemon

    @property
    def _archive(self) -> str:
        return f"/containers/{self.agent.number}/archive"

    async def _look(self, path: str) -> dict[str, Any] | None:
        """Look a path up, None when nothing is there."""
        try:
            headers = await self.agent.api.head(self._archive, params={"path": path}, what=f"look at {path}")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        found: dict[str, Any] = json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"]))
        return found

    async def _resolve(self, path: str) -> tuple[str, dict[str, Any] | None]:
        """Follow a link; give where it leads, and what is there."""
        found = await self._look(path)
        if found is not None and found["mode"] & _LINK:
            path = found["linkTarget"]
            found = await self._look(path)
            if found is not None and found["mode"] & _LINK:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        for place in _UNSEEN:
            if path == place or posixpath.normpath(path).startswith(place + "/"):
                raise OSError(
                    UNABLE, f"{place} is not in Docker's archives: use a command, such as cat, or an image with python3"
                )
        if found is not None and found["mode"] & _DIRECTORY:
            raise OSError(errno.EISDIR, "is a directory")
        if found is not None and found["mode"] & _NO_REGULAR_FILE:
            raise OSError(errno.EINVAL, "is not a regular file")
        return path, found

    async def _pieces(self, path: str) -> AsyncGenerator[tarfile.TarInfo | bytes, None]:
        """Iterate over the archive of one file: its entry, then its content."""
        buffer = b""
        entry: tarfile.TarInfo | None = None
        left = 0
        stream = self.agent.api.stream("GET", self._archive, params={"path": path}, what=f"read {path}")
        try:
            async for piece in stream:
                buffer += piece
                while entry is None and len(buffer) >= _BLOCK:
                    head = tarfile.TarInfo.frombuf(buffer[:_BLOCK], "utf-8", "surrogateescape")
                    skipped = -(-head.size // _BLOCK) * _BLOCK
                    if head.type in {
                        tarfile.XHDTYPE,
                        tarfile.XGLTYPE,
                        tarfile.GNUTYPE_LONGNAME,
                        tarfile.GNUTYPE_LONGLINK,
                    }:
                        if len(buffer) < _BLOCK + skipped:
                            break
                        left = _pax_size(buffer[_BLOCK : _BLOCK + head.size]) or left
                        buffer = buffer[_BLOCK + skipped :]
                        continue
                    buffer, entry = buffer[_BLOCK:], head
                    if not head.isreg():
                        raise OSError(errno.EINVAL, "is not a regular file")
                    left = left or head.size
                    yield head
                if entry is not None and left:
                    taken, buffer = buffer[:left], b"" if len(buffer) <= left else buffer[left:]
                    left -= len(taken)
                    if taken:
                        yield taken
                elif entry is not None:
                    buffer = b""
        finally:
            await stream.aclose()
        if entry is None or left:
            raise OSError(errno.EIO, f"the daemon's archive of {path} is cut short")


def _pax_size(records_: bytes) -> int:
    for line in records_.split(b"\n"):
        name, _, value = line.partition(b" ")[2].partition(b"=")
        if name == b"size" and value.isdigit():
            return int(value)
    return 0


class Reading(_Transfer, ServedReading):
    """A file on its way to the client, as far as its credit goes."""

    async def _run(self) -> None:
        path, found = await self._resolve(self.path)
        if found is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        position = 0
        pieces = self._pieces(path)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, tarfile.TarInfo):
                    continue
                skipped = min(len(piece), max(0, self.offset - position))
                position += len(piece)
                await self._hand_on(piece[skipped:])
                if self.offset >= self.end:
                    break
        self._complete(self.offset)

    async def _hand_on(self, data: bytes) -> None:
        view = memoryview(data)[: self.end - self.offset]
        while view:
            room = min(self.limit - self.offset, DATA_CHUNK)
            if room <= 0 or self.connection is None or self.connection.blocked:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._deliver(bytes(view[:room]))
            view = view[room:]


class Writing(_Transfer, ServedWriting):
    """A file on its way from the client; with ATOMIC the name shows the whole content or the old one."""

    def __init__(self, agent: NativeAgent, connection: AgentConnection, stream: int, payload: bytes) -> None:
        super().__init__(agent, connection, stream, payload)
        if self.path.endswith("/"):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by release
        self._owner = (0, 0)

    async def _run(self) -> None:
        path, found = await self._resolve(self.path)
        if self.flags & WriteFlags.ATOMIC:
            await self._need_move()
        if found is not None:
            pieces = self._pieces(path)
            async with contextlib.aclosing(pieces):
                async for entry in pieces:
                    if isinstance(entry, tarfile.TarInfo):
                        self.mode, self._owner = entry.mode & 0o7777, (entry.uid, entry.gid)
                    break
        while not self._input.ended:
            self._changed.clear()
            await self._changed.wait()
        folder, name = posixpath.split(path)
        if self.flags & WriteFlags.ATOMIC:
            await self._put_in_place(folder, path)
        else:
            await self._put(folder or "/", name)
        self._complete(self._input.accepted)

    async def _put_in_place(self, folder: str, path: str) -> None:
        name = f".aviato-{self.stream:016x}"
        temporary = posixpath.join(folder, name)
        try:
            await self._put(folder or "/", name)
            await self._move(temporary, path)
        except BaseException:
            self.agent.spawn(self._clear(temporary))
            raise

    async def _need_move(self) -> None:
        agent = self.agent
        if agent.shell is None:
            raise OSError(
                UNABLE, "to write a file needs a shell and mv in the image: nothing else can put it in place at once"
            )
        if agent.has_move is None:
            agent.has_move = (await agent.tool(native_scripts.HAS_MOVE))[0] == 0
        if not agent.has_move:
            raise OSError(
                UNABLE, "to write a file needs mv and rm in the image: nothing else can put it in place at once"
            )

    async def _put(self, folder: str, name: str) -> None:
        """Put what came into a folder."""
        if self.flags & WriteFlags.PARENTS and await self._look(folder) is None:
            folder, name = "/", posixpath.join(folder, name).lstrip("/")  # the daemon makes what is missing
        await self._put_at(folder, name)

    async def _put_at(self, folder: str, name: str) -> None:
        request = self.agent.api.request(
            "PUT", self._archive, params={"path": folder}, data=self._tar(name), headers=_TAR,
            what=f"write {self.path}", seconds=_WRITE_SECONDS,
        )  # fmt: skip
        await request

    async def _tar(self, name: str) -> AsyncIterator[bytes]:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, (entry.uid, entry.gid) = self._input.accepted, self.mode, self._owner
        yield entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._file.seek(0)
        while piece := self._file.read(_SLICE):
            yield piece
        yield bytes(-self._input.accepted % _BLOCK + 2 * _BLOCK)

    async def _move(self, temporary: str, path: str) -> None:
        try:
            code, said = await self.agent.tool(native_scripts.MOVE, temporary, path)
        except EngineError:
            if await self._look(temporary) is None and await self._look(path) is not None:
                return  # it took place, and what did it was killed: the new file can be the sandbox's end
            raise
        if code:
            number = errno.EISDIR if code == _IS_DIRECTORY else errno.EIO
            number = next((value for text, value in _ERRORS.items() if text in said), number)
            raise OSError(number, said or f"mv ended with code {code}")

    async def _clear(self, temporary: str) -> None:
        with contextlib.suppress(EngineError):
            await self.agent.tool(native_scripts.REMOVE, temporary)

    def _keep(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} on the client's own disk, where it waits") from error

    def _finish(self) -> None:
        self._changed.set()

    def release(self) -> None:
        """End the transfer, and forget what came."""
        super().release()
        self._file.close()
