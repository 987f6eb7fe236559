"""One connection to an agent: hello, frames in, batched bytes out."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aviato.agent.frames import (
    MAGIC,
    S_HELLO,
    S_WELCOME,
    VERSION_MAX,
    VERSION_MIN,
    FrameReader,
    FrameType,
    pack_frame,
    unpack_strings,
)
from aviato.agent.remote import unpack_error
from aviato.exceptions import AgentProtocolError, AviatoError, EngineConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

_FACT_MAX = 256
_LATER_SECONDS = 0.1
_STEP = 1024 * 1024
_RECEIVE = 256 * 1024
_spare: list[bytearray] = []
"""Buffers to receive into. A loop borrows one from the moment it reads to the moment it has read, so one is enough for
all its links, and is warm in the cache; to allocate as much for each read costs three system calls."""


class AgentInfo(NamedTuple):
    """What an agent says of itself.

    Attributes:
        version: Version of the protocol that is spoken.
        features: Bits of optional abilities; none are defined yet.
        python_version: Version of the interpreter it runs on, as it says.
        machine: Machine name, such as `x86_64`, as it says.
    """

    version: int
    features: int
    python_version: str
    machine: str


def unpack_welcome(payload: bytes | memoryview) -> AgentInfo:
    """Decode `WELCOME`.

    Raises:
        AgentProtocolError: It is malformed, or of a version that was not offered.
    """
    payload = bytes(payload)
    if len(payload) < S_WELCOME.size:
        raise AgentProtocolError("welcome is cut short")
    magic, version, features = S_WELCOME.unpack_from(payload)
    facts, end = unpack_strings(payload, S_WELCOME.size)
    if magic != MAGIC or not VERSION_MIN <= version <= VERSION_MAX:
        raise AgentProtocolError("welcome with another magic or version than was offered")
    if end != len(payload) or len(facts) != 2 or max(map(len, facts)) > _FACT_MAX:  # noqa: PLR2004 - its two facts
        raise AgentProtocolError("welcome without its two facts")
    python_version, machine = (fact.decode("utf-8", "replace") for fact in facts)
    if not (python_version + machine).isprintable():
        raise AgentProtocolError("welcome with unprintable facts")
    return AgentInfo(version, features, python_version, machine)


class Link(asyncio.BufferedProtocol, asyncio.Protocol):
    """The protocol object of one connection; used once. It takes bytes either way, as the transport knows to give them.

    Attributes:
        hello: Done when the agent has said welcome, or with the error why not.
    """

    def __init__(
        self, on_frame: Callable[[int, int, memoryview], None], on_lost: Callable[[Link, AviatoError | None], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[AgentInfo] = self._loop.create_future()
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._buffer: bytearray | None = None
        self._transport: asyncio.Transport | None = None
        self._out: deque[bytes] = deque()
        self._flushing = False
        self._later: asyncio.TimerHandle | None = None
        self._paused = False
        self._lost = False

    @property
    def alive(self) -> bool:
        """False when the connection was lost or dropped."""
        return not self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what `connect` promises
        self._transport = transport
        if self._lost:
            transport.abort()
            return
        transport.write(pack_frame(FrameType.HELLO, 0, S_HELLO.pack(MAGIC, VERSION_MIN, VERSION_MAX)))

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - what fits is taken, whatever is hinted at
        """Lend a buffer to receive into."""
        if self._buffer is None:
            try:
                self._buffer = _spare.pop()
            except IndexError:
                self._buffer = bytearray(_RECEIVE)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received into the buffer, and let others have that."""
        buffer, self._buffer = self._buffer, None
        assert buffer is not None  # noqa: S101 - it was lent
        self._receive(memoryview(buffer)[:nbytes])
        _spare.append(buffer)

    def data_received(self, data: bytes) -> None:
        """Take what was received."""
        self._receive(memoryview(data))

    def _receive(self, data: memoryview) -> None:
        """Cut into frames and hand them on; nonsense drops the connection."""
        if self._lost:
            return
        try:
            for type_, stream, payload in self._reader.views(data):
                if self.hello.done():
                    self._on_frame(type_, stream, payload)
                else:
                    self._take_hello(type_, stream, payload)
                if self._lost:
                    return
        except AgentProtocolError as error:
            self.drop(error)
        except Exception as error:  # noqa: BLE001 - a sink failed; what was received may not count as delivered
            self._loop.call_exception_handler({"message": "a receiver of agent frames failed", "exception": error})
            self.drop(EngineConnectionError(f"a receiver on this side failed: {error!r}"))

    def _take_hello(self, type_: int, stream: int, payload: memoryview) -> None:
        if stream == 0 and type_ == FrameType.ERROR:
            number, message = unpack_error(payload)
            raise AgentProtocolError(f"the agent refused the connection: {message} (errno {number})")
        if stream != 0 or type_ != FrameType.WELCOME:
            raise AgentProtocolError(f"frame of type {type_} before the welcome")
        self.hello.set_result(unpack_welcome(payload))

    def pause_writing(self) -> None:
        """Keep what is queued."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write on."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the channel, unless the connection was dropped on purpose."""
        error = EngineConnectionError("the connection to the agent was lost")
        error.__cause__ = exc
        self._end(error, told=None)

    def send(self, data: bytes, *, urgent: bool = True) -> None:
        """Queue bytes; everything queued in one turn of the loop leaves in one write.

        What is not urgent leaves with the next that is, or some milliseconds later.
        """
        if self._lost:
            return
        self._out.append(data)
        if self._flushing:
            return
        if urgent:
            self._flushing = True
            self._loop.call_soon(self._flush)
        elif self._later is None:
            self._later = self._loop.call_later(_LATER_SECONDS, self._flush_late)

    def send_now(self, data: bytes) -> None:
        """Write bytes in this turn, with all that is queued: for one who knows that nothing more will join them."""
        if not self._lost:
            self._out.append(data)
            if not self._flushing:
                self._flush()

    def _flush_late(self) -> None:
        self._later = None
        if not self._flushing:
            self._flush()

    def _flush(self) -> None:
        self._flushing = False
        out, transport = self._out, self._transport
        while out and not self._paused and transport is not None and not self._lost:
            batch = []
            size = 0
            while out and size < _STEP:
                batch.append(out.popleft())
                size += len(batch[-1])
            transport.write(batch[0] if len(batch) == 1 else b"".join(batch))

    def drop(self, error: AviatoError) -> None:
        """Close the connection at once because of `error`."""
        self._end(error, told=error)

    def _end(self, error: AviatoError, told: AviatoError | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._out.clear()
        if self._later is not None:
            self._later.cancel()
        if self._transport is not None:
            self._transport.abort()
        if not self.hello.done():
            self.hello.set_exception(error)
            self.hello.exception()  # whoever waits sees it; nobody else must be warned
        self._on_lost(self, told)
