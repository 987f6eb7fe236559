"""A socket before a daemon's that misbehaves on demand: it stalls, resets, cuts, dawdles, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Self

from aviato.engines.docker.endpoint import Endpoint, find_endpoint

_CHUNK = 65536
_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r\n")


class Fault(StrEnum):
    """What happens to a connection."""

    STALL_REQUEST = "the request never arrives"
    STALL_ANSWER = "the answer never arrives"
    RESET_REQUEST = "the connection is reset before the request arrives"
    RESET_ANSWER = "the connection is reset when the answer comes"
    CUT = "the answer ends in the middle"
    SLOW = "the answer comes byte by byte"


HARMLESS = {Fault.SLOW}
SLOWEST = 512
"""Bytes that come one by one; the rest of an answer comes at once."""
FIRST = 20
"""Bytes of an answer that is cut."""


class _Pair:
    """One client's connection, and the one to the daemon."""

    def __init__(self, client: asyncio.StreamWriter, daemon: asyncio.StreamWriter) -> None:
        self.client = client
        self.daemon = daemon
        self.fault: Fault | None = None
        self.answered = 0

    def cut(self) -> None:
        """Reset both."""
        self.client.transport.abort()
        self.daemon.transport.abort()


class Proxy:
    """Stands before the daemon that the docker command would use, or another.

    Attributes:
        endpoint: Where it is.
        struck: Set when a fault has happened.
    """

    def __init__(self, folder: Path, daemon: Endpoint | None = None) -> None:
        self.endpoint = Endpoint("unix", str(folder / "proxy.sock"))
        self.struck = asyncio.Event()
        self._daemon = daemon or find_endpoint()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._planned: tuple[re.Pattern[bytes], Fault, int] | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._left: int | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        self._server = await asyncio.start_unix_server(self._serve, self.endpoint.address)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End it."""
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def plan(self, request: str, fault: Fault, *, times: int = 1_000_000) -> None:
        """Let the next requests whose first line has the pattern `request` meet a fault."""
        self._planned = re.compile(request.encode()), fault, times

    def stall(self) -> None:
        """Let nothing through from now on, in both directions; connections are accepted."""
        self._flows.clear()

    def cut(self, after: int = 0) -> None:
        """Reset everything that is open, now or when so many more bytes have passed."""
        if after:
            self._left = after
            return
        self._left = None
        for pair in list(self._pairs):
            pair.cut()
        self.struck.set()

    def restore(self) -> None:
        """Behave again; what was held back goes on."""
        self._planned = self._left = None
        for pair in self._pairs:
            pair.fault = None
        self._flows.set()

    @contextlib.contextmanager
    def _pair(self, client: asyncio.StreamWriter, daemon: asyncio.StreamWriter) -> Iterator[_Pair]:
        pair = _Pair(client, daemon)
        self._pairs.add(pair)
        try:
            yield pair
        finally:
            self._pairs.discard(pair)
            pair.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        answers, daemon = await asyncio.open_unix_connection(self._daemon.address)
        with self._pair(writer, daemon) as pair, contextlib.suppress(ConnectionError):
            sending = asyncio.ensure_future(self._requests(pair, reader))
            try:
                await self._answers(pair, answers)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _requests(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            self._strike(pair, data)
            if pair.fault is Fault.RESET_REQUEST:
                pair.cut()
                return
            if pair.fault is Fault.STALL_REQUEST:
                await asyncio.Event().wait()
            await self._pass(pair.daemon, data)
        if (pair.fault is None or pair.fault in HARMLESS) and pair.daemon.can_write_eof():
            pair.daemon.write_eof()

    def _strike(self, pair: _Pair, data: bytes) -> None:
        line = _REQUEST.match(data)
        if self._planned is None or line is None or not self._planned[0].search(line[0]) or not self._planned[2]:
            return
        pattern, pair.fault, times = self._planned
        self._planned = pattern, pair.fault, times - 1
        self.struck.set()

    async def _answers(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            if pair.fault is Fault.STALL_ANSWER:
                await asyncio.Event().wait()
            if pair.fault is Fault.RESET_ANSWER:
                pair.cut()
                return
            if pair.fault is Fault.CUT:
                pair.client.write(data[:FIRST])
                await pair.client.drain()
                return
            while pair.fault is Fault.SLOW and data and pair.answered < SLOWEST:
                pair.client.write(data[:1])
                await pair.client.drain()
                await asyncio.sleep(0)
                pair.answered += 1
                data = data[1:]
            await self._pass(pair.client, data)

    async def _pass(self, target: asyncio.StreamWriter, data: bytes) -> None:
        await self._flows.wait()
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self.cut()
                return
        target.write(data)
        await target.drain()
