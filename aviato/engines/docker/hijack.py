"""The stream of an exec: an HTTP request whose connection becomes the program's standard input and output.

After the answer's head the client's bytes are the program's input. What comes back is cut into pieces, each behind a
head of eight bytes: the stream's number, three zeros, and the length (Docker Engine API, "Stream format").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aviato.engines.docker.api import ApiError, error_text
from aviato.exceptions import EngineConnectionError, EngineProtocolError

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api

_HEAD_END = b"\r\n\r\n"
_LONGEST_HEAD = 65536
_PIECE_HEAD = 8
_LONGEST_PIECE = 1 << 30
_STDOUT, _STDERR = 1, 2
_COMPLAINT_BYTES = 2000
ANSWER_SECONDS = 20.0
"""How long the daemon, and a program that it starts, may take to say their first words."""
_BODY = json.dumps({"Detach": False, "Tty": False}).encode()


@contextlib.asynccontextmanager
async def _limited(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError as error:
        if isinstance(error, EngineConnectionError):
            raise
        raise EngineConnectionError(f"{what} within {ANSWER_SECONDS:g} s", retryable=True) from error


class ExecStream(asyncio.Protocol):
    """The connection, from the request on; what the program writes is handed to a protocol once there is one.

    Attributes:
        complaint: The end of what the program wrote to its standard error.
    """

    def __init__(self, path: str, body: bytes = _BODY) -> None:
        self.complaint = b""
        self._path = path
        self._body = body
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._head = b""
        self._status = 0
        self._piece_head = b""
        self._kind = self._left = 0
        self._early = b""
        self._wanted: tuple[int, asyncio.Future[bytes]] | None = None
        self._error: Exception | None = None
        self._is_over = False

    @classmethod
    async def open(cls, api: Api, exec_id: str) -> ExecStream:
        """Start the exec and take its connection over.

        Raises:
            ApiError: The daemon refused.
            EngineConnectionError: It cannot be reached, hung up, or did not answer.
        """
        stream = cls(api.path(f"/exec/{exec_id}/start"))
        await stream.begin(api)
        return stream

    async def begin(self, api: Api) -> None:
        """Send the request and wait until the connection is taken over.

        Raises:
            ApiError: The daemon refused.
            EngineConnectionError: It cannot be reached, or hung up.
        """
        transport = await api.raw_connection(self)
        try:
            async with _limited("the Docker daemon did not open a stream into the container"):
                await self._opened
        except BaseException:
            transport.abort()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream has one
        self._transport = transport
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        transport.write(head.encode() + self._body)

    def data_received(self, data: bytes) -> None:
        """Read the answer's head, then pieces."""
        if not self._opened.done():
            data = self._read_head(data)
        view = memoryview(data)
        while view and not self._is_over:
            if not self._left:
                missing = _PIECE_HEAD - len(self._piece_head)
                self._piece_head += view[:missing]
                view = view[missing:]
                if len(self._piece_head) < _PIECE_HEAD:
                    return
                self._kind, self._left = self._piece_head[0], int.from_bytes(self._piece_head[4:], "big")
                self._piece_head = b""
                if self._kind > _STDERR or self._left > _LONGEST_PIECE:
                    self._fail(EngineProtocolError("the Docker daemon sent a piece of no known stream"))
                    return
                continue
            piece = view[: self._left]
            view = view[self._left :]
            self._left -= len(piece)
            self._take(bytes(piece))

    def _read_head(self, data: bytes) -> bytes:
        self._head += data
        head, end, rest = self._head.partition(_HEAD_END)
        if not end:
            if len(self._head) > _LONGEST_HEAD:
                self._fail(EngineProtocolError("the Docker daemon's answer has no end of its head"))
            return b""
        words = head.split(None, 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if status in {101, 200}:
            self._opened.set_result(None)
            return rest
        text = error_text(rest.strip()) if rest else "it gave no reason"
        self._fail(ApiError(status, text, "start a program in the container"))
        return b""

    def _take(self, data: bytes) -> None:
        if self._kind != _STDOUT:
            self.complaint = (self.complaint + data)[-_COMPLAINT_BYTES:]
        elif self._protocol is not None:
            self._protocol.data_received(data)
        else:
            self._early += data
            self._serve_reader()

    def _serve_reader(self) -> None:
        if self._wanted is None or self._wanted[1].done():
            return
        count, reader = self._wanted
        if len(self._early) >= count:
            reader.set_result(self._early[:count])
            self._early = self._early[count:]
        elif self._is_over:
            reader.set_exception(self._end_error())

    def _end_error(self) -> Exception:
        said = self.complaint.decode("utf-8", "replace").strip()
        return self._error or EngineConnectionError(f"the program in the container hung up{': ' if said else ''}{said}")

    async def read(self, count: int) -> bytes:
        """Read so many bytes of what the program writes, before a protocol takes over.

        Raises:
            EngineConnectionError: The connection ended before, or nothing came.
        """
        reader: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted = count, reader
        self._serve_reader()
        async with _limited("the program in the container said nothing"):
            return await reader

    async def expect(self, greeting: bytes) -> None:
        """Read what the program is to say first.

        Raises:
            EngineConnectionError: Something else came, such as why the program cannot be started, or the end.
        """
        said = await self.read(len(greeting))
        if said != greeting:
            said = (said + self._early)[:_COMPLAINT_BYTES]
            text = said.decode("utf-8", "replace").strip()
            raise EngineConnectionError(f"no program can be started in the container: {text}", retryable=True)

    @property
    def is_over(self) -> bool:
        """True when the connection has ended."""
        return self._is_over

    def write(self, data: bytes) -> None:
        """Write to the program's input."""
        if self._transport is not None:
            self._transport.write(data)

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let a protocol have the connection.

        Raises:
            EngineConnectionError: It has ended.
        """
        if self._is_over or self._transport is None:
            raise self._end_error()
        self._protocol = protocol
        protocol.connection_made(self._transport)
        early, self._early = self._early, b""
        if early:
            protocol.data_received(early)
        return self._transport

    def pause_writing(self) -> None:
        """Tell the protocol."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    def eof_received(self) -> bool:
        """Close: what the daemon ends is over in both directions."""
        return False

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        self._error = error
        if not self._opened.done():
            self._opened.set_exception(error)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._is_over = True
        self._error = self._error or exc
        if not self._opened.done():
            self._opened.set_exception(EngineConnectionError("the Docker daemon hung up before it answered"))
        self._serve_reader()
        if self._protocol is not None:
            self._protocol.connection_lost(self._error)
