"""A real agent as a plain process, and a sink that records what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from aviato.agent import bootstrap
from aviato.agent.channel import Channel
from aviato.agent.frames import ExitStatus, Which

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aviato.agent.remote import RemoteProcess
    from aviato.exceptions import AviatoError

CODE = bootstrap.payload_code()


def memory_file(data: bytes) -> int:
    """Make a descriptor that reads as `data`."""
    fd = os.memfd_create("agent")
    os.write(fd, data)
    return fd


class Recorder:
    """A sink that keeps everything; `consume=False` gives no credit."""

    def __init__(self, *, consume: bool = True) -> None:
        self.consume = consume
        self.remote: RemoteProcess | None = None
        self.pid = 0
        self.output: dict[Which, list[bytes]] = {Which.STDOUT: [], Which.STDERR: []}
        self.totals = {Which.STDOUT: 0, Which.STDERR: 0}
        self.gaps: list[tuple[Which, int]] = []
        self.stdin_closed = False
        self.started = asyncio.Event()
        self.changed = asyncio.Event()
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    def process_started(self, pid: int) -> None:
        """Record the pid."""
        assert not self.pid
        self.pid = pid
        self.started.set()

    def process_output(self, which: Which, data: bytes) -> None:
        """Record and consume."""
        assert data
        self.output[which].append(data)
        self.totals[which] += len(data)
        if self.consume and self.remote is not None:
            self.remote.consumed(which, self.totals[which])
        self.changed.set()

    def process_gap(self, which: Which, missing: int) -> None:
        """Record the gap."""
        self.gaps.append((which, missing))

    def process_stdin_accepted(self) -> None:
        """Wake the writer."""
        self.changed.set()

    def process_stdin_closed(self) -> None:
        """Wake the writer."""
        assert not self.stdin_closed
        self.stdin_closed = True
        self.changed.set()

    def process_exited(self, status: ExitStatus) -> None:
        """Settle and release."""
        self.changed.set()
        self.end.set_result(status)
        if self.remote is not None:
            self.remote.release()

    def process_lost(self, error: AviatoError) -> None:
        """Settle."""
        self.changed.set()
        self.end.set_exception(error)
        self.end.exception()

    @property
    def stdout(self) -> bytes:
        """All of stdout."""
        return b"".join(self.output[Which.STDOUT])

    @property
    def stderr(self) -> bytes:
        """All of stderr."""
        return b"".join(self.output[Which.STDERR])

    async def until(self, size: int, which: Which = Which.STDOUT) -> None:
        """Wait until so many bytes came."""
        while self.totals[which] < size:
            assert not self.end.done(), self.end
            self.changed.clear()
            await self.changed.wait()

    async def feed(self, data: bytes) -> None:
        """Send input as the window allows, then its end."""
        assert self.remote is not None
        view = memoryview(data)
        while view and not self.stdin_closed and not self.end.done():
            free = self.remote.stdin_free
            if free:
                self.remote.send_stdin(bytes(view[:free]))
                view = view[free:]
            else:
                self.changed.clear()
                await self.changed.wait()
        self.remote.close_stdin()


def run(channel: Channel, *argv: str, consume: bool = True, **options: Any) -> Recorder:
    """Start a command and record it."""
    recorder = Recorder(consume=consume)
    recorder.remote = channel.exec(argv, recorder, **options)
    return recorder


def shell(channel: Channel, script: str, **options: Any) -> Recorder:
    """Start a shell script and record it."""
    return run(channel, "sh", "-c", script, **options)


def python(channel: Channel, script: str, *arguments: str, **options: Any) -> Recorder:
    """Start a Python script and record it."""
    return run(channel, sys.executable, "-I", "-S", "-c", script, *arguments, **options)


class AgentProcess:
    """An agent without a sandbox, listening on a unix socket, and the channels to it."""

    def __init__(self, directory: Path, command: Sequence[str] = (), **config: Any) -> None:
        self.path = str(directory / "agent.sock")
        self.channels: list[Channel] = []
        self.transports: list[asyncio.Transport] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(16)
        self.control, inside = socket.socketpair()
        config.setdefault("env", {b"PATH": b"/usr/local/bin:/usr/bin:/bin"})
        config = {"listen_fd": listener.fileno(), "control_fd": inside.fileno(), **config}
        fds = [memory_file(CODE), memory_file(marshal.dumps(config))]
        passed = [*fds, listener.fileno(), inside.fileno(), *config.pop("passed", ())]
        argv = [*command, *bootstrap.loader_argv(sys.executable, *fds)]
        self.process = subprocess.Popen(argv, pass_fds=passed, stdin=subprocess.DEVNULL)
        for fd in fds:
            os.close(fd)
        listener.close()
        inside.close()
        self.control.setblocking(False)
        self._lines = b""

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect as an engine does."""
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: protocol, self.path)
        self.transports.append(transport)
        return transport

    async def channel(self) -> Channel:
        """Open a channel."""
        channel = Channel(self.connect, sandbox_id="sbx-test")
        self.channels.append(channel)
        await channel.open(10)
        return channel

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection that sends what the test says."""
        return await asyncio.open_unix_connection(self.path)

    async def line(self) -> str:
        """Read a line from the control socket; empty at its end."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._lines:
            data = await loop.sock_recv(self.control, 4096)
            if not data:
                return ""
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    async def exit_code(self) -> int:
        """Wait for the end of the agent."""
        return await asyncio.get_running_loop().run_in_executor(None, self.process.wait, 20)

    def cut(self) -> None:
        """Break all connections."""
        for transport in self.transports:
            transport.abort()
        self.transports.clear()

    async def __aenter__(self) -> Self:
        assert await self.line() == "ready"
        return self

    async def __aexit__(self, *exc: object) -> None:
        for channel in self.channels:
            await channel.close()
        self.control.close()
        try:
            await self.exit_code()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        await asyncio.sleep(0)  # lets aborted transports close


async def gone(pid: int) -> None:
    """Wait until a process is no more (or a zombie)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def kill(pid: int) -> None:
    """Kill a process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def names(directory: Path) -> set[str]:
    """List a directory."""
    return {item.name for item in directory.iterdir()}


def process_status(agent: AgentProcess) -> str:
    """Read the kernel's status of the agent."""
    with open(f"/proc/{agent.process.pid}/status", encoding="ascii") as file:  # noqa: PTH123 - no Path at run time
        return file.read()
