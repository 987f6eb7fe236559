"""The host side of one sandbox's connection: commands and files over a byte stream that may break."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from aviato.agent._link import AgentInfo, Link
from aviato.agent.frames import (
    DATA_CHUNK,
    S_CLOSING,
    S_MILLISECONDS,
    WINDOW,
    CloseReason,
    FrameType,
    StartFlags,
    pack_frame,
    pack_start,
)
from aviato.agent.loop_end import loop_ends
from aviato.agent.remote import ProcessSink, RemoteProcess, exact
from aviato.agent.transfers import Download, Upload
from aviato.exceptions import (
    AgentProtocolError,
    AviatoError,
    EngineConnectionError,
    SandboxNotRunningError,
    SandboxTerminatedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence

__all__ = ["AgentInfo", "Channel", "ProcessSink", "RemoteProcess"]

RECONNECT_SECONDS = 10.0
_HELLO_SECONDS = 5.0
_FIRST_DELAY = 0.02
_LAST_DELAY = 1.0
_STABLE_SECONDS = 1.0
_FORGOTTEN_MAX = 4096
_FORGOTTEN_BYTES = 4 * WINDOW
_SHUTDOWN_MARGIN = 5.0
_REASONS = {
    CloseReason.SHUTDOWN: "it was stopped",
    CloseReason.IDLE: "its idle timeout passed",
    CloseReason.LIFETIME: "its lifetime is over",
    CloseReason.ORPHANED: "nobody was connected to it any more",
}


class Channel:
    """Runs commands and moves files in one sandbox; belongs to the event loop that opened it.

    When the connection breaks, it is made again within `RECONNECT_SECONDS`: commands go on where they were, with no
    byte lost or doubled; file transfers fail. Whatever the agent says is checked, and what it may not say ends the
    channel for good with `AgentProtocolError`. What is held in memory is bounded by the windows of the open streams.
    """

    def __init__(self, connect: Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]], *, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self._random = random.Random()  # noqa: S311 - ids of streams are no secrets, and several clients' must differ
        self._connect = connect
        self._link: Link | None = None
        self._streams: dict[int, RemoteProcess | Download | Upload] = {}
        self._replies: dict[int, tuple[int, asyncio.Future[None]]] = {}
        self._forgotten: dict[int, int] = {}
        self._closing: tuple[CloseReason, int] | None = None
        self._error: AviatoError | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._resumed_at = self._broken_since = float("-inf")
        self._delay = 0.0
        self._heard = False  # anything, since the connection was made again

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self._link else "reconnecting"
        return f"<Channel {self.sandbox_id} {state}, {len(self._streams)} streams>"

    @property
    def closed(self) -> bool:
        """True when nothing can be asked any more, and never will."""
        return self._error is not None

    @property
    def closing(self) -> tuple[CloseReason, int] | None:
        """What the agent said when it ended: why, and the main command's return code (-1: none); untrusted."""
        return self._closing

    async def open(self, timeout: float) -> AgentInfo:  # noqa: ASYNC109 - the connection's own limit, named in the error
        """Connect and say hello; once.

        Cancelling leaves the channel as it was.

        Args:
            timeout: Seconds for all of it.

        Raises:
            EngineConnectionError: The agent could not be reached, or did not answer in time; it names the stage.
            AgentProtocolError: What answered does not speak the protocol, or no common version.
            AviatoError: As `connect` raised it.
        """
        self._check()
        self._link, info = await self._dial(timeout)
        return info

    async def _dial(self, seconds: float) -> tuple[Link, AgentInfo]:
        link = Link(self._on_frame, self._on_lost)
        stage = "connecting"
        try:
            async with asyncio.timeout(seconds):
                await self._connect(link)
                stage = "the connection stands, waiting for the agent's hello"
                info = await link.hello
        except TimeoutError as error:
            if isinstance(error, AviatoError):
                raise
            message = f"the agent in {self.sandbox_id} did not answer within {seconds:g} s ({stage})"
            late = EngineConnectionError(message, retryable=True)
            link.drop(late)
            raise late from error
        except OSError as error:
            if isinstance(error, AviatoError):
                raise
            message = f"the agent in {self.sandbox_id} cannot be reached: {error}"
            raise EngineConnectionError(message, retryable=True) from error
        except BaseException:
            link.drop(EngineConnectionError("the connection was given up"))
            raise
        if not link.alive:
            raise EngineConnectionError(f"the agent in {self.sandbox_id} hung up after its hello", retryable=True)
        return link, info

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _new_stream(self) -> int:
        while True:
            stream = self._random.getrandbits(63) + 1
            if stream not in self._streams and stream not in self._forgotten:
                return stream

    def exec(
        self,
        argv: Sequence[str],
        sink: ProcessSink,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        stdin: bool = False,
        timeout_ms: int = 0,
        process_id: int | None = None,
    ) -> RemoteProcess:
        """Start a command; returns at once, `sink` hears the rest.

        Repeating it with the same `process_id` starts nothing twice in the agent. A command that cannot be executed
        ends with return code 126 or 127 and a line on stderr; a working directory or user that is not there is
        `process_lost`.

        Args:
            argv: The command; looked up in the PATH it is given.
            sink: Whoever wants to know about it.
            env: Variables that override the sandbox's.
            cwd: Directory to run in; empty: the sandbox's.
            user: `name`, `uid`, with `:group` if need be; empty: the sandbox's.
            stdin: Keep its input open for `send_stdin`; else it is empty.
            timeout_ms: Milliseconds until the agent kills it and all it started; 0: none.
            process_id: 1 to 2**64-1, unique in the sandbox; None: a random one.

        Raises:
            ValueError: The command and its environment do not fit in one frame (1 MiB).
            AviatoError: The channel is closed; the error says why.
        """
        self._check()
        stream = self._new_stream() if process_id is None else process_id
        start = pack_start(
            stream,
            [os.fsencode(item) for item in argv],
            env=[os.fsencode(f"{name}={value}") for name, value in env.items()] if env else (),
            cwd=os.fsencode(cwd),
            user=os.fsencode(user),
            flags=StartFlags.STDIN if stdin else 0,
            timeout_ms=timeout_ms,
        )
        alone = not self._streams and not stdin
        process = RemoteProcess(self, stream, sink, start, limited=timeout_ms > 0)
        self._streams[stream] = process
        if self._link is not None:
            if alone:  # nobody to share a write with, so it need not wait for the next turn of the loop
                self._link.send_now(start)
            else:
                self._link.send(start)
        return process

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read a regular file piece by piece, with flat memory; closing the generator early ends the transfer.

        Args:
            path: Path inside the sandbox.
            offset: First byte wanted.
            length: Bytes wanted at most; None: to the end.

        Raises:
            SandboxFileError: It cannot be opened or read, or is no regular file.
            EngineConnectionError: The connection broke; what came until then is right.
            AviatoError: The channel is closed; the error says why.
        """
        self._check()
        download = Download(self, self._new_stream(), path, offset, length)
        self._track(download)
        try:
            while (piece := await download.next_piece()) is not None:
                yield piece
        finally:
            download.release()

    async def write_file(
        self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644, atomic: bool = True, parents: bool = True
    ) -> int:
        """Write a file from pieces of any size, with flat memory; give the number of bytes.

        Cancelling, and an error of `chunks`, leave the old file if `atomic`, else what was written so far.

        Args:
            path: Path inside the sandbox; a link is followed.
            chunks: The content.
            mode: Permissions of a new file; an existing one keeps its own.
            atomic: Show the new content only when it is complete.
            parents: Make missing directories.

        Raises:
            SandboxFileError: It cannot be written; the message says how far it got.
            EngineConnectionError: The connection broke; `outcome` is unknown if all was sent.
            AviatoError: The channel is closed; the error says why.
        """
        self._check()
        upload = Upload(self, self._new_stream(), path, mode, atomic=atomic, parents=parents)
        self._track(upload)
        try:
            async for chunk in chunks:
                for start in range(0, len(chunk), DATA_CHUNK):
                    await upload.write(chunk[start : start + DATA_CHUNK])
            return await upload.finish()
        finally:
            upload.release()
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()  # now, and not when the garbage is collected

    def _track(self, transfer: Download | Upload) -> None:
        self._streams[transfer.stream] = transfer
        if self._link is None:
            transfer.lost(EngineConnectionError("the connection to the agent is down", retryable=True))

    async def shutdown(self, grace: float) -> None:
        """End the sandbox from inside: SIGTERM to all, SIGKILL after `grace` seconds; returns when the agent has ended.

        Idempotent; no error when it has ended already.

        Raises:
            EngineConnectionError: The agent did not say so in `grace` and 5 seconds, or the connection broke.
            AgentProtocolError: The agent broke the protocol.
        """
        if self._closing is not None:
            return
        self._check()
        self.send(pack_frame(FrameType.SHUTDOWN, 0, S_MILLISECONDS.pack(round(grace * 1000))))
        try:
            async with asyncio.timeout(grace + _SHUTDOWN_MARGIN):
                await self._ended.wait()
        except TimeoutError as error:
            message = f"the agent in {self.sandbox_id} did not end within {grace + _SHUTDOWN_MARGIN:g} s"
            raise EngineConnectionError(message) from error
        if self._closing is None:
            self._check()

    async def extend(self, seconds: float) -> None:
        """Let the sandbox's lifetime, where the agent holds it, end so many seconds later than it would have.

        Raises:
            EngineConnectionError: The connection broke; it may have been done.
            AviatoError: The channel is closed; the error says why.
        """
        await self._request(FrameType.EXTEND, FrameType.EXTENDED, S_MILLISECONDS.pack(round(seconds * 1000)))

    async def ping(self, timeout: float) -> float:  # noqa: ASYNC109 - the limit of the measurement
        """Measure a round trip to the agent, in seconds.

        Raises:
            EngineConnectionError: No answer within `timeout` seconds, or the connection broke.
            AviatoError: The channel is closed; the error says why.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                await self._request(FrameType.PING, FrameType.PONG, b"")
        except TimeoutError as error:
            raise EngineConnectionError(
                f"the agent in {self.sandbox_id} did not answer within {timeout:g} s"
            ) from error
        return time.perf_counter() - began

    async def _request(self, type_: FrameType, answer: FrameType, payload: bytes) -> None:
        self._check()
        if self._link is None:
            raise EngineConnectionError("the connection to the agent is down", retryable=True)
        stream = self._new_stream()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replies[stream] = (answer, future)
        self.send(pack_frame(type_, stream, payload))
        try:
            await future
        finally:
            if self._replies.pop(stream, None) is not None:
                self.forget(stream, ended=False)

    async def wait_closed(self) -> None:
        """Wait until it is `closed`: whatever the agent said before its end has been handed on."""
        await self._ended.wait()

    async def close(self) -> None:
        """Drop the connection; commands still open are lost to this side and go on in the sandbox. Idempotent."""
        message = f"the connection to sandbox {self.sandbox_id} was closed"
        self._end(SandboxTerminatedError(message, sandbox_id=self.sandbox_id))
        task, self._reconnecting = self._reconnecting, None
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    # For the streams

    def send(self, data: bytes, *, urgent: bool = True) -> None:
        """Queue a frame, or drop it when there is no connection."""
        if self._link is not None:
            self._link.send(data, urgent=urgent)

    def forget(self, stream: int, *, ended: bool) -> None:
        """Forget a stream; what the agent may still say of one that had not ended is tolerated up to a bound."""
        self._streams.pop(stream, None)
        if not ended:
            self._forgotten[stream] = _FORGOTTEN_BYTES
            if len(self._forgotten) > _FORGOTTEN_MAX:
                del self._forgotten[next(iter(self._forgotten))]

    # From the link

    def _on_frame(self, type_: int, stream: int, payload: memoryview) -> None:
        known = self._streams.get(stream)
        self._heard = True
        if known is not None:
            known.frame(type_, payload)
        elif stream in self._replies and type_ == self._replies[stream][0]:
            exact(payload, 0, "answer")
            future = self._replies.pop(stream)[1]
            if not future.done():
                future.set_result(None)
        elif stream in self._forgotten:
            self._forgotten[stream] -= len(payload) + 64
            if self._forgotten[stream] < 0:
                raise AgentProtocolError("the agent goes on about a stream that was released")
        elif stream == 0 and type_ == FrameType.CLOSING:
            self._on_closing(payload)
        else:
            raise AgentProtocolError(f"frame of type {type_} for a stream that nobody opened")

    def _on_closing(self, payload: memoryview) -> None:
        reason, code = S_CLOSING.unpack(exact(payload, S_CLOSING.size, "closing"))
        try:
            self._closing = (CloseReason(reason), code)
        except ValueError:
            raise AgentProtocolError(f"the agent ended for an unknown reason {reason}") from None
        if not -1 <= code <= 255:  # noqa: PLR2004 - what an exit status can be
            self._closing = None
            raise AgentProtocolError(f"main command's return code {code}")
        sandbox = self.sandbox_id
        if reason == CloseReason.MAIN_EXITED:
            message = f"sandbox {sandbox} is no longer running: its main command ended with return code {code}"
            self._end(SandboxNotRunningError(message, sandbox_id=sandbox))
        else:
            message = f"sandbox {sandbox} was terminated: {_REASONS[self._closing[0]]}"
            self._end(SandboxTerminatedError(message, sandbox_id=sandbox))

    def _on_lost(self, link: Link, error: AviatoError | None) -> None:
        if link is not self._link:
            return
        self._link = None
        if self._error is not None:
            return
        if error is not None:
            self._end(error)
            return
        broken = EngineConnectionError(f"the connection to the agent in {self.sandbox_id} broke")
        for stream in list(self._streams.values()):
            if not isinstance(stream, RemoteProcess):
                stream.lost(broken)
        self._fail_replies(broken)
        if loop_ends():
            self._end(broken)
            return
        self._reconnecting = asyncio.get_running_loop().create_task(
            self._reconnect(), name=f"aviato-reconnect-{self.sandbox_id}"
        )

    async def _reconnect(self) -> None:
        moment = time.monotonic()
        if moment - self._resumed_at > _STABLE_SECONDS:
            self._broken_since, self._delay = moment, 0.0
        else:  # it broke again at once
            if self._heard:
                self._broken_since = moment
            await self._back_off()
        cause: AviatoError = EngineConnectionError("the agent hangs up each time")
        while (left := self._broken_since + RECONNECT_SECONDS - time.monotonic()) > 0:
            try:
                link, _ = await self._dial(min(left, _HELLO_SECONDS))
            except EngineConnectionError as error:
                cause = error
            except AviatoError as error:
                self._end(error)
                return
            else:
                self._resume(link)
                return
            await self._back_off()
        message = f"the connection to the agent in {self.sandbox_id} broke and could not be made again"
        final = EngineConnectionError(f"{message} within {RECONNECT_SECONDS:g} s: {cause.message}")
        final.__cause__ = cause
        self._end(final)

    async def _back_off(self) -> None:
        self._delay = min(_LAST_DELAY, max(_FIRST_DELAY, self._delay * 2))
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing

    def _resume(self, link: Link) -> None:
        self._link = link
        self._resumed_at = time.monotonic()
        self._heard = False
        for stream, left in self._forgotten.items():
            if left >= 0:
                link.send(pack_frame(FrameType.RELEASE, stream))
        for item in list(self._streams.values()):
            if isinstance(item, RemoteProcess):
                item.connected()

    def _fail_replies(self, error: AviatoError) -> None:
        replies = list(self._replies.values())
        self._replies.clear()
        for _, future in replies:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits sees it

    def _end(self, error: AviatoError) -> None:
        """Close for good; whatever is open is lost."""
        if self._error is not None:
            return
        self._error = error
        link, self._link = self._link, None
        if link is not None:
            link.drop(error)
        for stream in list(self._streams.values()):
            stream.lost(error)
        self._fail_replies(error)
        self._ended.set()
