# Generated from aviato/aio/process.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""A command in a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aviato import aio
from aviato.models import ProcessResult
from aviato_sync._bridge import RefHandle, facade_of
from aviato_sync._operation import OperationRef

if TYPE_CHECKING:
    from aviato_sync._generated.streams import StreamReader, StreamWriter

__all__ = [
    "Process",
]


@facade_of(aio.Process)
class Process(RefHandle[ProcessResult]):
    """A command, from the moment it was asked for.

    It is returned before the command, or even the sandbox, has started. Awaiting it gives the `ProcessResult`;
    cancelling one who waits never cancels the command. `cancel()` does, in the sandbox too.
    """

    _core: aio.Process

    @property
    def command(self) -> tuple[str, ...]:
        """The argument list."""
        return self._core.command

    @property
    def sandbox_id(self) -> str:
        """Id of the sandbox it runs in."""
        return self._core.sandbox_id

    @property
    def returncode(self) -> int | None:
        """Return code, None until the command has ended."""
        return self._core.returncode

    @property
    def stdout(self) -> StreamReader[str]:
        """Standard output by lines; `stdout.buffer` gives it as bytes."""
        __tracebackhide__ = True
        return cast("StreamReader[str]", self._get("stdout"))

    @property
    def stderr(self) -> StreamReader[str]:
        """Standard error by lines; `stderr.buffer` gives it as bytes."""
        __tracebackhide__ = True
        return cast("StreamReader[str]", self._get("stderr"))

    @property
    def stdin(self) -> StreamWriter | None:
        """The input when `exec` was called with `stdin=True`, else None."""
        __tracebackhide__ = True
        return cast("StreamWriter | None", self._get("stdin"))

    def poll(self) -> int | None:
        """Return the return code, or None while the command has not ended."""
        __tracebackhide__ = True
        return self._call(self._core.poll)

    def result(
        self,
        timeout: float | None = None,
    ) -> ProcessResult:
        """Wait for the end and return the result; may be called any number of times.

        Args:
            timeout: Seconds to wait; None waits as long as it takes. Only the waiting ends: the command goes on.

        Raises:
            TimeoutError: `timeout` passed; call again to wait on.
            SandboxTimeoutError: The command's own `timeout_seconds` passed and it was killed, with all its children;
                the output so far is in `exec_result`.
            SandboxExecutionError: `check=True` and the return code is not 0; or the command could not be started.
            SandboxTerminatedError: The sandbox was stopped, or one of its time limits passed.
            SandboxNotRunningError: The sandbox had ended by itself.
            SandboxLostError: What ran the sandbox is gone.
            EngineConnectionError: The agent could not be reached again in time.
            AgentProtocolError: The agent broke its protocol.
            concurrent.futures.CancelledError: It was cancelled with `cancel()`.
        """
        __tracebackhide__ = True
        return super().result(timeout)

    def wait(
        self,
        timeout: float | None = None,
    ) -> OperationRef[int]:
        """Wait for the end and return the return code, whatever `check` says.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Args:
            timeout: Seconds to wait; None waits as long as it takes. Only the waiting ends.

        Raises:
            TimeoutError: `timeout` passed.
            SandboxTimeoutError: The command's own time limit passed.
            SandboxError: As `result`, for a sandbox that ended or was lost.
            EngineError: As `result`.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.wait,
            timeout,
        )

    def cancel(self) -> bool:
        """Kill the command and everything it started; False when it has already ended.

        `result` raises `CancelledError` once it is dead.
        """
        __tracebackhide__ = True
        return self._call(self._core.cancel)

    def kill(self) -> None:
        """Send SIGKILL to the command and everything it started; no error when it has ended."""
        __tracebackhide__ = True
        self._call(self._core.kill)

    def send_signal(
        self,
        signal: int,
    ) -> None:
        """Send a signal to the command itself, at its start if it has not started; no error when it has ended.

        Raises:
            ValueError: It is not the number of a signal.
        """
        __tracebackhide__ = True
        self._call(
            self._core.send_signal,
            signal,
        )
