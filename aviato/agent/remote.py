"""One command as the host side of the channel sees it: what the agent may say about it, and what was said."""

from __future__ import annotations

import errno as errnos
from collections import deque
from typing import TYPE_CHECKING, Protocol

from aviato.agent.frames import (
    DATA_CHUNK,
    S_ATTACH,
    S_CREDIT,
    S_ERROR,
    S_EXIT,
    S_OFFSET,
    S_SIGNAL,
    S_STARTED,
    STDIN_WINDOW,
    UNABLE,
    WINDOW,
    ExitFlags,
    ExitStatus,
    FrameType,
    SignalScope,
    Which,
    pack_frame,
    unpack_strings,
)
from aviato.exceptions import (
    AgentProtocolError,
    AviatoError,
    CapabilityError,
    EngineConnectionError,
    Outcome,
    SandboxExecutionError,
    SandboxResourceExhaustedError,
    SandboxTerminatedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ProcessSink", "RemoteProcess"]

_EXHAUSTED = {errnos.EAGAIN, errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE}
_MESSAGE_MAX = 4096
_CREDIT_STEP = WINDOW // 2
_TIMED_OUT, _NOT_STARTED = int(ExitFlags.TIMED_OUT), int(ExitFlags.NOT_STARTED)
_EXIT_FLAGS = _TIMED_OUT | _NOT_STARTED  # numbers: operators of flags take a microsecond, and `~` differs by Python
_STDOUT, _STDERR = int(FrameType.STDOUT), int(FrameType.STDERR)


class Outlet(Protocol):
    """What a stream needs of its channel."""

    sandbox_id: str

    def send(self, data: bytes, *, urgent: bool = True) -> None:
        """Queue a frame, or drop it when there is no connection: the stream says it again after a new one."""

    def forget(self, stream: int, *, ended: bool) -> None:
        """Forget a stream; `ended` when the agent will say nothing more about it."""


class ProcessSink(Protocol):
    """Whoever wants to know about a command. Called on the event loop; must not block."""

    def process_started(self, pid: int) -> None:
        """It runs, as `pid` inside the sandbox; called at most once."""

    def process_output(self, which: Which, data: bytes) -> None:
        """Take the next bytes of one stream: in order, each byte once, never empty."""

    def process_gap(self, which: Which, missing: int) -> None:
        """Take note that `missing` bytes of the stream are gone."""

    def process_stdin_accepted(self) -> None:
        """Take note that `stdin_free` grew."""

    def process_stdin_closed(self) -> None:
        """Take note that the command takes no more input; called at most once."""

    def process_exited(self, status: ExitStatus) -> None:
        """It ended, and all its output was delivered; nothing is called after this."""

    def process_lost(self, error: AviatoError) -> None:
        """Its end cannot be known, or it was never started; nothing is called after this."""


def unpack_error(payload: bytes | memoryview) -> tuple[int, str]:
    """Decode `ERROR`: the errno and a printable message.

    Raises:
        AgentProtocolError: The payload is malformed.
    """
    payload = bytes(payload)
    if len(payload) < S_ERROR.size:
        raise AgentProtocolError("error is cut short")
    (number,) = S_ERROR.unpack_from(payload)
    texts, end = unpack_strings(payload, S_ERROR.size)
    if end != len(payload) or len(texts) != 1 or len(texts[0]) > _MESSAGE_MAX:
        raise AgentProtocolError("error without its one message")
    message = texts[0].decode("utf-8", "replace")
    return number, "".join(letter if letter.isprintable() else "?" for letter in message)


def exact(payload: memoryview, size: int, what: str) -> memoryview:
    """Give `payload` back if it has the right size.

    Raises:
        AgentProtocolError: It has not.
    """
    if len(payload) != size:
        raise AgentProtocolError(f"{what} of {len(payload)} bytes, {size} expected")
    return payload


class RemoteProcess:
    """Handle of one command; made by `Channel.exec`.

    Attributes:
        process_id: The stream id, chosen by this side.
    """

    def __init__(self, outlet: Outlet, process_id: int, sink: ProcessSink, start: bytes, *, limited: bool) -> None:
        self.process_id = process_id
        self._limited = limited  # it was given a timeout
        self._outlet = outlet
        self._sink = sink
        self._start: bytes | None = start
        self._pid = 0
        self._received = [0, 0]
        self._limits = [WINDOW, WINDOW]
        self._attaching = False
        self._ended = False
        self._released = False
        self._unacked: deque[bytes] = deque()
        self._acked = 0
        self._sent = 0
        self._eof = False
        self._stdin_closed = False
        self._signals: list[bytes] = []

    def __repr__(self) -> str:
        return f"<RemoteProcess {self.process_id:016x} pid={self._pid} in {self._outlet.sandbox_id}>"

    @property
    def stdin_free(self) -> int:
        """Bytes that `send_stdin` takes now; 0 when the input is closed."""
        if self._eof or self._stdin_closed or self._ended:
            return 0
        return STDIN_WINDOW - (self._sent - self._acked)

    def consumed(self, which: Which, total: int) -> None:
        """Tell that `total` bytes of a stream were consumed since its start; credit goes out by half windows."""
        index = which - 1
        limit = min(total, self._received[index]) + WINDOW
        if limit - self._limits[index] >= _CREDIT_STEP and not self._ended:
            self._limits[index] = limit
            self._outlet.send(pack_frame(FrameType.CREDIT, self.process_id, S_CREDIT.pack(which, limit)))

    def send_stdin(self, data: bytes) -> None:
        """Send input; it is kept until the command's pipe took it, and sent again over a new connection.

        Raises:
            ValueError: `data` is longer than `stdin_free`.
        """
        if len(data) > self.stdin_free:
            raise ValueError(f"{len(data)} bytes of input, {self.stdin_free} are free")
        for start in range(0, len(data), DATA_CHUNK):
            piece = data[start : start + DATA_CHUNK]
            self._unacked.append(piece)
            self._send_piece(self._sent, piece)
            self._sent += len(piece)

    def close_stdin(self) -> None:
        """Send end-of-file after all input sent before; idempotent."""
        if not self._eof:
            self._eof = True
            self._send_eof()

    def signal(self, signum: int, *, tree: bool = False) -> None:
        """Send a signal to the command, or with `tree` to everything it started; no error when it has ended."""
        if self._ended or self._released:
            return
        scope = SignalScope.TREE if tree else SignalScope.PROCESS
        frame = pack_frame(FrameType.SIGNAL, self.process_id, S_SIGNAL.pack(signum, scope))
        if not self._pid and len(self._signals) < 64:  # noqa: PLR2004 - as many as there are signals
            self._signals.append(frame)  # said again if the connection breaks before the start is known
        self._outlet.send(frame)

    def release(self) -> None:
        """Forget it here and in the agent; if it runs, it goes on unwatched. Idempotent."""
        if not self._released:
            self._released = True
            self._outlet.send(pack_frame(FrameType.RELEASE, self.process_id), urgent=not self._ended)
            self._outlet.forget(self.process_id, ended=self._ended)
            self._unacked.clear()

    # Called by the channel

    def frame(self, type_: int, payload: memoryview) -> None:
        """Take one frame about this command; the payload is valid during the call.

        Raises:
            AgentProtocolError: The agent may not say this.
        """
        if self._ended:
            raise AgentProtocolError("the agent spoke of a command after its end")
        if type_ in (_STDOUT, _STDERR):
            index = type_ - _STDOUT
            size = len(payload) - S_OFFSET.size
            if size <= 0:
                raise AgentProtocolError("output without data")
            (offset,) = S_OFFSET.unpack_from(payload)
            received = self._received[index]
            if offset != received:
                raise AgentProtocolError(f"output at offset {offset}, {received} expected")
            received += size
            if received > self._limits[index]:
                raise AgentProtocolError("more output than there was credit for")
            self._received[index] = received
            self._sink.process_output(Which.STDERR if index else Which.STDOUT, bytes(payload[S_OFFSET.size :]))
            return
        handler = _HANDLERS.get(type_)
        if handler is None:
            raise AgentProtocolError(f"frame of type {type_} about a command")
        handler(self, payload)

    def connected(self) -> None:
        """Say again what the agent may not have heard, over a new connection."""
        if self._ended:
            return
        if self._start is not None:
            self._outlet.send(self._start)
            for frame in self._signals:
                self._outlet.send(frame)
        else:
            self._attaching = True
            state = S_ATTACH.pack(*self._received, *self._limits)
            self._outlet.send(pack_frame(FrameType.ATTACH, self.process_id, state))
        if not self._stdin_closed:
            offset = self._acked
            for piece in self._unacked:
                self._send_piece(offset, piece)
                offset += len(piece)
            if self._eof:
                self._send_eof()

    def lost(self, error: AviatoError) -> None:
        """End it because nothing more will be known."""
        if not self._ended:
            self._ended = True
            self._unacked.clear()
            self._sink.process_lost(error)

    def _send_piece(self, offset: int, piece: bytes) -> None:
        self._outlet.send(pack_frame(FrameType.STDIN, self.process_id, S_OFFSET.pack(offset), piece))

    def _send_eof(self) -> None:
        self._outlet.send(pack_frame(FrameType.STDIN_EOF, self.process_id, S_OFFSET.pack(self._sent)))

    def _on_started(self, payload: memoryview) -> None:
        pid, accepted = S_STARTED.unpack(exact(payload, S_STARTED.size, "start"))
        if not pid or (self._pid and (pid != self._pid or not self._attaching)):
            raise AgentProtocolError("a command started twice")
        self._attaching = False
        self._start = None
        self._signals.clear()
        first, self._pid = not self._pid, pid
        self._accept(accepted)
        if first:
            self._sink.process_started(pid)

    def _on_ack(self, payload: memoryview) -> None:
        (accepted,) = S_OFFSET.unpack(exact(payload, S_OFFSET.size, "acknowledgement"))
        if accepted > self._acked:
            self._accept(accepted)
        else:
            raise AgentProtocolError("input acknowledged twice")

    def _accept(self, accepted: int) -> None:
        if not self._acked <= accepted <= self._sent:
            raise AgentProtocolError(f"{accepted} bytes of input acknowledged, {self._sent} were sent")
        if accepted == self._acked:
            return
        while self._unacked and self._acked + len(self._unacked[0]) <= accepted:
            self._acked += len(self._unacked.popleft())
        if self._unacked and accepted > self._acked:
            self._unacked[0] = self._unacked[0][accepted - self._acked :]
        self._acked = accepted
        if not self._stdin_closed:  # else nothing is kept any more, and there is no room to tell of
            self._sink.process_stdin_accepted()

    def _on_gap(self, payload: memoryview) -> None:
        which, offset = S_CREDIT.unpack(exact(payload, S_CREDIT.size, "gap"))
        if which not in (Which.STDOUT, Which.STDERR):
            raise AgentProtocolError("gap in an unknown output")
        index = which - 1
        missing = offset - self._received[index]
        if missing <= 0 or offset > self._limits[index]:
            raise AgentProtocolError("gap where none can be")
        self._received[index] = offset
        self._sink.process_gap(Which(which), missing)

    def _on_stdin_closed(self, payload: memoryview) -> None:
        exact(payload, 0, "end of input")
        if self._stdin_closed and not self._attaching:
            raise AgentProtocolError("input closed twice")
        if not self._stdin_closed:
            self._stdin_closed = True
            self._unacked.clear()
            self._sink.process_stdin_closed()

    def _on_exit(self, payload: memoryview) -> None:
        status = ExitStatus(*S_EXIT.unpack(exact(payload, S_EXIT.size, "exit")))
        if [status.stdout_total, status.stderr_total] != self._received:
            raise AgentProtocolError("the output delivered is not as long as the agent says it was")
        expected = 128 + status.signal if status.signal else status.returncode & 0xFF
        if status.returncode != expected or not 0 <= status.flags <= _EXIT_FLAGS:
            raise AgentProtocolError("exit status that cannot be")
        if bool(status.flags & _NOT_STARTED) is bool(self._pid):
            raise AgentProtocolError("the end of a command that was started and was not, or neither")
        if status.flags & _TIMED_OUT and not self._limited:
            raise AgentProtocolError("a command without a timeout ran into it")
        self._ended = True
        self._unacked.clear()
        self._sink.process_exited(status)

    def _on_error(self, payload: memoryview) -> None:
        number, message = unpack_error(payload)
        sandbox = self._outlet.sandbox_id
        error: AviatoError
        if number == errnos.ESHUTDOWN:
            error = SandboxTerminatedError(f"sandbox {sandbox} is stopping", sandbox_id=sandbox)
        elif number == UNABLE:
            error = CapabilityError(f"sandbox {sandbox}: {message}")
        elif self._attaching and number == errnos.ESRCH:
            error = EngineConnectionError(f"the agent in {sandbox} lost the command while its connection was down")
        elif number == errnos.ECONNRESET:
            error = EngineConnectionError(f"sandbox {sandbox}: {message}", outcome=Outcome.UNKNOWN)
        elif number in _EXHAUSTED:
            error = SandboxResourceExhaustedError(
                f"command could not be started in {sandbox}: {message}", sandbox_id=sandbox
            )
        else:
            outcome = Outcome.UNKNOWN if self._pid else Outcome.NOT_APPLIED
            error = SandboxExecutionError(
                f"command could not be started in {sandbox}: {message}", sandbox_id=sandbox, outcome=outcome
            )
        self.lost(error)


_HANDLERS: dict[int, Callable[[RemoteProcess, memoryview], None]] = {
    FrameType.STARTED: RemoteProcess._on_started,  # noqa: SLF001 - its own table
    FrameType.ACK: RemoteProcess._on_ack,  # noqa: SLF001 - likewise
    FrameType.GAP: RemoteProcess._on_gap,  # noqa: SLF001 - likewise
    FrameType.STDIN_CLOSED: RemoteProcess._on_stdin_closed,  # noqa: SLF001 - likewise
    FrameType.EXIT: RemoteProcess._on_exit,  # noqa: SLF001 - likewise
    FrameType.ERROR: RemoteProcess._on_error,  # noqa: SLF001 - likewise
}
