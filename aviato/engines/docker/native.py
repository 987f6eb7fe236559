"""The agent's stand-in for a container whose image has no Python: it lives in the client, and asks the daemon.

To the channel it is an agent like any other, over a connection in memory. Each client process that uses the sandbox has
its own; what they share is the container, and its first process (see `keeper`), which they tell that they live.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aviato.agent.frames import CloseReason, FrameType
from aviato.agent.memory import connect_in_memory
from aviato.agent.served import AgentConnection, ServedAgent
from aviato.engines.docker import logs, records
from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.hijack import ExecStream
from aviato.engines.docker.keeper import LEAST_IDLE_SECONDS, LEAST_ORPHAN_SECONDS
from aviato.engines.docker.native_command import NativeCommand
from aviato.engines.docker.native_files import Reading, Writing
from aviato.engines.docker.native_stream import CommandStream
from aviato.exceptions import EngineConnectionError, EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_FOUND = 404
_PAUSED_STEP, _LONGEST_STEP = 0.1, 0.5
_ENDED_SECONDS = 5.0
_OVER_SECONDS = 0.5
_DRAIN_SECONDS = 1.0
_FORGET_SECONDS = 15.0
_LONGEST_BEAT = 10.0
_RETRY_SECONDS = 0.5
_TOOL_SECONDS = 60.0
_TOOL_END = b" aviato\n"
_LONGEST_SAID = 65536


class NativeAgent(ServedAgent):
    """Serves the clients that this process has in one container."""

    def __init__(self, api: Api, container: dict[str, Any], on_done: Callable[[NativeAgent], None]) -> None:
        super().__init__(NativeCommand, Reading, Writing)
        record = records.read_record(container["Config"]["Labels"])["native"]
        self.api = api
        self.sandbox_id: str = container["Config"]["Labels"][records.SANDBOX_LABEL]
        self.number: str = container["Id"]
        self.shell: str | None = record["shell"]
        self.user: str = record["user"]
        self.cwd: str = container["Config"]["WorkingDir"] or "/"
        self.has_move: bool | None = None
        self._token = logs.token_of(container)
        self._idle, self._orphan = record["idle_ms"] / 1000, record["orphan_ms"] / 1000
        self._on_done = on_done
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._line: ExecStream | None = None
        self._line_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._forgetting: asyncio.TimerHandle | None = None
        self._closed = False
        self._finished = asyncio.Event()
        self.spawn(self._watch())
        if self.shell is not None:
            self.spawn(self._beat())

    @property
    def closed(self) -> bool:
        """True when it serves nobody any more."""
        return self._closed

    @property
    def can_end_input(self) -> bool:
        """False where the end of a command's input cannot be told without hanging up."""
        return self.api.endpoint.tls is None

    def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect a client."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        return connect_in_memory(protocol, AgentConnection(self))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background, as long as this lives."""
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=f"aviato-native-{self.sandbox_id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"the stand-in for the agent in {self.sandbox_id} failed", "exception": error}
            task.get_loop().call_exception_handler(context)

    # What ServedAgent asks for

    @property
    def is_ending(self) -> bool:
        """True when the container has ended."""
        return self._over.is_set()

    def touch(self) -> None:
        """Say soon whether there is something to do."""
        if self._idle:
            self._wake.set()

    def left(self, connection: AgentConnection) -> None:
        """Let everything go a while after the last client went."""
        super().left(connection)
        if not self.connections and not self._closed and self._forgetting is None:
            seconds = _FORGET_SECONDS if self.busy else 0.0
            self._forgetting = asyncio.get_running_loop().call_later(seconds, self.close)

    def shut_down(self, grace_seconds: float) -> None:
        """End the sandbox."""
        self.spawn(self._shut_down(grace_seconds))

    async def _shut_down(self, grace: float) -> None:
        for signal in ("SIGTERM", "SIGTERM", "SIGKILL") if grace > 0 else ("SIGKILL",):
            with contextlib.suppress(EngineError):
                path = f"/containers/{self.number}/kill"
                await self.api.request("POST", path, params={"signal": signal}, what="end a container")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._over.wait()
                    return
            grace = _OVER_SECONDS

    def extend(self, connection: AgentConnection, stream: int, seconds: float) -> None:
        """Let the sandbox live longer."""
        self.spawn(self._extend(connection, stream, seconds))

    async def _extend(self, connection: AgentConnection, stream: int, seconds: float) -> None:
        try:
            await self._say(b"extend %d" % round(seconds * 100))
        except EngineError:
            if connection.transport is not None:
                connection.transport.abort()
        else:
            connection.send(FrameType.EXTENDED, stream)

    # The first process

    async def _say(self, what: bytes) -> None:
        """Say something to the first process; a line that broke is made again."""
        async with self._line_lock:
            if self._line is None or self._line.is_over:
                line = ExecStream(self.api.path(f"/containers/{self.number}/attach?stream=1&stdin=1"), b"")
                await line.begin(self.api)
                self._line = line
            self._line.write(self._token + b" " + what + b"\n")

    async def _beat(self) -> None:
        """Say from time to time that a client lives, and whether it has something to do."""
        limits = [max(limit, least) for limit, least in
                  ((self._idle, LEAST_IDLE_SECONDS), (self._orphan, LEAST_ORPHAN_SECONDS)) if limit]  # fmt: skip
        pause = min([_LONGEST_BEAT, *(limit / 4 for limit in limits)])
        was_busy = False
        while not self._over.is_set():
            if self.connections and limits:
                busy, was_busy = self.busy or was_busy, self.busy
                with contextlib.suppress(EngineError):
                    await self._say(b"busy" if busy and self._idle else b"here")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    # The container's end

    async def is_over(self) -> bool:
        """Tell whether the container has ended, or ends in a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OVER_SECONDS):
                await self._over.wait()
        return self._over.is_set()

    async def _watch(self) -> None:
        """Wait for the container's end; where the daemon cannot be reached, let the clients find that out."""
        path = f"/containers/{self.number}/wait"
        while True:
            try:
                await self.api.request(
                    "POST", path, params={"condition": "not-running"}, what="wait for a container", seconds=1e9
                )
                break
            except ApiError as error:
                if error.status == _NOT_FOUND:
                    break
            except EngineError:
                self._break_off()
            await asyncio.sleep(_RETRY_SECONDS)
        self._over.set()
        words = None
        with contextlib.suppress(EngineError):
            container = await self.api.request("GET", f"/containers/{self.number}/json", what="look up a container")
            words = records.believable((await logs.last_words(self.api, container))[0], container["State"])
        streams = [item.over.wait() for item in self.streams.values() if isinstance(item, NativeCommand)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.gather(*streams)  # what stands in them still comes
        if words is not None:
            with contextlib.suppress(ValueError):  # a reason that there is not
                self.say_closing(CloseReason(words.reason), words.code)
        self._finished.set()
        self._on_done(self)
        asyncio.get_running_loop().call_soon(self.close)

    async def farewell(self) -> None:
        """Wait a while until the clients of a container that has ended were told all that there is to tell."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * _DRAIN_SECONDS):
                await self._finished.wait()

    def _break_off(self) -> None:
        error = EngineConnectionError("the Docker daemon cannot be reached")
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.break_off(error)  # type: ignore[attr-defined]  # always a MemoryTransport

    # Asking the daemon

    async def make_exec(
        self, command: Sequence[str], *, env: Sequence[str] = (), cwd: str = "/", user: str, stdin: bool = False
    ) -> str:
        """Prepare an exec, as soon as the container is not paused.

        Raises:
            EngineError: As of the request.
        """
        body = {
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Cmd": list(command),
            "Env": list(env),
            "WorkingDir": cwd,
            "User": user,
        }
        step = _PAUSED_STEP
        while True:
            try:
                path = f"/containers/{self.number}/exec"
                made = await self.api.request("POST", path, body=body, what="prepare a command")
                return str(made["Id"])
            except ApiError as error:
                if "is paused" not in error.said:
                    raise
            await asyncio.sleep(step)
            step = min(_LONGEST_STEP, step * 1.5)

    async def inspect_exec(self, exec_id: str, *, ended: bool = False) -> dict[str, Any]:
        """Look an exec up; with `ended` wait a while until it does not run.

        Raises:
            EngineError: As of the request.
        """
        step, waited = 0.01, 0.0
        while True:
            state: dict[str, Any] = await self.api.request("GET", f"/exec/{exec_id}/json", what="look up a command")
            if not ended or not state.get("Running") or waited > _ENDED_SECONDS:
                return state
            await asyncio.sleep(step)
            waited, step = waited + step, min(_LONGEST_STEP, step * 1.5)

    async def tool(self, script: str, *arguments: str, user: str = "0:0") -> tuple[int, str]:
        """Run a script of ours, and return the code it says and what it wrote.

        Raises:
            EngineError: It could not be run, or did not say how it ended.
        """
        assert self.shell is not None  # noqa: S101 - callers look
        exec_id = await self.make_exec([self.shell, "-c", script, "aviato", *arguments], user=user)
        said = bytearray()
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(_kind: int, data: bytes) -> None:
            if len(said) < _LONGEST_SAID:
                said.extend(data)

        def end(_whole: bool) -> None:
            if not over.done():
                over.set_result(None)

        stream = await CommandStream.start(self.api, exec_id, take, end)
        try:
            async with asyncio.timeout(_TOOL_SECONDS):
                await over
        except TimeoutError as error:
            raise EngineConnectionError(f"a script in {self.sandbox_id} did not end in {_TOOL_SECONDS:g} s") from error
        finally:
            stream.abort()
        text, found, _ = bytes(said).rpartition(_TOOL_END)
        number = text.rpartition(b"\n")[2]
        if not found or not number.isdigit():
            raise EngineConnectionError(f"a script in {self.sandbox_id} said {bytes(said)[:500]!r}")
        return int(number), text[: -len(number)].decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Let clients, commands and connections go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._forgetting is not None:
            self._forgetting.cancel()
        for item in list(self.streams.values()):
            if isinstance(item, NativeCommand):
                item.drop()
        for connection in list(self.connections):
            connection.close()
        if self._line is not None:
            self._line.abort()
        for task in list(self._tasks):
            task.cancel()
        self._on_done(self)
