"""One sandbox."""

from __future__ import annotations

import asyncio
import builtins
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from aviato import validation
from aviato.aio import _cleanup, _files
from aviato.aio import _facade as facade
from aviato.aio._config import as_defaults, make_spec, pending_info
from aviato.aio._exec import prepare_exec
from aviato.aio._ids import check_sandbox_id, new_sandbox_id
from aviato.aio._life import Life
from aviato.aio._logs import LogSource
from aviato.aio._loop import EngineLink, engine_link, open_link
from aviato.aio.process import Process
from aviato.aio.streams import StreamReader
from aviato.engines.base import LogRecord, SandboxQuery
from aviato.exceptions import SandboxFailedError, SandboxTerminatedError
from aviato.models import ExitReason, Isolation, Resources, SandboxDefaults, SandboxInfo, SandboxStatus

if TYPE_CHECKING:
    from types import TracebackType

    from aviato.aio.session import Session

__all__ = ["Sandbox"]


def _statuses(status: Any) -> frozenset[SandboxStatus]:
    if status is None:
        return frozenset()
    given = (status,) if isinstance(status, str) else tuple(status)
    known = ", ".join(SandboxStatus)
    try:
        return frozenset(SandboxStatus(item) for item in given)
    except ValueError as error:
        raise ValueError(f"status must be of {known}, got {status!r}") from error


@facade.handle
class Sandbox:
    """An isolated environment in which commands run.

    Made by `Session.sandbox`, by `Sandbox.run`, or not yet started by the constructor, which takes the fields of
    `SandboxDefaults` as keywords: the first operation or `start` then starts it. Every operation waits by itself until
    it runs. Awaiting a sandbox waits until it runs and gives it back; as a context manager it is stopped at the end.
    """

    def __init__(self, **config: Any) -> None:
        """Describe a sandbox.

        Raises:
            TypeError: A keyword is unknown or has the wrong type.
            ValueError: A value is out of range.
            RuntimeError: No event loop is running.
        """
        settings = SandboxDefaults().with_overrides(**config)
        self._bind(_new_life(settings, None, None), owner=True)

    def _bind(self, life: Life, *, owner: bool) -> None:
        self._life = life
        self._owner = owner

    @classmethod
    @facade.skip("for the core's own use")
    def _of(cls, life: Life, *, owner: bool) -> Self:
        sandbox = cls.__new__(cls)
        sandbox._bind(life, owner=owner)  # noqa: SLF001 - its own class
        return sandbox

    @classmethod
    def run(cls, *command: str, **config: Any) -> Self:
        """Start a sandbox without a session; returns at once.

        Args:
            command: The main program and its arguments; none keeps the sandbox alive until it is stopped.
            config: Fields of `SandboxDefaults`.

        Raises:
            TypeError: A keyword is unknown, or a value has the wrong type.
            ValueError: A value is out of range.
        """
        if command:
            items = validation.words("Sandbox.run", command)
            config = {"command": items[0], "args": items[1:], **config}
        sandbox = cls(**config)
        sandbox._begin()
        return sandbox

    @classmethod
    def session(cls, defaults: SandboxDefaults | Mapping[str, Any] | None = None) -> Session:
        """Return `Session(defaults)`."""
        from aviato.aio.session import Session  # noqa: PLC0415 - sessions import sandboxes

        return Session(defaults)

    @classmethod
    async def list(
        cls,
        *,
        tags: Iterable[str] | None = None,
        status: SandboxStatus | str | Iterable[SandboxStatus | str] | None = None,
        include_stopped: bool = False,
        engine: Any = None,
        base_url: str | None = None,
    ) -> builtins.list[Self]:
        """Find sandboxes of this user, whichever process made them, oldest first.

        Args:
            tags: All of these must be among a sandbox's tags.
            status: One status or several; None is every one that has not ended.
            include_stopped: Include sandboxes that have ended, as long as the engine remembers them.
            engine: Engine to ask; None is the configured one.
            base_url: URL of a gateway to ask.

        Raises:
            TypeError: `tags` is a bare string.
            ValueError: A tag or status is not one.
            EngineError: The engine could not be asked.
        """
        link = await open_link(engine, base_url)
        query = SandboxQuery(
            tags=SandboxDefaults(tags=() if tags is None else tags).tags,
            statuses=_statuses(status),
            include_stopped=include_stopped,
        )
        found = [info async for info in link.engine.list(query)]
        found.sort(key=lambda info: (info.created_at, info.sandbox_id))
        return [cls._of(_known_life(link, info), owner=False) for info in found]

    @classmethod
    async def from_id(cls, sandbox_id: str, *, engine: Any = None, base_url: str | None = None) -> Self:
        """Attach to a sandbox, made by whatever process of this user.

        Raises:
            ValueError: `sandbox_id` is not of the form of an id.
            SandboxNotFoundError: There is none of this id.
            EngineError: The engine could not be asked.
        """
        link = await open_link(engine, base_url)
        info = await link.engine.get(check_sandbox_id(sandbox_id))
        return cls._of(_known_life(link, info), owner=False)

    @classmethod
    async def delete(
        cls, sandbox_id: str, *, missing_ok: bool = False, engine: Any = None, base_url: str | None = None
    ) -> None:
        """Stop a sandbox at once and remove every trace of it.

        Args:
            sandbox_id: Its id.
            missing_ok: Succeed when there is none of this id.
            engine: Engine to ask; None is the configured one.
            base_url: URL of a gateway to ask.

        Raises:
            ValueError: `sandbox_id` is not of the form of an id.
            SandboxNotFoundError: There is none of this id and not `missing_ok`.
            EngineError: The engine could not be asked.
        """
        link = await open_link(engine, base_url)
        await link.engine.delete(check_sandbox_id(sandbox_id), missing_ok=missing_ok)
        life = link.lives.get(sandbox_id)
        if life is not None:
            if not life.info.status.is_terminal:
                await life.stop(0.0, missing_ok=True)
            await life.left()

    def __repr__(self) -> str:
        return f"<Sandbox {self.sandbox_id} {self.status}>"

    @property
    def sandbox_id(self) -> str:
        """The id, made by the client; it is set from the beginning."""
        return self._life.sandbox_id

    @property
    def status(self) -> SandboxStatus:
        """The status last seen; no I/O."""
        return self._life.info.status

    @property
    def status_updated_at(self) -> datetime:
        """When the status was last seen."""
        return self._life.observed_at

    @property
    def returncode(self) -> int | None:
        """Return code of the main command; None while it runs, or when there is none."""
        return self._life.info.returncode

    @property
    def exit_reason(self) -> ExitReason | None:
        """Why it ended, None while it lives."""
        return self._life.info.exit_reason

    @property
    def started_at(self) -> datetime | None:
        """When it began to run."""
        return self._life.info.started_at

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return self._life.info.created_at

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return self._life.info.tags

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations, the automatic ones about its owner included."""
        return self._life.info.annotations

    @property
    def container_image(self) -> str:
        """Its image, as the engine names it once it runs."""
        return self._life.info.container_image

    @property
    def resources(self) -> Resources:
        """Its limits."""
        return self._life.info.resources

    @property
    def isolation(self) -> Isolation | None:
        """What protects it, None until it runs and where the engine cannot tell."""
        return self._life.info.isolation

    @property
    def engine_name(self) -> str:
        """Name of the engine it lives on."""
        return self._life.link.engine.name

    @property
    def exposed_ports(self) -> Mapping[int, int]:
        """Published ports: the sandbox's own to those they are reached at."""
        return self._life.info.exposed_ports

    @property
    def service_address(self) -> str | None:
        """Address at which published ports are reached, or None."""
        return self._life.info.service_address

    @facade.prepared
    def exec(
        self,
        command: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        check: bool = False,
        timeout_seconds: float | None = None,
        stdin: bool | bytes | str = False,
        max_output_bytes: int | None = None,
    ) -> Process:
        """Start a command; returns at once.

        Args:
            command: Argument list; there is no shell between.
            cwd: Absolute directory to start in; None is the sandbox's `working_dir`.
            env: Variables on top of the sandbox's own.
            user: Name or number to run as; None is the sandbox's.
            check: Raise at the result when the return code is not 0.
            timeout_seconds: Time from the start of the command after which it is killed with all its children.
            stdin: True for a writer at `Process.stdin`, or the input itself; False is an empty input.
            max_output_bytes: Bytes of each stream to keep for the result; None is 64 MiB. More is dropped from the
                result, marked `truncated`, never from what readers see while they iterate.

        Raises:
            TypeError: An argument has the wrong type, such as a bare string for `command`.
            ValueError: An argument is out of range, `cwd` is relative, or command and variables exceed 1 MB.
        """
        self._life.check()
        process = self._prepare_exec(
            command,
            cwd=cwd,
            env=env,
            user=user,
            check=check,
            timeout_seconds=timeout_seconds,
            stdin=stdin,
            max_output_bytes=max_output_bytes,
        )
        return process._launch()  # noqa: SLF001 - sandboxes make processes

    def _prepare_exec(self, command: Sequence[str], **options: Any) -> Process:
        return prepare_exec(self._life, command, **options)

    def stream_logs(
        self,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_time: datetime | float | None = None,
        timestamps: bool = False,
    ) -> StreamReader[str]:
        """Read the main command's output, both streams as they came, also after it ended.

        Args:
            follow: Go on until the main command ends.
            tail_lines: Only this many of the last lines; None is all that the engine has kept.
            since_time: Only what was written after this time, a `datetime` with zone or seconds since the epoch.
            timestamps: Put the time (UTC, ISO 8601) before each line.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: `tail_lines` is negative, or `since_time` has no zone.
        """
        self._life.check()
        if tail_lines is not None:
            validation.whole_number("tail_lines", tail_lines)
        since: float | None = None
        if isinstance(since_time, datetime):
            if since_time.tzinfo is None:
                raise ValueError(f"since_time must have a time zone, got {since_time!r}")
            since = since_time.timestamp()
        elif since_time is not None:
            since = validation.seconds("since_time", since_time)
        return StreamReader(LogSource(self._records(follow, tail_lines, since), timestamps=timestamps), empty="")

    async def _records(
        self, follow: bool, tail_lines: int | None, since: float | None
    ) -> AsyncGenerator[LogRecord, None]:
        await self._life.started_or_ended()
        async for record in self._life.link.engine.logs(
            self.sandbox_id, follow=follow, tail_lines=tail_lines, since=since
        ):
            yield record

    async def read_file(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            ValueError: `path` is not absolute.
            SandboxFileError: It cannot be read: `errno` and `filepath` tell.
            SandboxError: The sandbox could not start or has ended.
            EngineConnectionError: The connection was lost meanwhile.
        """
        return await _files.read(await self._life.ready(), path)

    async def write_file(self, path: str, data: bytes | str) -> None:
        """Write a whole file: either all of it is there afterwards, or the old state.

        The data goes to a temporary name beside the file and is renamed. Missing directories are made. An existing
        file keeps its mode; a new one gets 0644.

        Args:
            path: Absolute path in the sandbox.
            data: The content; text is encoded as UTF-8.

        Raises:
            TypeError: `data` is neither bytes nor str.
            ValueError: `path` is not absolute.
            SandboxFileError: It cannot be written, for example because the disk is full.
            SandboxError: The sandbox could not start or has ended.
            EngineConnectionError: The connection was lost meanwhile; `outcome` tells whether the file may be in place.
        """
        validated = _files.check_data(path, data)
        await _files.write(await self._life.ready(), path, validated)

    def read_file_streaming(self, path: str) -> StreamReader[bytes]:
        """Read a file of any size piece by piece, in flat memory.

        The reader raises what `read_file` does, at its first piece or later.

        Raises:
            ValueError: `path` is not absolute.
        """
        self._life.check()
        return StreamReader(_files.FileSource(self._life, validation.absolute_path("path", path)), empty=b"")

    async def write_file_streaming(self, path: str, data: bytes | Iterable[bytes] | AsyncIterable[bytes]) -> int:
        """Write a file of any size from pieces, in flat memory and as atomically as `write_file`.

        If the iterable raises or the call is cancelled, the old file stays as it was.

        Args:
            path: Absolute path in the sandbox.
            data: Bytes, or an iterable or asynchronous iterable of bytes; a blocking iterable blocks the event loop.

        Returns:
            Number of bytes written.

        Raises:
            TypeError: `data` or one of its pieces is not bytes.
            ValueError: `path` is not absolute.
            SandboxFileError: It cannot be written.
            SandboxError: The sandbox could not start or has ended.
            EngineConnectionError: The connection was lost meanwhile.
        """
        pieces = _files.check_pieces(path, data)
        return await _files.write(await self._life.ready(), path, pieces)

    async def start(self) -> None:
        """Start it and wait until it runs; no effect when it runs already.

        Raises:
            AviatoError: It could not start; the class tells why.
        """
        self._begin()
        await self._life.ready()

    async def wait(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 - ends only the waiting
        """Wait until it runs, starting it if that was not done; returns the sandbox.

        Args:
            timeout: Seconds to wait; None waits as long as `request_timeout_seconds` lets the start take.

        Raises:
            TimeoutError: `timeout` passed; the start goes on.
            AviatoError: It could not start, or has ended.
        """
        self._begin()
        await self._life.ready(timeout)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until it runs."""
        return self.wait().__await__()

    async def wait_until_complete(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - ends only the waiting
        *,
        raise_on_termination: bool = True,
    ) -> Self:
        """Wait until the main command has ended, or the sandbox was ended; returns the sandbox.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.
            raise_on_termination: Raise when it was stopped from outside or by a time limit.

        Raises:
            TimeoutError: `timeout` passed; the sandbox goes on.
            SandboxFailedError: The main command's return code is not 0, or the sandbox failed.
            SandboxTerminatedError: It was stopped, and `raise_on_termination`.
            SandboxLostError: What ran it is gone.
        """
        life = self._life
        life.check()
        if not life.ended.is_set():
            await life.started_or_ended(timeout)
            try:
                async with asyncio.timeout(timeout):
                    await life.ended.wait()
            except TimeoutError as error:
                raise TimeoutError(
                    f"sandbox {self.sandbox_id} has not ended within {timeout:g} s; it goes on"
                ) from error
        await life.left()
        if life.failure is not None:
            life.failure_seen = True
            raise life.failure
        end = life.end_error()
        if self.status is SandboxStatus.COMPLETED or (
            isinstance(end, SandboxTerminatedError) and not raise_on_termination
        ):
            return self
        if self.status is SandboxStatus.FAILED and self.returncode is not None:
            raise SandboxFailedError(
                f"the main command of sandbox {self.sandbox_id} returned {self.returncode}",
                sandbox_id=self.sandbox_id,
                hint=life.main_command_hint(),
            )
        raise end

    async def get_status(self) -> SandboxStatus:
        """Ask the engine for the status.

        Raises:
            EngineError: It could not be asked.
            SandboxTimeoutError: It did not answer in time.
        """
        life = self._life
        life.check()
        unknown_to_the_engine = life.spec is not None and not life.is_ready
        if not self.status.is_terminal and not unknown_to_the_engine:
            await life.refresh()
        return self.status

    async def extend_lifetime(self, seconds: float) -> None:
        """Let its lifetime end `seconds` later than it would have; a sandbox without a limit has none to extend.

        Raises:
            ValueError: `seconds` is not more than zero.
            SandboxNotRunningError: It has ended.
            EngineError: The engine could not be asked.
        """
        extra = validation.seconds("seconds", seconds, above=True)
        await self._life.ready()
        self._life.observe(await self._life.link.engine.extend(self.sandbox_id, extra))

    async def stop(self, *, graceful_shutdown_seconds: float = 10, missing_ok: bool = False) -> None:
        """Stop it and wait until nothing of it runs.

        Every command gets SIGTERM; what still runs after `graceful_shutdown_seconds` gets SIGKILL. Idempotent,
        shared by concurrent callers; one that never started is only marked. If cancelled, the stop goes on.

        Args:
            graceful_shutdown_seconds: Seconds between the two signals, 0 or more; 0 kills at once.
            missing_ok: Succeed when the engine no longer knows it.

        Raises:
            SandboxNotFoundError: The engine does not know it and not `missing_ok`.
            EngineError: It could not be stopped; call again.
        """
        grace = validation.seconds("graceful_shutdown_seconds", graceful_shutdown_seconds)
        await self._life.stop(grace, missing_ok=missing_ok)
        await self._life.left()

    async def __aenter__(self) -> Self:
        """Begin the start if that was not done, and return the sandbox without waiting for it."""
        self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it; in a forked child, whose own it is not, do nothing."""
        if not self._life.is_own_process():
            return
        await self.stop(missing_ok=True)
        failed = self._life.failure
        if failed is not None and exc is None and not self._life.failure_seen:
            self._life.failure_seen = True
            raise failed

    def _begin(self) -> None:
        self._life.check()
        if self._owner and self._life.spec is not None:
            _cleanup.install_signal_handlers()
        self._life.begin()

    def __del__(self) -> None:
        life = getattr(self, "_life", None)
        if life is None or sys.is_finalizing() or not self._owner or not life.started or life.info.status.is_terminal:
            return
        if life.info.detached or life.tracked or not life.is_own_process():
            return
        warnings.warn(
            f"sandbox {life.sandbox_id} was dropped without being stopped; use `with`, stop() or a Session",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )


def _new_life(config: SandboxDefaults, engine: Any, session_id: str | None) -> Life:
    link = engine_link(engine if engine is not None else config.engine, config.base_url if engine is None else None)
    spec = make_spec(new_sandbox_id(), config, session_id)
    return Life(link, pending_info(spec), spec, config.request_timeout_seconds)


def _known_life(link: EngineLink, info: SandboxInfo) -> Life:
    life = link.lives.get(info.sandbox_id)
    if life is None:
        return Life(link, info, None, as_defaults(None).request_timeout_seconds)
    life.observe(info)
    return life
