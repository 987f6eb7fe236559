"""A command in a sandbox."""

from __future__ import annotations

import asyncio
import copy
import signal as signals
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Self

from aviato.agent.frames import ExitFlags, ExitStatus, Which
from aviato.aio import _facade as facade
from aviato.aio._completion import Completion
from aviato.aio._output import ChunkSource, Cursor, LineSource, OutputBuffer
from aviato.aio.streams import StreamReader, StreamWriter
from aviato.exceptions import AviatoError, SandboxExecutionError, SandboxTimeoutError
from aviato.models import ExitReason, ProcessResult

if TYPE_CHECKING:
    from aviato.agent.channel import Channel
    from aviato.agent.remote import RemoteProcess
    from aviato.aio._life import Life

__all__ = ["Process"]

OVERDUE_SECONDS = 5.0
"""How long after its time limit a command may take to be reported dead before the client stops believing the agent."""
_TIMED_OUT = int(ExitFlags.TIMED_OUT)  # an operator of an enumeration costs a microsecond


def _reader(buffer: OutputBuffer) -> StreamReader[str]:
    cursor = Cursor(buffer)

    def raw() -> StreamReader[bytes]:
        place = Cursor(buffer)
        return StreamReader(ChunkSource(place), place, empty=b"")

    return StreamReader(LineSource(cursor), cursor, empty="", buffer=raw)


@facade.handle
class Process:
    """A command, from the moment it was asked for.

    It is returned before the command, or even the sandbox, has started. Awaiting it gives the `ProcessResult`;
    cancelling one who waits never cancels the command. `cancel()` does, in the sandbox too.
    """

    def __init__(
        self,
        life: Life,
        command: tuple[str, ...],
        *,
        cwd: str,
        env: dict[str, str],
        user: str,
        check: bool,
        timeout_seconds: float | None,
        stdin: bool | bytes,
        max_output_bytes: int,
    ) -> None:
        self._life = life
        self._command = command
        self._options: dict[str, Any] = {"cwd": cwd, "env": env, "user": user}
        self._check = check
        self._timeout_seconds = timeout_seconds
        self._loop = life.loop
        label = f"command {command[0]!r} in {life.sandbox_id}"
        self._completion: Completion[ProcessResult] = Completion(label, self._loop)
        self._buffers = {
            Which.STDOUT: OutputBuffer("stdout", max_output_bytes, self._loop, life.sandbox_id),
            Which.STDERR: OutputBuffer("stderr", max_output_bytes, self._loop, life.sandbox_id),
        }
        self._stdout: StreamReader[str] | None = None
        self._stderr: StreamReader[str] | None = None
        self._writer = StreamWriter(label, self._loop, life.sandbox_id) if stdin is not False else None
        self._input = stdin if isinstance(stdin, bytes) else None
        self._remote: RemoteProcess | None = None
        self._queued_signals: list[tuple[int, bool]] = []
        self._cancelling = False
        self._timer: asyncio.TimerHandle | None = None
        self._returncode: int | None = None

    def _launch(self) -> Self:
        """Ask for the start as soon as the sandbox runs; on the loop's thread, once."""
        self._life.when_ready(self._begin, self._fail)
        return self

    def __repr__(self) -> str:
        state = "running" if self._returncode is None else f"returncode={self._returncode}"
        return f"<Process {list(self._command)!r} in {self._life.sandbox_id} {state}>"

    @property
    def command(self) -> tuple[str, ...]:
        """The argument list."""
        return self._command

    @property
    def sandbox_id(self) -> str:
        """Id of the sandbox it runs in."""
        return self._life.sandbox_id

    @property
    def returncode(self) -> int | None:
        """Return code, None until the command has ended."""
        return self._returncode

    @property
    def stdout(self) -> StreamReader[str]:
        """Standard output by lines; `stdout.buffer` gives it as bytes."""
        if self._stdout is None:
            self._stdout = _reader(self._buffers[Which.STDOUT])
        return self._stdout

    @property
    def stderr(self) -> StreamReader[str]:
        """Standard error by lines; `stderr.buffer` gives it as bytes."""
        if self._stderr is None:
            self._stderr = _reader(self._buffers[Which.STDERR])
        return self._stderr

    @property
    def stdin(self) -> StreamWriter | None:
        """The input when `exec` was called with `stdin=True`, else None."""
        return None if self._input is not None else self._writer

    def poll(self) -> int | None:
        """Return the return code, or None while the command has not ended."""
        return self._returncode

    def done(self) -> bool:
        """Tell whether there is a result, an error or a cancellation."""
        return self._completion.done

    def cancelled(self) -> bool:
        """Tell whether it was cancelled and has ended."""
        return self._completion.cancelled

    async def result(self, timeout: float | None = None) -> ProcessResult:  # noqa: ASYNC109 - the shape of concurrent.futures
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
            asyncio.CancelledError: It was cancelled with `cancel()`.
        """
        result = await self._completion.wait(timeout)
        if self._check and result.returncode != 0:
            raise SandboxExecutionError(
                f"command {list(self._command)!r} returned {result.returncode}{_last_line(result)}",
                exec_result=result,
                sandbox_id=self._life.sandbox_id,
            )
        return result

    async def wait(self, timeout: float | None = None) -> int:  # noqa: ASYNC109 - the shape of subprocess
        """Wait for the end and return the return code, whatever `check` says.

        Args:
            timeout: Seconds to wait; None waits as long as it takes. Only the waiting ends.

        Raises:
            TimeoutError: `timeout` passed.
            SandboxTimeoutError: The command's own time limit passed.
            SandboxError: As `result`, for a sandbox that ended or was lost.
            EngineError: As `result`.
        """
        return (await self._completion.wait(timeout)).returncode

    async def exception(self, timeout: float | None = None) -> BaseException | None:  # noqa: ASYNC109 - as concurrent.futures
        """Wait for the end and return the error that `result` would raise, or None.

        Raises:
            TimeoutError: `timeout` seconds passed.
            asyncio.CancelledError: It was cancelled with `cancel()`.
        """
        await self._completion.settled(timeout)
        try:
            await self.result()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the value asked for
            return error
        return None

    def add_done_callback(self, callback: Callable[[Self], object]) -> None:
        """Call `callback(process)` on the event loop when it has ended, or now if it has."""
        self._completion.add_done_callback(lambda: callback(self))

    def __await__(self) -> Generator[Any, None, ProcessResult]:
        """Wait for the result."""
        return self.result().__await__()

    def cancel(self) -> bool:
        """Kill the command and everything it started; False when it has already ended.

        `result` raises `CancelledError` once it is dead.
        """
        if self._completion.done:
            return False
        self._cancelling = True
        if self._remote is None and not self._life.is_ready:
            self._finish_streams("it was cancelled")
            self._completion.set_cancelled()
        else:
            self._signal(signals.SIGKILL, tree=True)
        return True

    def kill(self) -> None:
        """Send SIGKILL to the command and everything it started; no error when it has ended."""
        self._signal(signals.SIGKILL, tree=True)

    def send_signal(self, signal: int) -> None:
        """Send a signal to the command itself, at its start if it has not started; no error when it has ended.

        Raises:
            ValueError: It is not the number of a signal.
        """
        self._signal(signals.Signals(signal), tree=False)

    def _signal(self, signal: int, *, tree: bool) -> None:
        if self._completion.done:
            return
        if self._remote is None:
            self._queued_signals.append((int(signal), tree))
        else:
            self._remote.signal(int(signal), tree=tree)

    def _begin(self, channel: Channel) -> None:
        if self._completion.done:
            return
        timeout_ms = 0 if self._timeout_seconds is None else max(1, round(self._timeout_seconds * 1000))
        try:
            remote = channel.exec(
                self._command, self, stdin=self._writer is not None, timeout_ms=timeout_ms, **self._options
            )
        except AviatoError as error:
            self._fail(error)
            return
        self._remote = remote
        for which, buffer in self._buffers.items():
            buffer.grant = _granter(remote, which)
        if self._timeout_seconds is not None:
            self._timer = self._loop.call_later(self._timeout_seconds + OVERDUE_SECONDS, self._overdue)
        if self._writer is not None:
            if self._input is not None:
                self._writer._put(memoryview(self._input))  # noqa: SLF001 - its own writer
                self._writer._put(None)  # noqa: SLF001 - likewise
            self._writer._attach(remote)  # noqa: SLF001 - likewise
        for signal, tree in self._queued_signals:
            remote.signal(signal, tree=tree)
        self._queued_signals.clear()

    @facade.skip("called by the channel")
    def process_started(self, pid: int) -> None:
        """Take note that it runs."""

    @facade.skip("called by the channel")
    def process_output(self, which: Which, data: bytes) -> None:
        """Take the next bytes of one stream."""
        self._buffers[which].feed(data)

    @facade.skip("called by the channel")
    def process_gap(self, which: Which, missing: int) -> None:
        """Take note of output that is gone."""
        self._buffers[which].gap(missing)

    @facade.skip("called by the channel")
    def process_stdin_accepted(self) -> None:
        """Send more input."""
        if self._writer is not None:
            self._writer._pump()  # noqa: SLF001 - its own writer

    @facade.skip("called by the channel")
    def process_stdin_closed(self) -> None:
        """Refuse further input."""
        if self._writer is not None:
            self._writer._break("the command closed it")  # noqa: SLF001 - its own writer

    @facade.skip("called by the channel")
    def process_exited(self, status: ExitStatus) -> None:
        """Settle with the result."""
        self._returncode = status.returncode
        self._finish_streams("the command has ended")
        lost = next((buffer.lost for buffer in self._buffers.values() if buffer.lost is not None), None)
        if status.flags & _TIMED_OUT:
            result = self._result(status, ExitReason.TIMEOUT)
            self._completion.set_error(
                SandboxTimeoutError(
                    f"command {list(self._command)!r} ran longer than {self._timeout_seconds:g} s and was killed",
                    exec_result=result,
                    sandbox_id=self._life.sandbox_id,
                )
            )
        elif self._cancelling:
            self._completion.set_cancelled()
        elif lost is not None:
            lost.exec_result = self._result(status, ExitReason.EXITED)
            self._completion.set_error(lost)
        else:
            reason = ExitReason.SIGNALLED if status.signal else ExitReason.EXITED
            self._completion.set_result(self._result(status, reason))

    @facade.skip("called by the channel")
    def process_lost(self, error: AviatoError) -> None:
        """Settle with the reason why the end cannot be known."""
        self._fail(error)

    def _result(self, status: ExitStatus, reason: ExitReason) -> ProcessResult:
        out, err = self._buffers[Which.STDOUT], self._buffers[Which.STDERR]
        return ProcessResult(
            out.joined(),
            err.joined(),
            status.returncode,
            self._command,
            status.duration_us / 1e6,
            out.truncated or err.truncated,
            reason,
            status.signal or None,
        )

    def _fail(self, error: BaseException) -> None:
        if self._completion.done:
            return
        self._finish_streams("the sandbox is no longer there")
        if self._cancelling:
            self._completion.set_cancelled()
            return
        own = copy.copy(error)
        own.__cause__, own.__traceback__ = error.__cause__, error.__traceback__  # a copy, for others get it too
        if isinstance(own, AviatoError) and any(buffer.received for buffer in self._buffers.values()):
            status = ExitStatus(-1, 0, 0, 0, 0, 0)
            own.exec_result = self._result(status, ExitReason.LOST)
        self._completion.set_error(own)

    def _overdue(self) -> None:
        if self._remote is not None:
            self._remote.signal(signals.SIGKILL, tree=True)
        self._finish_streams("the command's time is over")
        status = ExitStatus(128 + signals.SIGKILL, signals.SIGKILL, ExitFlags.TIMED_OUT, 0, 0, 0)
        self._completion.set_error(
            SandboxTimeoutError(
                f"command {list(self._command)!r} has not been reported dead {OVERDUE_SECONDS:g} s after its limit "
                f"of {self._timeout_seconds:g} s",
                exec_result=self._result(status, ExitReason.TIMEOUT),
                sandbox_id=self._life.sandbox_id,
                hint="The agent does not answer; stop the sandbox.",
                is_infrastructure=True,
            )
        )

    def _finish_streams(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for buffer in self._buffers.values():
            buffer.end()
        if self._remote is not None:
            self._remote.release()
            self._remote = None  # it knows this process: without the circle both are freed at once
        if self._writer is not None:
            self._writer._break(reason)  # noqa: SLF001 - its own writer


def _granter(remote: RemoteProcess, which: Which) -> Callable[[int], None]:
    def grant(total: int) -> None:
        remote.consumed(which, total)

    return grant


def _last_line(result: ProcessResult) -> str:
    lines = result.stderr.strip().splitlines()
    return f": {lines[-1][:200]}" if lines else ""
