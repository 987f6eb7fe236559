# Generated from aviato/aio/sandbox.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""One sandbox."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, cast

from aviato import aio
from aviato.models import ExitReason, Isolation, Resources, SandboxDefaults, SandboxStatus
from aviato_sync._bridge import AwaitableHandle, ContextHandle, call_class, facade_of, start_class
from aviato_sync._iterators import feed
from aviato_sync._operation import OperationRef

if TYPE_CHECKING:
    from aviato_sync._generated.process import Process
    from aviato_sync._generated.session import Session
    from aviato_sync._generated.streams import StreamReader

__all__ = [
    "Sandbox",
]


@facade_of(aio.Sandbox)
class Sandbox(AwaitableHandle, ContextHandle):
    """An isolated environment in which commands run.

    Made by `Session.sandbox`, by `Sandbox.run`, or not yet started by the constructor, which takes the fields of
    `SandboxDefaults` as keywords: the first operation or `start` then starts it. Every operation waits by itself until
    it runs. Awaiting a sandbox waits until it runs and gives it back; as a context manager it is stopped at the end.
    """

    _core: aio.Sandbox

    def __init__(
        self,
        **config: Any,
    ) -> None:
        """Describe a sandbox.

        Raises:
            TypeError: A keyword is unknown or has the wrong type.
            ValueError: A value is out of range.
            RuntimeError: No event loop is running.
        """
        __tracebackhide__ = True
        self._make(
            aio.Sandbox,
            **config,
        )

    @classmethod
    def run(
        cls,
        *command: str,
        **config: Any,
    ) -> Self:
        """Start a sandbox without a session; returns at once.

        Args:
            command: The main program and its arguments; none keeps the sandbox alive until it is stopped.
            config: Fields of `SandboxDefaults`.

        Raises:
            TypeError: A keyword is unknown, or a value has the wrong type.
            ValueError: A value is out of range.
        """
        __tracebackhide__ = True
        return cast(
            "Self",
            call_class(
                aio.Sandbox.run,
                *command,
                **config,
            ),
        )

    @classmethod
    def session(
        cls,
        defaults: SandboxDefaults | Mapping[str, Any] | None = None,
    ) -> Session:
        """Return `Session(defaults)`."""
        __tracebackhide__ = True
        return cast(
            "Session",
            call_class(
                aio.Sandbox.session,
                defaults,
            ),
        )

    @classmethod
    def list(
        cls,
        *,
        tags: Iterable[str] | None = None,
        status: SandboxStatus | str | Iterable[SandboxStatus | str] | None = None,
        include_stopped: bool = False,
        engine: Any = None,
        base_url: str | None = None,
    ) -> OperationRef[builtins.list[Self]]:
        """Find sandboxes of this user, whichever process made them, oldest first.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

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
        __tracebackhide__ = True
        return start_class(
            aio.Sandbox.list,
            tags=tags,
            status=status,
            include_stopped=include_stopped,
            engine=engine,
            base_url=base_url,
        )

    @classmethod
    def from_id(
        cls,
        sandbox_id: str,
        *,
        engine: Any = None,
        base_url: str | None = None,
    ) -> OperationRef[Self]:
        """Attach to a sandbox, made by whatever process of this user.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            ValueError: `sandbox_id` is not of the form of an id.
            SandboxNotFoundError: There is none of this id.
            EngineError: The engine could not be asked.
        """
        __tracebackhide__ = True
        return start_class(
            aio.Sandbox.from_id,
            sandbox_id,
            engine=engine,
            base_url=base_url,
        )

    @classmethod
    def delete(
        cls,
        sandbox_id: str,
        *,
        missing_ok: bool = False,
        engine: Any = None,
        base_url: str | None = None,
    ) -> OperationRef[None]:
        """Stop a sandbox at once and remove every trace of it.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

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
        __tracebackhide__ = True
        return start_class(
            aio.Sandbox.delete,
            sandbox_id,
            missing_ok=missing_ok,
            engine=engine,
            base_url=base_url,
        )

    @property
    def sandbox_id(self) -> str:
        """The id, made by the client; it is set from the beginning."""
        return self._core.sandbox_id

    @property
    def status(self) -> SandboxStatus:
        """The status last seen; no I/O."""
        return self._core.status

    @property
    def status_updated_at(self) -> datetime:
        """When the status was last seen."""
        return self._core.status_updated_at

    @property
    def returncode(self) -> int | None:
        """Return code of the main command; None while it runs, or when there is none."""
        return self._core.returncode

    @property
    def exit_reason(self) -> ExitReason | None:
        """Why it ended, None while it lives."""
        return self._core.exit_reason

    @property
    def started_at(self) -> datetime | None:
        """When it began to run."""
        return self._core.started_at

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return self._core.created_at

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return self._core.tags

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations, the automatic ones about its owner included."""
        return self._core.annotations

    @property
    def container_image(self) -> str:
        """Its image, as the engine names it once it runs."""
        return self._core.container_image

    @property
    def resources(self) -> Resources:
        """Its limits."""
        return self._core.resources

    @property
    def isolation(self) -> Isolation | None:
        """What protects it, None until it runs and where the engine cannot tell."""
        return self._core.isolation

    @property
    def engine_name(self) -> str:
        """Name of the engine it lives on."""
        return self._core.engine_name

    @property
    def exposed_ports(self) -> Mapping[int, int]:
        """Published ports: the sandbox's own to those they are reached at."""
        return self._core.exposed_ports

    @property
    def service_address(self) -> str | None:
        """Address at which published ports are reached, or None."""
        return self._core.service_address

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
        __tracebackhide__ = True
        return cast(
            "Process",
            self._launch(
                "exec",
                command,
                cwd=cwd,
                env=env,
                user=user,
                check=check,
                timeout_seconds=timeout_seconds,
                stdin=stdin,
                max_output_bytes=max_output_bytes,
            ),
        )

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
        __tracebackhide__ = True
        return cast(
            "StreamReader[str]",
            self._call_wrapped(
                self._core.stream_logs,
                follow=follow,
                tail_lines=tail_lines,
                since_time=since_time,
                timestamps=timestamps,
            ),
        )

    def read_file(
        self,
        path: str,
    ) -> OperationRef[bytes]:
        """Read a whole file.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            ValueError: `path` is not absolute.
            SandboxFileError: It cannot be read: `errno` and `filepath` tell.
            SandboxError: The sandbox could not start or has ended.
            EngineConnectionError: The connection was lost meanwhile.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.read_file,
            path,
        )

    def write_file(
        self,
        path: str,
        data: bytes | str,
    ) -> OperationRef[None]:
        """Write a whole file: either all of it is there afterwards, or the old state.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

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
        __tracebackhide__ = True
        return self._start(
            self._core.write_file,
            path,
            data,
        )

    def read_file_streaming(
        self,
        path: str,
    ) -> StreamReader[bytes]:
        """Read a file of any size piece by piece, in flat memory.

        The reader raises what `read_file` does, at its first piece or later.

        Raises:
            ValueError: `path` is not absolute.
        """
        __tracebackhide__ = True
        return cast(
            "StreamReader[bytes]",
            self._call_wrapped(
                self._core.read_file_streaming,
                path,
            ),
        )

    def write_file_streaming(
        self,
        path: str,
        data: bytes | Iterable[bytes] | AsyncIterable[bytes],
    ) -> OperationRef[int]:
        """Write a file of any size from pieces, in flat memory and as atomically as `write_file`.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

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
        __tracebackhide__ = True
        return self._start(
            self._core.write_file_streaming,
            path,
            feed(data),
        )

    def start(self) -> OperationRef[None]:
        """Start it and wait until it runs; no effect when it runs already.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            AviatoError: It could not start; the class tells why.
        """
        __tracebackhide__ = True
        return self._start(self._core.start)

    def wait(
        self,
        timeout: float | None = None,
    ) -> OperationRef[Self]:
        """Wait until it runs, starting it if that was not done; returns the sandbox.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Args:
            timeout: Seconds to wait; None waits as long as `request_timeout_seconds` lets the start take.

        Raises:
            TimeoutError: `timeout` passed; the start goes on.
            AviatoError: It could not start, or has ended.
        """
        __tracebackhide__ = True
        return self._start_wrapped(
            self._core.wait,
            timeout,
        )

    def wait_until_complete(
        self,
        timeout: float | None = None,
        *,
        raise_on_termination: bool = True,
    ) -> OperationRef[Self]:
        """Wait until the main command has ended, or the sandbox was ended; returns the sandbox.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.
            raise_on_termination: Raise when it was stopped from outside or by a time limit.

        Raises:
            TimeoutError: `timeout` passed; the sandbox goes on.
            SandboxFailedError: The main command's return code is not 0, or the sandbox failed.
            SandboxTerminatedError: It was stopped, and `raise_on_termination`.
            SandboxLostError: What ran it is gone.
        """
        __tracebackhide__ = True
        return self._start_wrapped(
            self._core.wait_until_complete,
            timeout,
            raise_on_termination=raise_on_termination,
        )

    def get_status(self) -> OperationRef[SandboxStatus]:
        """Ask the engine for the status.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            EngineError: It could not be asked.
            SandboxTimeoutError: It did not answer in time.
        """
        __tracebackhide__ = True
        return self._start(self._core.get_status)

    def extend_lifetime(
        self,
        seconds: float,
    ) -> OperationRef[None]:
        """Let its lifetime end `seconds` later than it would have; a sandbox without a limit has none to extend.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            ValueError: `seconds` is not more than zero.
            SandboxNotRunningError: It has ended.
            EngineError: The engine could not be asked.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.extend_lifetime,
            seconds,
        )

    def stop(
        self,
        *,
        graceful_shutdown_seconds: float = 10,
        missing_ok: bool = False,
    ) -> OperationRef[None]:
        """Stop it and wait until nothing of it runs.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Every command gets SIGTERM; what still runs after `graceful_shutdown_seconds` gets SIGKILL. Idempotent,
        shared by concurrent callers; one that never started is only marked. If cancelled, the stop goes on.

        Args:
            graceful_shutdown_seconds: Seconds between the two signals, 0 or more; 0 kills at once.
            missing_ok: Succeed when the engine no longer knows it.

        Raises:
            SandboxNotFoundError: The engine does not know it and not `missing_ok`.
            EngineError: It could not be stopped; call again.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.stop,
            graceful_shutdown_seconds=graceful_shutdown_seconds,
            missing_ok=missing_ok,
        )
