"""A daemon behind ssh: a socket on this side, each of whose connections is an `ssh HOST docker system dial-stdio`.

That is how the docker command reaches such a daemon; keys, agents, jump hosts and known hosts are ssh's own business.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile

from aviato.engines.docker.endpoint import Endpoint
from aviato.exceptions import EngineConnectionError

_CHUNK = 65536
_COMPLAINT_BYTES = 2000
_COMPLAINT_SECONDS = 1.0


class Proxy:
    """The socket and what runs behind it."""

    def __init__(self, endpoint: Endpoint, folder: str, program: str) -> None:
        self.path = f"{folder}/docker.sock"
        self.complaint = ""
        self._folder = folder
        port = [] if endpoint.port is None else ["-p", str(endpoint.port)]
        self._argv = [program, "-o", "BatchMode=yes", *port, "--", endpoint.address, "docker", "system", "dial-stdio"]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, endpoint: Endpoint) -> Proxy:
        """Make the socket; ssh is started with the first connection.

        Raises:
            EngineConnectionError: There is no ssh here.
        """
        program = shutil.which("ssh")
        if program is None:
            raise EngineConnectionError(
                f"the Docker daemon at {endpoint} cannot be reached: there is no ssh command here",
                hint="apt-get install openssh-client",
            )
        proxy = cls(endpoint, tempfile.mkdtemp(prefix="aviato-ssh-"), program)
        proxy._server = await asyncio.start_unix_server(proxy._serve, proxy.path)
        return proxy

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # by `close`; that streams ask such a task for its exception would be told as an error
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._argv, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None  # noqa: S101 - asked for
        assert process.stdout is not None  # noqa: S101 - asked for
        assert process.stderr is not None  # noqa: S101 - asked for
        listening = asyncio.ensure_future(self._listen(process.stderr))
        inward = asyncio.ensure_future(_copy(reader, process.stdin))
        try:
            await _copy(process.stdout, writer, closing=False)
            await asyncio.wait([listening], timeout=_COMPLAINT_SECONDS)  # before anybody asks why it ended
        finally:
            listening.cancel()
            inward.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(listening, inward, return_exceptions=True)
            await process.wait()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        said = b""
        while piece := await stderr.read(_CHUNK):
            said = (said + piece)[-_COMPLAINT_BYTES:]
            self.complaint = said.decode("utf-8", "replace").strip()

    async def close(self) -> None:
        """End every connection and remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, closing: bool = True) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(_CHUNK):
            target.write(piece)
            await target.drain()
        if closing:
            target.close()
