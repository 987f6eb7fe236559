"""A warm interpreter in a sandbox, as the client sees it: one call after the other, each with what it printed.

It is a command like any other, but its output is read where it arrives, without streams and tasks between, since that
is most of what a call costs. What the interpreter says is the word of an untrusted program: every length is bounded.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from aviato.agent.frames import DATA_CHUNK, Which
from aviato.aio.shipping.inside.gathered import LARGE_BYTES, Gathered
from aviato.aio.shipping.inside.runner import (
    BEGUN,
    ERROR,
    ITEM,
    MARK,
    NOT_CARRIED,
    ONCE,
    READY,
    TOKEN_BYTES,
    VALUE,
)
from aviato.aio.shipping.program import COMMAND
from aviato.exceptions import AgentProtocolError, AviatoError, EngineConnectionError, OutputLostError
from aviato.models import ExitReason, ProcessResult

if TYPE_CHECKING:
    from aviato.agent.channel import Channel
    from aviato.agent.frames import ExitStatus
    from aviato.agent.remote import RemoteProcess

ANSWER_LIMIT = 1024**3
"""Bytes that a result, or one item, may have."""
_LIMITS = {
    READY: 64,
    BEGUN: 0,
    VALUE: ANSWER_LIMIT,
    ITEM: ANSWER_LIMIT,
    ERROR: 4 * 1024 * 1024,
    NOT_CARRIED: 1024 * 1024,
}
"""Bytes that a frame of each kind may have; the program inside keeps texts far shorter than these."""
OUTPUT_LIMIT = 64 * 1024 * 1024
"""Bytes of each output of a call that are kept for its `exec_result`."""
ITEMS_AHEAD_BYTES = 1024 * 1024
"""Bytes of items that may wait for whoever iterates; then the generator has to wait."""
DEATH_SECONDS = 5.0
"""How long a killed interpreter may take to be reported dead."""
_KIND_AT = 1 + TOKEN_BYTES
_HEAD_BYTES = _KIND_AT + 1 + 8
_STDOUT = Which.STDOUT

OnOutput = Callable[[str, bytes], object]
Message = bytes | Gathered
"""What a frame holds; a large value in parts."""
OnItem = Callable[[Message], object]


@attrs.frozen
class Answer:
    """How a call went.

    Attributes:
        kind: Kind of the last frame, or empty when there was none: then the interpreter has ended.
        payload: Of that frame.
        printed: What the call printed, and how the interpreter ended if it did.
        begun: False when the interpreter ended before it had read the call.
    """

    kind: bytes
    payload: Message
    printed: ProcessResult
    begun: bool = True


class _Output:
    """What a call has printed to one stream."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.truncated = False

    def add(self, data: bytes) -> None:
        room = OUTPUT_LIMIT - self.size
        if len(data) > room:
            self.truncated, data = True, data[:room]
        if data:
            self.pieces.append(data)
            self.size += len(data)


class Interpreter:
    """One running interpreter; serves one call at a time, on the event loop that started it.

    Attributes:
        sandbox_id: Of the sandbox it runs in.
        pid: In there; 0 until it is known.
        ended: How it ended, or why that cannot be known; None while it runs.
    """

    def __init__(self, channel: Channel, label: str, token: bytes, start: Sequence[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._label = label
        self.sandbox_id = channel.sandbox_id
        self.pid = 0
        self._head = MARK + token
        self._to_send: deque[memoryview] = deque()
        self._frame: list[bytes] | None = None  # the pieces that have come of one
        self._large: Gathered | None = None  # where they are put instead when it is a large value
        self._missing = 0
        self._kind = b""
        self._read = {Which.STDOUT: 0, Which.STDERR: 0}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._once, self._first = False, True
        self._dead = asyncio.Event()
        self._answer: asyncio.Future[Answer] | None = None
        self.ended: ProcessResult | AviatoError | None = None
        self._calls_left = True
        self._begin(None, None)
        self._remote: RemoteProcess = channel.exec(COMMAND, self, stdin=True)
        self._send(start)

    @property
    def usable(self) -> bool:
        """True when it can serve another call."""
        return self._answer is None and self._calls_left and not self._dead.is_set()

    async def ready(self) -> None:
        """Wait until the function is made, or is known not to be, or the interpreter has ended."""
        await asyncio.shield(self._ready)

    def _begin(self, on_output: OnOutput | None, on_item: OnItem | None) -> None:
        self._on_output, self._on_item = on_output, on_item
        self._held = self._held_errors = b""  # of the outputs: what may be the beginning of a frame or of the mark
        self._frame = self._large = None
        self._begun = False
        self._printed = {Which.STDOUT: _Output(), Which.STDERR: _Output()}
        self._marked = False  # what came on standard error is complete
        self._last: tuple[bytes, Message] | None = None
        self._untaken = 0
        self._began = time.monotonic()

    def call(
        self,
        pieces: Sequence[bytes | memoryview],
        *,
        on_output: OnOutput | None = None,
        on_item: OnItem | None = None,
    ) -> asyncio.Future[Answer]:
        """Begin a call of a `usable` interpreter; the future is done when it is over.

        It fails with an `AviatoError` when the sandbox was lost. Cancelling it does nothing there: `kill` does.

        Args:
            pieces: The packed arguments.
            on_output: Called with `"stdout"` or `"stderr"` and the bytes as they come.
            on_item: Called with each packed item of a generator; `taken` lets it go on when many wait.
        """
        told = self._printed
        self._begin(on_output, on_item)
        if self._first:  # what the definitions printed belongs to the first call
            self._printed, self._first = told, False
        self._answer = self._loop.create_future()
        self._calls_left = not self._once
        token = secrets.token_bytes(TOKEN_BYTES)
        self._head = MARK + token
        size = TOKEN_BYTES + sum(len(piece) for piece in pieces)
        start = size.to_bytes(8, "big") + token
        self._send([start + b"".join(pieces)] if size <= DATA_CHUNK else [start, *pieces])
        return self._answer

    def taken(self, size: int) -> None:
        """Take note that an item of so many bytes no longer waits."""
        self._untaken -= size
        self._give_credit(_STDOUT)

    async def kill(self) -> None:
        """Kill it and all that it started; returns when it is dead.

        Raises:
            EngineConnectionError: It was not reported dead in time.
        """
        if not self._dead.is_set():
            self._on_item, self._untaken = _drop, 0  # its end is told behind what it has written
            self._give_credit(_STDOUT)
            self._remote.signal(signal.SIGKILL, tree=True)
            try:
                async with asyncio.timeout(DEATH_SECONDS):
                    await self._dead.wait()
            except TimeoutError as error:
                message = f"the interpreter of {self._label} was not reported dead within {DEATH_SECONDS:g} s"
                raise EngineConnectionError(message) from error

    def printed(self, returncode: int = 0, number: int = 0, reason: ExitReason = ExitReason.EXITED) -> ProcessResult:
        """Return what the present call has printed so far."""
        out, err = self._printed[Which.STDOUT], self._printed[Which.STDERR]
        return ProcessResult(
            b"".join(out.pieces),
            b"".join(err.pieces),
            returncode,
            ("python3", self._label),
            time.monotonic() - self._began,
            out.truncated or err.truncated,
            reason,
            number or None,
        )

    def _send(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._to_send.extend(memoryview(piece).cast("B") for piece in pieces)
        self.process_stdin_accepted()

    def process_started(self, pid: int) -> None:
        """Take note that it runs."""
        self.pid = pid

    def process_stdin_accepted(self) -> None:
        """Send more of a call."""
        while self._to_send:
            view, free = self._to_send[0], self._remote.stdin_free
            if free <= 0:
                return
            self._remote.send_stdin(bytes(view[:free]))
            if len(view) > free:
                self._to_send[0] = view[free:]
            else:
                self._to_send.popleft()

    def process_stdin_closed(self) -> None:
        """Forget what it will not read: its end, which follows, says the rest."""
        self._to_send.clear()

    def process_output(self, which: Which, data: bytes) -> None:
        """Take apart what was printed and what is an answer."""
        self._read[which] += len(data)
        if which is _STDOUT:
            if self._frame is None and not self._held and MARK not in data:
                self._print(which, data)
            else:
                self._take_apart(data)
        elif self._head in (data := self._held_errors + data):
            before, _, after = data.partition(self._head)
            self._print(which, before)
            self._held_errors = after
            self._marked = True
            self._settle()
        else:
            keep = _partial(data, self._head)
            self._print(which, data[: len(data) - keep])
            self._held_errors = data[len(data) - keep :]
        self._give_credit(which)

    def _take_apart(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        view = memoryview(data)
        while view:
            if self._frame is not None:
                part = view[: self._missing]
                if self._large is None:
                    self._frame.append(data if len(part) == len(data) else part.tobytes())
                elif not self._gather(self._large, part):
                    return
                self._missing -= len(part)
                view = view[len(part) :]
                if not self._missing:
                    self._end_frame()
                continue
            text = view.tobytes()
            at = text.find(self._head)
            if at < 0:
                keep = _partial(text, self._head)
                self._print(_STDOUT, text[: len(text) - keep])
                self._held = text[len(text) - keep :]
                return
            self._print(_STDOUT, text[:at])
            if len(text) - at < _HEAD_BYTES:
                self._held = text[at:]
                return
            view = view[at + _HEAD_BYTES :]
            if not self._begin_frame(text[at : at + _HEAD_BYTES]):
                return

    def _begin_frame(self, head: bytes) -> bool:
        """Read the head of a frame; false when it cannot be believed."""
        self._kind = head[_KIND_AT : _KIND_AT + 1]
        self._missing = int.from_bytes(head[_KIND_AT + 1 :], "big")
        most = _LIMITS.get(self._kind, -1)
        if self._missing > most:
            what = "an answer of an unknown kind" if most < 0 else f"{self._missing} bytes where {most} are taken"
            self._refuse(f"it gave {what}")
            return False
        if self._missing >= LARGE_BYTES and self._kind in {VALUE, ITEM}:
            self._large = Gathered(self._missing)
        self._frame = []
        if not self._missing:
            self._end_frame()
        return True

    def _gather(self, large: Gathered, part: memoryview) -> bool:
        """Take a part of a large value; false when it has no room."""
        try:
            large.add(part)
        except MemoryError:
            self._refuse(f"there is no room for its answer of {len(large)} bytes")
            return False
        return True

    def _end_frame(self) -> None:
        frame = b"".join(self._frame or ()) if self._large is None else self._large
        self._frame = self._large = None
        if self._kind == READY:
            if not self._ready.done():
                self._once = frame == ONCE
                self._ready.set_result(None)
        elif self._kind == BEGUN:
            self._begun = True
        elif self._kind == ITEM and self._on_item is not None:
            if self._on_item is not _drop:
                self._untaken += len(frame)
            self._on_item(frame)
        elif self._kind == ITEM and self._answer is not None:  # of one that nobody asked for, which may have no end
            self._last, self._marked = (ITEM, b""), True
            self._settle()
        elif self._answer is not None and self._last is None:
            self._last = self._kind, frame
            self._settle()

    def _print(self, which: Which, data: bytes) -> None:
        if not data or (self._answer is None and self._ready.done()):
            return  # between calls nobody prints but what escaped the end of one
        self._printed[which].add(data)
        if self._on_output is not None:
            self._on_output(which.name.lower(), data)

    def _give_credit(self, which: Which) -> None:
        if which is not _STDOUT or self._untaken <= ITEMS_AHEAD_BYTES:
            self._remote.consumed(which, self._read[which])

    def _settle(self) -> None:
        answer = self._answer
        if self._last is None or not self._marked or answer is None:
            return
        self._answer = None
        if not answer.done():
            answer.set_result(Answer(*self._last, self.printed()))
        self._last = None

    def _refuse(self, why: str) -> None:
        """End what cannot be believed."""
        self._frame = self._large = None
        self._missing = 0
        self._fail(AgentProtocolError(f"the interpreter of {self._label} cannot be believed: {why}"))
        self._remote.signal(signal.SIGKILL, tree=True)

    def process_gap(self, which: Which, missing: int) -> None:
        """End it: what is gone may have been an answer."""
        stream, received = which.name.lower(), self._read[which]
        message = f"{missing} bytes of what {self._label} printed or answered were lost"
        error = OutputLostError(message, stream=stream, received=received, sandbox_id=self.sandbox_id)
        self._fail(error)
        self._remote.signal(signal.SIGKILL, tree=True)

    def process_exited(self, status: ExitStatus) -> None:
        """Settle with how it ended, if a call had no answer."""
        self._marked = True  # whatever it printed has come
        self._settle()
        for which, rest in ((Which.STDOUT, self._held), (Which.STDERR, self._held_errors)):
            self._printed[which].add(rest)
        reason = ExitReason.SIGNALLED if status.signal else ExitReason.EXITED
        self.ended = self.printed(status.returncode, status.signal, reason)
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Answer(b"", b"", self.ended, begun=self._begun))
        self._end()

    def process_lost(self, error: AviatoError) -> None:
        """Settle with the reason why nothing can be known."""
        self.ended = error
        self._fail(error)
        self._end()

    def _fail(self, error: AviatoError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            own = copy.copy(error)  # others get the same error of the sandbox
            own.__cause__ = error.__cause__
            own.exec_result = self.printed(-1, 0, ExitReason.LOST)
            answer.set_exception(own)
            answer.exception()  # whoever waits sees it

    def _end(self) -> None:
        self._dead.set()
        self._to_send.clear()
        self._remote.release()
        if not self._ready.done():
            self._ready.set_result(None)


def _drop(_item: object) -> None:
    """Have no use for an item."""


def _partial(data: bytes, head: bytes) -> int:
    """Return how many of the last bytes may be the beginning of a frame."""
    at = data.rfind(MARK, max(0, len(data) - len(head) + 1))
    while at >= 0:
        if head.startswith(data[at:]):
            return len(data) - at
        at = data.rfind(MARK, max(0, len(data) - len(head) + 1), at)
    return 0
