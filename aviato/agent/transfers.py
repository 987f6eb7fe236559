"""File transfers as the host side of the channel sees them.

A transfer does not survive its connection: a read is simply repeated by whoever wants it, and of a write whose end was
already on its way nobody could say whether it took place.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from aviato.agent.frames import (
    S_CREDIT,
    S_FILE_READ,
    S_FILE_WRITE,
    S_OFFSET,
    STDIN_WINDOW,
    UNABLE,
    WINDOW,
    FrameType,
    Which,
    WriteFlags,
    pack_frame,
    pack_strings,
)
from aviato.agent.remote import exact, unpack_error
from aviato.exceptions import (
    AgentProtocolError,
    AviatoError,
    CapabilityError,
    EngineConnectionError,
    Outcome,
    SandboxFileError,
)

if TYPE_CHECKING:
    from aviato.agent.remote import Outlet

__all__ = ["Download", "Upload"]

TO_THE_END = 2**64 - 1


class _Transfer:
    """What both directions share: one waiter, one error, release."""

    verb = ""

    def __init__(self, outlet: Outlet, stream: int, path: str) -> None:
        self.stream = stream
        self._outlet = outlet
        self._path = path
        self._error: AviatoError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._released = False

    async def _changed(self) -> None:
        """Wait for the next event on the transfer."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, payload: memoryview) -> None:
        number, message = unpack_error(payload)
        self._ended = True
        if number == UNABLE:
            self._error = CapabilityError(f"{self.verb} {self._path!r} in sandbox {self._outlet.sandbox_id}: {message}")
            self._wake()
            return
        self._error = SandboxFileError(
            f"{self.verb} {self._path!r} in sandbox {self._outlet.sandbox_id}: {message}",
            filepath=self._path,
            errno=number or None,
            sandbox_id=self._outlet.sandbox_id,
            outcome=Outcome.NOT_APPLIED,
        )
        self._wake()

    def lost(self, error: AviatoError) -> None:
        """End it because the connection broke."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def release(self) -> None:
        """Forget it; what the agent had not finished is undone there. Idempotent."""
        if not self._released:
            self._released = True
            if not self._ended:
                self._outlet.send(pack_frame(FrameType.RELEASE, self.stream))
            self._outlet.forget(self.stream, ended=self._ended)


class Download(_Transfer):
    """A file on its way out of a sandbox; at most `WINDOW` bytes are held here."""

    verb = "cannot read"

    def __init__(self, outlet: Outlet, stream: int, path: str, offset: int, length: int | None) -> None:
        super().__init__(outlet, stream, path)
        self._pieces: deque[bytes] = deque()
        self._received = self._consumed = offset
        self._stop = TO_THE_END if length is None else offset + length
        self._limit = offset + WINDOW
        self._complete = False
        head = S_FILE_READ.pack(offset, TO_THE_END if length is None else length, self._limit)
        outlet.send(pack_frame(FrameType.FILE_READ, stream, head, pack_strings([os.fsencode(path)])))

    async def next_piece(self) -> bytes | None:
        """Wait for the next bytes, None at the end.

        Raises:
            SandboxFileError: The agent could not open or read the file.
            AviatoError: As given to `lost`.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._complete:
                return None
            await self._changed()
        piece = self._pieces.popleft()
        self._consumed += len(piece)
        limit = self._consumed + WINDOW
        if limit - self._limit >= WINDOW // 2 and not self._ended:
            self._limit = limit
            self._outlet.send(pack_frame(FrameType.CREDIT, self.stream, S_CREDIT.pack(Which.STDOUT, limit)))
        return piece

    def connected(self) -> None:
        """Never called for a transfer that can go on: `lost` ended it."""

    def frame(self, type_: int, payload: memoryview) -> None:
        """Take one frame about this transfer; the payload is valid during the call.

        Raises:
            AgentProtocolError: The agent may not say this.
        """
        if self._ended:
            raise AgentProtocolError("the agent spoke of a transfer after its end")
        if type_ == FrameType.STDOUT:
            size = len(payload) - S_OFFSET.size
            if size <= 0:
                raise AgentProtocolError("file data without data")
            if S_OFFSET.unpack_from(payload)[0] != self._received:
                raise AgentProtocolError("file data is not continuous")
            self._received += size
            if self._received > min(self._limit, self._stop):
                raise AgentProtocolError("more file data than was asked for")
            self._pieces.append(bytes(payload[S_OFFSET.size :]))
        elif type_ == FrameType.FILE_END:
            if S_OFFSET.unpack(exact(payload, S_OFFSET.size, "end of file"))[0] != self._received:
                raise AgentProtocolError("the file delivered is not as long as the agent says it was")
            self._ended = self._complete = True
        elif type_ == FrameType.ERROR:
            self._fail(payload)
        else:
            raise AgentProtocolError(f"frame of type {type_} about a file that is read")
        self._wake()


class Upload(_Transfer):
    """A file on its way into a sandbox; at most `STDIN_WINDOW` bytes are on their way."""

    verb = "cannot write"

    def __init__(self, outlet: Outlet, stream: int, path: str, mode: int, *, atomic: bool, parents: bool) -> None:
        super().__init__(outlet, stream, path)
        self._sent = self._acked = 0
        self._eof = False
        self._size: int | None = None
        flags = (WriteFlags.ATOMIC if atomic else 0) | (WriteFlags.PARENTS if parents else 0)
        head = S_FILE_WRITE.pack(flags, mode)
        outlet.send(pack_frame(FrameType.FILE_WRITE, stream, head, pack_strings([os.fsencode(path)])))

    async def write(self, piece: bytes) -> None:
        """Send at most `DATA_CHUNK` bytes, waiting for room.

        Raises:
            SandboxFileError: The agent could not write; the file is as it was, if the write is atomic.
            AviatoError: As given to `lost`.
        """
        while self._error is None and self._sent + len(piece) - self._acked > STDIN_WINDOW:
            await self._changed()
        if self._error is not None:
            raise self._error
        self._outlet.send(pack_frame(FrameType.STDIN, self.stream, S_OFFSET.pack(self._sent), piece))
        self._sent += len(piece)

    async def finish(self) -> int:
        """Send the end and wait until the file is in place; give its size.

        Raises:
            SandboxFileError: As `write`.
            AviatoError: As given to `lost`; the outcome is unknown.
        """
        if self._error is None:
            self._eof = True
            self._outlet.send(pack_frame(FrameType.STDIN_EOF, self.stream, S_OFFSET.pack(self._sent)))
        while self._size is None:
            if self._error is not None:
                raise self._error
            await self._changed()
        return self._size

    def lost(self, error: AviatoError) -> None:
        """End it because the connection broke; before the end was sent, nothing took place."""
        if isinstance(error, EngineConnectionError) and not self._eof:
            error = EngineConnectionError(error.message, hint=error.hint, outcome=Outcome.NOT_APPLIED, retryable=True)
        super().lost(error)

    def connected(self) -> None:
        """Never called for a transfer that can go on: `lost` ended it."""

    def frame(self, type_: int, payload: memoryview) -> None:
        """Take one frame about this transfer; the payload is valid during the call.

        Raises:
            AgentProtocolError: The agent may not say this.
        """
        if self._ended:
            raise AgentProtocolError("the agent spoke of a transfer after its end")
        if type_ == FrameType.ACK:
            (accepted,) = S_OFFSET.unpack(exact(payload, S_OFFSET.size, "acknowledgement"))
            if not self._acked < accepted <= self._sent:
                raise AgentProtocolError(f"{accepted} bytes of a file acknowledged, {self._sent} were sent")
            self._acked = accepted
        elif type_ == FrameType.FILE_END:
            (size,) = S_OFFSET.unpack(exact(payload, S_OFFSET.size, "end of file"))
            if not self._eof or size != self._sent:
                raise AgentProtocolError("the file is not as long as what was sent")
            self._size = size
            self._ended = True
        elif type_ == FrameType.ERROR:
            self._fail(payload)
        else:
            raise AgentProtocolError(f"frame of type {type_} about a file that is written")
        self._wake()
