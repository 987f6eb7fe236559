"""The local engine: sandboxes on this machine, without a daemon and without an image."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import warnings
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aviato import settings
from aviato.engines.base import Capabilities, Engine, LogRecord, SandboxQuery, SandboxSpec
from aviato.engines.local import ids, network, reaper, records
from aviato.engines.local.connection import SupervisorConnection, connect_in, say_goodbye
from aviato.engines.local.images import ImageStore
from aviato.engines.local.jobs import describe, make_job
from aviato.engines.local.logs import read_log, select_lines
from aviato.exceptions import (
    ConfigurationError,
    EngineConnectionError,
    EngineError,
    SandboxLostError,
    SandboxNotFoundError,
    SandboxNotRunningError,
)
from aviato.models import SandboxInfo

__all__ = ["LocalEngine"]

_START = (
    "import sys\n"
    "sys.path.append({parent!r})\n"
    "from aviato.engines.local.supervisor import main\n"
    "main({home!r}, {token!r}, {fd})\n"
)


class LocalEngine(Engine):
    """Sandboxes of this machine, held by a supervisor process that is started with the first of them."""

    name = "local"

    def __init__(self, home: str | None = None) -> None:
        self._home = os.path.abspath(home or settings.home())
        self._own: SupervisorConnection | None = None
        self._token = ""
        self._others: dict[str, SupervisorConnection] = {}
        self._streams: dict[str, socket.socket] = {}
        self._watchers: weakref.WeakSet[asyncio.Queue[SandboxInfo | None]] = weakref.WeakSet()
        self._followers: defaultdict[str, list[asyncio.Event]] = defaultdict(list)
        self._attached: set[str] = set()
        self._launches = asyncio.Semaphore(4 * (os.cpu_count() or 1))
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do here."""
        return Capabilities(
            images=True,
            gpu=False,
            egress=network.why_not(network.find_program()) is None,
            ports=False,
            volumes=False,
            secrets=True,
            users=ids.can_shift() or ids.subordinate() is not None,
        )

    async def create(self, spec: SandboxSpec) -> SandboxInfo:
        """Create and start a sandbox; see `Engine.create`."""
        job, content, image_fd = make_job(self._home, spec)
        available = os.cpu_count() or 1
        cpu = spec.resources.cpu_millicores
        if cpu is not None and cpu > available * 1000:
            warnings.warn(f"{cpu / 1000:g} CPUs asked for, this machine has {available}", stacklevel=2)
        ours, theirs = socket.socketpair()
        content_fd = os.memfd_create("aviato-mounted", os.MFD_CLOEXEC)
        try:
            for piece in content:
                view = memoryview(piece)
                while view:
                    view = view[os.write(content_fd, view) :]
            async with self._launches:
                connection = self._supervisor()
                fds = (content_fd, theirs.fileno(), *(() if image_fd is None else (image_fd,)))
                request = connection.request("launch", spec.sandbox_id, job=job, fds=fds)
                theirs.close()
                try:
                    record = await asyncio.shield(request)
                except asyncio.CancelledError:
                    # on the same connection, so that it cannot overtake the launch
                    stopped = connection.request("stop", spec.sandbox_id, grace=0.0)
                    await asyncio.gather(request, stopped, return_exceptions=True)
                    await self.delete(spec.sandbox_id, missing_ok=True)
                    raise
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(content_fd)
            if image_fd is not None:
                os.close(image_fd)
        if spec.sandbox_id in self._attached:
            ours.close()  # a repeated request: the agent holds the stream of the first
        else:
            self._attached.add(spec.sandbox_id)
            self._streams[spec.sandbox_id] = ours
        return describe(record)

    def _supervisor(self) -> SupervisorConnection:
        if self._closed:
            raise EngineError("the local engine is closed")
        if self._own is None or not self._own.alive:
            self._own = self._start_supervisor()
        return self._own

    def _start_supervisor(self) -> SupervisorConnection:
        try:
            records.prepare(self._home)
            log = open(f"{self._home}/supervisors/log", "ab")  # noqa: SIM115 - handed to the child, closed below
            if log.tell() > 1 << 20:
                log.truncate(0)
        except OSError as error:
            raise ConfigurationError(
                f"AVIATO_HOME {self._home!r} cannot be used: {error.strerror or error}",
                hint="Set AVIATO_HOME to a directory that this user owns and may write.",
            ) from error
        ours, theirs = socket.socketpair()
        self._token = token = secrets.token_hex(8)
        parent = str(Path(__file__).parents[3])
        program = _START.format(parent=parent, home=self._home, token=token, fd=theirs.fileno())
        python = getattr(sys, "_base_executable", sys.executable)
        try:
            process = _Supervisor(
                [os.path.realpath(python), "-I", "-S", "-E", "-B", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            ours.close()
            raise EngineError(f"the supervisor of the local engine could not be started: {error}") from error
        finally:
            theirs.close()
            log.close()
        _processes.append(process)
        return SupervisorConnection(ours, self._event, self._lost)

    def _event(self, message: dict[str, Any]) -> None:
        if message["event"] == "log":
            self._tell_followers(message["id"])
            return
        info = describe(message["record"])
        if info.status.is_terminal:
            self._attached.discard(info.sandbox_id)
            self._drop_stream(info.sandbox_id)
        for queue in self._watchers:
            queue.put_nowait(info)
        self._tell_followers(info.sandbox_id)

    def _lost(self) -> None:
        for queue in self._watchers:
            queue.put_nowait(None)
        for sandbox_id in self._followers:
            self._tell_followers(sandbox_id)

    def _tell_followers(self, sandbox_id: str) -> None:
        for news in self._followers.get(sandbox_id, ()):
            news.set()

    def _drop_stream(self, sandbox_id: str) -> None:
        stream = self._streams.pop(sandbox_id, None)
        if stream is not None:
            stream.close()

    def _record(self, sandbox_id: str) -> dict[str, Any]:
        """Read a record, finishing what a dead supervisor left."""
        try:
            return reaper.settle(self._home, sandbox_id)
        except (FileNotFoundError, ValueError):
            raise SandboxNotFoundError(f"no sandbox {sandbox_id} on this machine", sandbox_id=sandbox_id) from None
        except records.CorruptRecordError as error:
            raise SandboxNotFoundError(
                f"the record of sandbox {sandbox_id} cannot be read and was set aside: {error}", sandbox_id=sandbox_id
            ) from error

    def _responsible(self, record: dict[str, Any]) -> SupervisorConnection:
        """Return a connection to the supervisor that holds a sandbox."""
        token = record["supervisor"]["token"]
        if self._own is not None and self._own.alive and record["id"] in self._attached:
            return self._own
        known = self._others.get(token)
        if known is not None and known.alive:
            return known
        try:
            sock = connect_in(f"{self._home}/supervisors", f"{token}.sock")
        except OSError as error:
            raise EngineConnectionError(
                f"the supervisor of sandbox {record['id']} cannot be reached: {error}"
            ) from error
        connection = self._others[token] = SupervisorConnection(sock, self._event, self._lost)
        return connection

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Look one sandbox up; see `Engine.get`."""
        return describe(await self._living(sandbox_id))

    async def _living(self, sandbox_id: str) -> dict[str, Any]:
        if sandbox_id in self._attached and self._own is not None and self._own.alive:
            with contextlib.suppress(SandboxNotFoundError):
                return await self._own.request("get", sandbox_id)
        return await asyncio.to_thread(self._record, sandbox_id)

    async def list(self, query: SandboxQuery) -> AsyncIterator[SandboxInfo]:
        """Iterate over the sandboxes of this user; see `Engine.list`."""
        for record in await asyncio.to_thread(reaper.settle_all, self._home):
            info = describe(record)
            if query.matches(info):
                yield info

    async def watch(self) -> AsyncIterator[SandboxInfo]:
        """Iterate over changes; see `Engine.watch`."""
        queue: asyncio.Queue[SandboxInfo | None] = asyncio.Queue()
        self._watchers.add(queue)
        while (info := await queue.get()) is not None:
            yield info
        raise EngineConnectionError("a supervisor of the local engine is gone")

    async def stop(self, sandbox_id: str, *, grace_seconds: float, missing_ok: bool = False) -> SandboxInfo | None:
        """End a sandbox; see `Engine.stop`."""
        if sandbox_id in self._attached and self._own is not None and self._own.alive:
            with contextlib.suppress(SandboxNotFoundError):
                record = await self._own.request("stop", sandbox_id, grace=grace_seconds)
                self._drop_stream(sandbox_id)
                return describe(record)
        try:
            record = await asyncio.to_thread(self._record, sandbox_id)
        except SandboxNotFoundError:
            if missing_ok:
                return None
            raise
        if not describe(record).status.is_terminal:
            try:
                record = await self._responsible(record).request("stop", sandbox_id, grace=grace_seconds)
            except (SandboxNotFoundError, EngineConnectionError):
                record = await asyncio.to_thread(self._record, sandbox_id)
        return describe(record)

    async def delete(self, sandbox_id: str, *, missing_ok: bool = False) -> None:
        """Stop a sandbox and remove every trace; see `Engine.delete`."""
        info = await self.stop(sandbox_id, grace_seconds=0.0, missing_ok=missing_ok)
        if info is None:
            return
        connections = [connection for connection in (self._own, *self._others.values()) if connection is not None]
        for connection in connections:
            if connection.alive:
                with contextlib.suppress(EngineError):
                    await connection.request("forget", sandbox_id)
        await asyncio.to_thread(records.remove, records.directory(self._home, sandbox_id))

    async def connect(self, sandbox_id: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open a stream to the agent; see `Engine.connect`."""
        loop = asyncio.get_running_loop()
        stream = self._streams.pop(sandbox_id, None)
        if stream is None:
            record = await self._living(sandbox_id)
            info = describe(record)
            if info.status.is_terminal:
                if record.get("exit_reason") == "lost":
                    raise SandboxLostError(f"sandbox {sandbox_id} was lost: {info.message}", sandbox_id=sandbox_id)
                raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
            if sandbox_id not in self._attached:
                await self._responsible(record).request("attach", sandbox_id)
            try:
                stream = connect_in(records.directory(self._home, sandbox_id), "agent.sock")
            except OSError as error:
                message = f"the agent of sandbox {sandbox_id} cannot be reached: {error}"
                raise EngineConnectionError(message, retryable=True) from error
        stream.setblocking(False)
        transport, _ = await loop.create_connection(lambda: protocol, sock=stream)
        return transport

    async def logs(
        self, sandbox_id: str, *, follow: bool = False, tail_lines: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogRecord]:
        """Iterate over the main command's output; see `Engine.logs`."""
        record = await self._living(sandbox_id)
        news = asyncio.Event()  # one for each reader: they clear it at different times
        self._followers[sandbox_id].append(news)
        try:
            following = follow and not describe(record).status.is_terminal
            if following:
                with contextlib.suppress(SandboxNotFoundError):
                    await self._responsible(record).request("follow", sandbox_id)
            place = records.directory(self._home, sandbox_id)
            found, position = await asyncio.to_thread(read_log, place, None)
            for item in select_lines(found, tail_lines, since):
                yield item
            while following:
                news.clear()
                following = not describe(await self._living(sandbox_id)).status.is_terminal
                found, position = await asyncio.to_thread(read_log, place, position)
                for item in found:
                    yield item
                if following and not found:
                    await news.wait()
        finally:
            self._followers[sandbox_id].remove(news)
            if not self._followers[sandbox_id]:
                del self._followers[sandbox_id]

    async def extend(self, sandbox_id: str, seconds: float) -> SandboxInfo:
        """Let a sandbox live longer; see `Engine.extend`."""
        record = await self._living(sandbox_id)
        if describe(record).status.is_terminal:
            raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
        return describe(await self._responsible(record).request("extend", sandbox_id, seconds=seconds))

    async def prune(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Remove what is left, unused images included; see `Engine.prune`."""
        removed = await asyncio.to_thread(reaper.prune, self._home, dry_run=dry_run)
        images = 0 if dry_run else await asyncio.to_thread(ImageStore(self._home).collect, downloads=True)
        if images:
            what = f"image director{'y' if images == 1 else 'ies'} or download{'' if images == 1 else 's'}"
            removed.append(f"{images} unused {what}")
        return tuple(removed)

    async def close(self) -> None:
        """End attached sandboxes of this engine and let the supervisor go; see `Engine.close`."""
        self._closed = True
        own, self._own = self._own, None
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        for connection in (own, *self._others.values()):
            if connection is not None and connection is not own:
                connection.close()
        self._others.clear()
        if own is not None:
            if own.alive:
                with contextlib.suppress(EngineError):
                    await own.request("bye", "", grace=0.0)
            own.close()
        _reap()

    def stop_all_at_exit(self, seconds: float) -> tuple[str, ...]:
        """End attached sandboxes without a loop; see `Engine.stop_all_at_exit`."""
        own = self._own
        if own is None:
            return ()
        ended = say_goodbye(f"{self._home}/supervisors", f"{self._token}.sock", seconds)
        own.hang_up()
        return () if ended else tuple(sorted(self._attached))

    def forget_after_fork(self) -> None:
        """Close inherited descriptors in a forked child; see `Engine.forget_after_fork`."""
        for connection in (self._own, *self._others.values()):
            if connection is not None:
                connection.forget()
        for stream in self._streams.values():
            with contextlib.suppress(OSError):
                os.close(stream.detach())
        self._streams.clear()


class _Supervisor(subprocess.Popen[bytes]):
    """A supervisor's process, which may outlive this one on purpose."""

    def __del__(self, *_rest: object) -> None:
        """Give no warning that it still runs; `_reap` collects it when it has ended."""


_processes: builtins.list[_Supervisor] = []


def _reap() -> None:
    _processes[:] = [process for process in _processes if process.poll() is None]
