"""The substrate of fake sandboxes: what stays when a client goes, as a real engine's state directory or daemon does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import posixpath
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from aviato.agent.frames import CloseReason
from aviato.engines.base import LogRecord, SandboxSpec
from aviato.exceptions import SandboxNotFoundError
from aviato.models import ExitReason, Isolation, Protection, SandboxInfo, SandboxStatus
from aviato.testing._agent import FakeAgent
from aviato.testing._clock import Clock, LoopClock, Timer
from aviato.testing._files import FileSystem, Node
from aviato.testing._processes import PATH, CannotExecuteError, Kernel, Main, Process
from aviato.testing._streams import Open, OpenNode, Sink

if TYPE_CHECKING:
    from aviato.testing.fake import FakeEngine

T = TypeVar("T")
DEFAULT_IMAGE = "python:3.11"
ORPHAN_SECONDS = 2.0
LOG_BYTES = 4 << 20
_SIGTERM, _SIGKILL = 15, 9
_REASONS = {
    CloseReason.SHUTDOWN: ExitReason.STOPPED,
    CloseReason.IDLE: ExitReason.IDLE,
    CloseReason.LIFETIME: ExitReason.LIFETIME,
    CloseReason.ORPHANED: ExitReason.TIMEOUT,
}
_NOTHING = Isolation(**dict.fromkeys(("ids", "seccomp", "memory", "pids", "cpu", "disk", "network"), Protection.NONE))  # type: ignore[arg-type]  # all fields but the last are protections


class FakeSandbox:
    """One sandbox: its state, its files and processes, its agent, its timers and its main command's output."""

    def __init__(self, machine: FakeMachine, spec: SandboxSpec) -> None:
        self.machine = machine
        self.spec = spec
        self.kernel = Kernel(FileSystem(), machine.programs)
        self.agent = FakeAgent(self)
        self.clients: set[FakeEngine] = set()
        self.ending: CloseReason | None = None
        self.over = asyncio.Event()
        self.log: deque[LogRecord] = deque()
        self.log_changed = asyncio.Event()
        self.cwd = spec.working_dir or "/workspace"
        self.env = {
            "PATH": PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TMPDIR": spec.temp_dir,
            **spec.environment,
        }
        self._log_size = 0
        self._main: Process | None = None
        self._main_code = -1
        self._timers: dict[str, Timer] = {}
        self._lifetime_ends: float | None = None
        self._grace_ends: float | None = None
        now = machine.clock.time()
        self.info = SandboxInfo(
            sandbox_id=spec.sandbox_id,
            status=SandboxStatus.CREATING,
            container_image=spec.image or DEFAULT_IMAGE,
            created_at=datetime.fromtimestamp(now, UTC),
            tags=spec.tags,
            annotations=dict(spec.annotations),
            resources=spec.resources,
            detached=spec.detached,
            isolation=attrs.evolve(_NOTHING, notes=("a fake sandbox isolates nothing",)),
        )

    def start(self) -> None:
        """Start the main command and the clocks."""
        files = self.kernel.files
        files.make_dirs(self.cwd)
        files.make_dirs(self.spec.temp_dir)
        for mounted in self.spec.mounted_files:
            files.put(posixpath.normpath(mounted.path), Node(0o444, data=mounted.content, readonly=True))
        moment = datetime.fromtimestamp(self.machine.clock.time(), UTC)
        self._change(status=SandboxStatus.RUNNING, started_at=moment)
        if self.spec.max_lifetime_seconds is not None:
            self.set_lifetime(self.spec.max_lifetime_seconds)
        self.touch()
        command = self.spec.command or ("sleep", "infinity")
        fds: dict[int, Open] = {0: OpenNode(files.node("/dev/null"), read=True, write=False)}
        for number, name in ((1, "stdout"), (2, "stderr")):
            fds[number] = Sink(self._log_taker(name))
        try:
            self._main = self.kernel.spawn(command, self.env, self.cwd, fds)
        except CannotExecuteError as error:
            self._log_taker("stderr")(f"aviato: {error.text}\n".encode())
            self._main_code = error.code
            self.begin_end(CloseReason.MAIN_EXITED, 0.0)
            return
        self._main.on_end.append(self._main_ended)

    def check_user(self, user: str) -> None:
        """Refuse a user that is not in the image, which has only root.

        Raises:
            OSError: EINVAL.
        """
        name = user.partition(":")[0]
        if name and name != "root" and not name.isdigit():
            raise OSError(errno.EINVAL, f"unknown user {user}")

    def _log_taker(self, name: str) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            for line in data.splitlines(keepends=True):
                self.log.append(LogRecord(self.machine.clock.time(), name, line))
                self._log_size += len(line)
            while self._log_size > LOG_BYTES:
                self._log_size -= len(self.log.popleft().data)
            self._log_news()

        return take

    def _log_news(self) -> None:
        event, self.log_changed = self.log_changed, asyncio.Event()
        event.set()

    def _change(self, **changes: Any) -> None:
        self.info = attrs.evolve(self.info, **changes)
        self.machine.publish(self)

    # The clocks

    def _after(self, name: str, seconds: float, action: Callable[[], object]) -> None:
        self._cancel(name)
        self._timers[name] = self.machine.clock.call_later(seconds, action)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def set_lifetime(self, seconds: float) -> None:
        """Let the lifetime end in `seconds` from now."""
        if self.ending is None:
            self._lifetime_ends = self.machine.clock.time() + seconds
            self._after("lifetime", seconds, lambda: self.begin_end(CloseReason.LIFETIME, 1.0))

    def extend(self, seconds: float) -> None:
        """Let the lifetime end later than it would have; without a limit there is nothing to do."""
        if self._lifetime_ends is not None:
            self.set_lifetime(self._lifetime_ends - self.machine.clock.time() + seconds)

    def touch(self) -> None:
        """Restart the clocks that run while nobody is here or nothing is done."""
        if self.ending is not None or self.info.status is not SandboxStatus.RUNNING:
            return
        idle = self.spec.idle_timeout_seconds
        if idle is not None:
            if self.agent.busy:
                self._cancel("idle")
            else:
                self._after("idle", idle, lambda: self.begin_end(CloseReason.IDLE, 1.0))
        if not self.spec.detached:
            orphan = self.spec.orphan_timeout_seconds
            if self.clients:
                self._cancel("orphan")
            elif "orphan" not in self._timers:
                seconds = ORPHAN_SECONDS if orphan is None else orphan
                self._after("orphan", seconds, lambda: self.begin_end(CloseReason.ORPHANED, 1.0))

    # The end

    def _main_ended(self) -> None:
        assert self._main is not None  # noqa: S101 - it ended
        assert self._main.status is not None  # noqa: S101 - likewise
        self._main_code = self._main.status[0]
        if self.ending is None:
            self.begin_end(CloseReason.MAIN_EXITED, 0.0)

    def begin_end(self, reason: CloseReason, grace: float) -> None:
        """Begin the end: SIGTERM, `grace` seconds, SIGKILL; a second call can only shorten it."""
        if self.info.status.is_terminal:
            return
        if self.ending is None:
            self.ending = reason
            for name in ("idle", "lifetime", "orphan"):
                self._cancel(name)
            self._change(status=SandboxStatus.TERMINATING)
            if grace > 0:
                self.kernel.everyone(_SIGTERM)
            self.machine.keep(asyncio.get_running_loop().create_task(self._wait_for_all(), name="aviato-fake-end"))
        now = self.machine.clock.time()
        if grace <= 0:
            self.kernel.everyone(_SIGKILL)
        elif self._grace_ends is None or now + grace < self._grace_ends:
            self._grace_ends = now + grace
            self._after("grace", grace, lambda: self.kernel.everyone(_SIGKILL))

    async def _wait_for_all(self) -> None:
        while self.kernel.processes:
            await next(iter(self.kernel.processes.values())).ended.wait()
        await self.kernel.wind_up()
        assert self.ending is not None  # noqa: S101 - it is ending
        self.agent.say_closing(self.ending, self._main_code)
        if self.ending is CloseReason.MAIN_EXITED:
            code = self._main_code
            signalled = self._main is not None and self._main.status is not None and self._main.status[1]
            self._conclude(
                SandboxStatus.FAILED if code else SandboxStatus.COMPLETED,
                ExitReason.SIGNALLED if signalled else ExitReason.EXITED,
                code,
            )
        else:
            self._conclude(SandboxStatus.TERMINATED, _REASONS[self.ending], None)

    def _conclude(self, status: SandboxStatus, reason: ExitReason, code: int | None, message: str = "") -> None:
        if self.info.status.is_terminal:
            return
        for name in list(self._timers):
            self._cancel(name)
        moment = datetime.fromtimestamp(self.machine.clock.time(), UTC)
        self._change(status=status, exit_reason=reason, returncode=code, ended_at=moment, message=message)
        self.over.set()
        self._log_news()

    def crash(self) -> None:
        """Vanish: connections break, processes are gone, and nobody says why."""
        if self.info.status.is_terminal:
            return
        self.ending = self.ending or CloseReason.SHUTDOWN
        self._conclude(SandboxStatus.FAILED, ExitReason.LOST, None, "its machine crashed")
        self.agent.drop_connections()
        self.kernel.everyone(_SIGKILL)

    def end_without_loop(self) -> None:
        """Be ended where no event loop runs any more: nothing of it is run again."""
        if not self.info.status.is_terminal:
            self.ending = self.ending or CloseReason.SHUTDOWN
            for process in list(self.kernel.processes.values()):
                for callback in process.on_kill:
                    callback()
            moment = datetime.fromtimestamp(self.machine.clock.time(), UTC)
            self.info = attrs.evolve(
                self.info, status=SandboxStatus.TERMINATED, exit_reason=ExitReason.STOPPED, ended_at=moment
            )

    async def end(self, grace: float) -> None:
        """Begin the end and wait for it.

        Without grace, commands have no time to tell their end, as when a real one's processes are killed from outside.
        """
        if grace <= 0:
            self.agent.muted = True
        if self.info.status.is_terminal:
            self.kernel.everyone(_SIGKILL)  # what `end_without_loop` may have left
        else:
            self.begin_end(CloseReason.SHUTDOWN, grace)
            await self.over.wait()
        await self.kernel.wind_up()


class FakeMachine:
    """Where fake sandboxes live; shared by the `FakeEngine`s that are given it, as two processes share a machine.

    Belongs to the event loop that first uses it, until nothing runs on it any more.
    """

    def __init__(
        self, *, programs: Mapping[str, Main], missing_images: Collection[str] = (), clock: Clock | None = None
    ) -> None:
        self.programs = dict(programs)
        self.missing_images = frozenset(missing_images)
        self.clock: Clock = clock or LoopClock()
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.watchers: list[tuple[FakeEngine, asyncio.Queue[SandboxInfo]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Belong to the running loop.

        Raises:
            RuntimeError: Sandboxes run here that belong to another loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        running = [name for name, sandbox in self.sandboxes.items() if not sandbox.info.status.is_terminal]
        if self._loop is not None and running:
            if not self._loop.is_closed():
                raise RuntimeError(f"this FakeEngine belongs to another event loop, on which it runs {running}")
            for name in running:
                self.sandboxes[name].end_without_loop()
            for sandbox in self.sandboxes.values():
                sandbox.kernel.forget()
        self._loop = loop

    def on_loop(self, action: Callable[[], T]) -> T:
        """Do something on the event loop of the sandboxes, from whatever thread, and give what it returns."""
        loop = self._loop
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is None or here is loop or not loop.is_running():
            return action()
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> None:
            try:
                outcome.set_result(action())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                outcome.set_exception(error)

        loop.call_soon_threadsafe(act)
        return outcome.result()

    def find(self, sandbox_id: str) -> FakeSandbox:
        """Look a sandbox up.

        Raises:
            SandboxNotFoundError: There is none of this id.
        """
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None:
            raise SandboxNotFoundError(f"the fake engine knows no sandbox {sandbox_id}", sandbox_id=sandbox_id)
        return sandbox

    def publish(self, sandbox: FakeSandbox) -> None:
        """Push the state to those who watch it."""
        for engine, queue in self.watchers:
            if engine in sandbox.clients or engine.made(sandbox.spec.sandbox_id):
                queue.put_nowait(sandbox.info)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
