"""The program's own stdin, stdout and stderr, as bytes and without blocking the event loop.

Each descriptor has a thread of its own, a daemon: one that is stuck in a write to a full pipe or in a read from an idle
one keeps nobody from leaving. The descriptors stay in blocking mode, because other programs share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator

from aviato.cli._terminal import TerminalFilter

CHUNK = 65536


class Output:
    """Writes to a descriptor of this process.

    Args:
        descriptor: 1 or 2.
        raw: Leave control sequences in even when it is a terminal.
    """

    def __init__(self, descriptor: int, *, raw: bool = False) -> None:
        self._descriptor = descriptor
        self._name = "standard error" if descriptor == 2 else "standard output"  # noqa: PLR2004
        self._filter = None if raw or not os.isatty(descriptor) else TerminalFilter()
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def copy(self, chunks: AsyncIterator[bytes]) -> None:
        """Write all chunks, and let the thread go.

        Raises:
            BrokenPipeError: Nobody reads any more.
            OSError: It cannot be written to.
        """
        try:
            async for chunk in chunks:
                await self._write(chunk if self._filter is None else self._filter.feed(chunk))
            if self._filter is not None:
                await self._write(self._filter.feed(b"", final=True))
        finally:
            self._work.put(None)

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"aviato-output-{self._descriptor}", daemon=True)
            self._thread.start()
        done = self._loop.create_future()
        self._work.put((data, done))
        await done

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            data, done = item
            error: OSError | None = None
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError as caught:
                error = OSError(caught.errno, f"cannot write to {self._name}: {caught.strerror}")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(_settle, done, error)


def _settle(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


async def read_input(descriptor: int = 0) -> AsyncGenerator[bytes, None]:
    """Iterate over what comes in, one piece ahead at most, until its end; an input that cannot be read is empty."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    wanted: queue.SimpleQueue[str] = queue.SimpleQueue()

    def serve() -> None:
        data = b"x"
        while data and wanted.get() == "more":
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:
                data = b""
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, data)
            except RuntimeError:  # the loop has ended meanwhile
                return

    threading.Thread(target=serve, name="aviato-input", daemon=True).start()
    try:
        wanted.put("more")
        while data := await arrived.get():
            yield data
            wanted.put("more")
    finally:
        wanted.put("no more")


def has_input(descriptor: int = 0) -> bool:
    """Tell whether something is piped or redirected into this process."""
    try:
        return not os.isatty(descriptor) and bool(os.fstat(descriptor))
    except OSError:
        return False
