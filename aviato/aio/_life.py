"""One sandbox as the core knows it: its state, its start, its end and the channel to its agent.

Handles for the same id on one loop share one `Life`. It holds no handle, so a handle that is dropped is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from aviato.agent.channel import Channel
from aviato.aio import _fork, states
from aviato.aio._completion import Completion, check_loop
from aviato.aio._loop import EngineLink, loop_state
from aviato.aio._report import Reporter
from aviato.exceptions import (
    AviatoError,
    EngineConnectionError,
    SandboxError,
    SandboxFailedError,
    SandboxLostError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SandboxResourceExhaustedError,
    SandboxTerminatedError,
    SandboxTimeoutError,
)
from aviato.models import ExitReason, SandboxInfo, SandboxStatus

if TYPE_CHECKING:
    from aviato.engines.base import SandboxSpec

_log = logging.getLogger("aviato")
_NOT_FOUND = 127
END_NEWS_SECONDS = 2.0
"""How long the news of an end may take to arrive behind the end of the connection."""
STOP_MARGIN_SECONDS = 30.0
"""How long, beyond the grace, an engine may take to end a sandbox before the client stops waiting."""


class Life:
    """From creation to end."""

    def __init__(self, link: EngineLink, info: SandboxInfo, spec: SandboxSpec | None, request_timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.link = link
        self.info = info
        self.spec = spec
        self.request_timeout = request_timeout
        self.observed_at = datetime.now(UTC)
        self.failure: BaseException | None = None
        self.failure_seen = False
        self.tracked = False
        self.ended = asyncio.Event()
        self.on_change: list[Callable[[SandboxInfo], object]] = []
        self._generation = _fork.generation
        self._channel: Channel | None = None
        self._start: asyncio.Future[None] | None = None
        self._stop: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._ready: Completion[Channel] = Completion(f"start of sandbox {info.sandbox_id}", self.loop)
        self._ready.observed = True  # a failed start surfaces through the handle and the session, which keep count
        if info.status.is_terminal:
            self.ended.set()
        link.lives[info.sandbox_id] = self

    @property
    def sandbox_id(self) -> str:
        """The id."""
        return self.info.sandbox_id

    @property
    def is_ready(self) -> bool:
        """True when commands start at once."""
        return self._channel is not None and not self.ended.is_set()

    @property
    def started(self) -> bool:
        """True when the start has been asked for."""
        return self._start is not None

    def is_own_process(self) -> bool:
        """Tell whether the running process made this, and not a parent of it."""
        return not _fork.is_stale(self._generation)

    def check(self) -> None:
        """Refuse use after a fork or from another loop.

        Raises:
            ForkError: The handle belongs to the parent process.
            RuntimeError: It belongs to another event loop.
        """
        _fork.check(self._generation, f"sandbox {self.sandbox_id}")
        check_loop(self.loop, f"sandbox {self.sandbox_id}")

    def begin(self) -> None:
        """Create and start it, or attach to it, in the background; once."""
        if self._start is None:
            self._start = self.loop.create_task(self._run_start(), name=f"aviato-start-{self.sandbox_id}")

    async def _run_start(self) -> None:
        try:
            async with asyncio.timeout(self.request_timeout):
                await self._create_and_connect()
        except asyncio.CancelledError:
            message = f"sandbox {self.sandbox_id} was stopped while it started"
            await self._fail(SandboxTerminatedError(message, sandbox_id=self.sandbox_id))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it surfaces at the first use
            if isinstance(error, TimeoutError) and not isinstance(error, AviatoError):
                error = SandboxTimeoutError(
                    f"sandbox {self.sandbox_id} did not start within request_timeout_seconds={self.request_timeout:g}",
                    sandbox_id=self.sandbox_id,
                    is_infrastructure=True,
                )
            await self._fail(error)
        else:
            if self._channel is None:
                self._ready.set_error(self.end_error())
            else:
                self._ready.set_result(self._channel)

    async def _create_and_connect(self) -> None:
        await loop_state().guard()
        if self.spec is not None:
            self.observe(await self._create(self.spec))
        if self.info.status.is_terminal:
            return
        self.link.follow(self.sandbox_id)
        channel = Channel(self._connect, sandbox_id=self.sandbox_id)
        try:
            await channel.open(self.request_timeout)
        except EngineConnectionError:
            await channel.close()
            if not await self._ended_soon():
                raise
            return
        except BaseException:
            await channel.close()
            raise
        self._channel = channel
        if self.info.status in {SandboxStatus.PENDING, SandboxStatus.CREATING}:
            await self.refresh()

    async def _create(self, spec: SandboxSpec) -> SandboxInfo:
        if spec.on_pull_progress is None:
            return await self.link.engine.create(spec)
        reporter = Reporter(spec.on_pull_progress, "on_pull_progress")
        try:
            return await self.link.engine.create(attrs.evolve(spec, on_pull_progress=reporter))
        finally:
            reporter.close()

    async def _ended_soon(self) -> bool:
        """Tell whether an agent that cannot be reached is one that has ended: the news of that may be on its way."""
        await self.refresh()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_NEWS_SECONDS):
                await self.ended.wait()
        return self.ended.is_set()

    async def _fail(self, error: BaseException) -> None:
        if isinstance(error, (SandboxNotRunningError, SandboxTerminatedError)) and self.info.status.is_terminal:
            self._ready.set_error(error)
            return
        if self.spec is not None:
            undo = self.loop.create_task(self._undo())
            while not undo.done():  # it has a deadline of its own; to be cancelled meanwhile changes nothing
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(undo)
        stopped = isinstance(error, SandboxTerminatedError)
        if not stopped:  # to be stopped while it starts is no failure of the sandbox
            self.failure = error
        self._ready.set_error(error)
        self.observe(
            attrs.evolve(
                self.info,
                status=SandboxStatus.TERMINATED if stopped else SandboxStatus.FAILED,
                ended_at=datetime.now(UTC),
                exit_reason=ExitReason.STOPPED if stopped else None,
                message=str(error),
            )
        )

    async def _undo(self) -> None:
        try:
            async with asyncio.timeout(STOP_MARGIN_SECONDS):
                await self.link.engine.delete(self.sandbox_id, missing_ok=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the start must hear why that failed
            _log.warning("what the failed start of %s may have left could not be removed: %s", self.sandbox_id, error)

    async def _connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        if self.ended.is_set():
            self._drained.set()
            raise self.end_error()
        try:
            return await self.link.engine.connect(self.sandbox_id, protocol)
        except (SandboxNotRunningError, SandboxNotFoundError, SandboxLostError):
            await self.refresh()
            if self.info.status.is_terminal:
                self._drained.set()
                raise self.end_error() from None
            raise

    def when_ready(self, then: Callable[[Channel], object], otherwise: Callable[[BaseException], object]) -> None:
        """Call one of the two, at once if it is known which; starts the sandbox if that was not done."""
        if self.ended.is_set() and self.failure is None:
            otherwise(self.end_error())
            return
        if self._channel is not None:
            then(self._channel)
            return
        self.begin()

        def settle() -> None:
            error = self._ready.error
            if error is not None:
                self.failure_seen = True
                otherwise(error)
            else:
                channel = self._ready.peek
                assert channel is not None  # noqa: S101 - settled without an error
                then(channel)

        self._ready.add_done_callback(settle)

    async def ready(self, timeout: float | None = None) -> Channel:  # noqa: ASYNC109 - ends only the waiting
        """Wait until it runs, starting it if that was not done.

        Raises:
            TimeoutError: `timeout` seconds passed.
            AviatoError: It could not start, or has ended.
        """
        self.check()
        if self.ended.is_set() and self.failure is None:
            raise self.end_error()
        self.begin()
        try:
            return await self._ready.wait(timeout)
        finally:
            if self.failure is not None:
                self.failure_seen = True

    async def started_or_ended(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - ends only the waiting
        """Wait until it runs, or has run and ended.

        Raises:
            TimeoutError: `timeout` seconds passed.
            AviatoError: It could not start.
        """
        try:
            await self.ready(timeout)
        except AviatoError:
            if self.failure is not None or not self.ended.is_set():
                raise

    def observe(self, info: SandboxInfo) -> None:
        """Take one observation through the state machine."""
        self.observed_at = datetime.now(UTC)
        known, self.info = self.info, states.advance(self.info, info)
        if self.info.status.is_terminal and not self.ended.is_set():
            self.ended.set()
            self.link.unfollow(self.sandbox_id)
            if self._channel is not None:
                self._leaving = self.loop.create_task(self._leave(), name=f"aviato-leave-{self.sandbox_id}")
        if self.info.status is not known.status:
            for callback in list(self.on_change):
                callback(self.info)

    async def refresh(self) -> None:
        """Ask the engine for the present state.

        Raises:
            EngineError: It could not be asked.
            SandboxTimeoutError: It did not answer within the request timeout.
        """
        try:
            self.observe(await self._bounded(self.link.engine.get(self.sandbox_id), "look up"))
        except SandboxNotFoundError:
            if not self.info.status.is_terminal:
                self.observe(states.lost(self.info, "the engine no longer knows it"))

    async def _bounded(self, request: object, what: str) -> SandboxInfo:
        try:
            async with asyncio.timeout(self.request_timeout):
                return await request  # type: ignore[misc,no-any-return]  # the engine's coroutine
        except TimeoutError as error:
            if isinstance(error, AviatoError):
                raise
            raise SandboxTimeoutError(
                f"the {self.link.engine.name} engine did not {what} {self.sandbox_id} in {self.request_timeout:g} s",
                sandbox_id=self.sandbox_id,
                is_infrastructure=True,
            ) from error

    def end_error(self) -> SandboxError:
        """Say as an error how it ended."""
        info, name = self.info, self.sandbox_id
        if not info.status.is_terminal:
            return SandboxNotRunningError(f"sandbox {name} is {info.status}", sandbox_id=name)
        if info.exit_reason is ExitReason.LOST:
            return SandboxLostError(
                f"sandbox {name} was lost: {info.message or 'what ran it is gone'}",
                sandbox_id=name,
                hint="Start another one; whether its work was done cannot be known.",
            )
        if info.exit_reason is ExitReason.OOM_KILLED:
            return SandboxResourceExhaustedError(
                f"sandbox {name} was killed because it used up its memory",
                sandbox_id=name,
                is_infrastructure=False,
                hint='Give it more, for example resources={"memory": "4Gi"}.',
            )
        if info.status is SandboxStatus.TERMINATED:
            causes = {
                ExitReason.LIFETIME: "reached its max_lifetime_seconds",
                ExitReason.IDLE: "was idle for its idle_timeout_seconds",
                ExitReason.TIMEOUT: "was without a client for its orphan_timeout_seconds",
            }
            cause = causes.get(info.exit_reason, "was stopped") if info.exit_reason else "was stopped"
            return SandboxTerminatedError(f"sandbox {name} {cause}", sandbox_id=name)
        if info.returncode is None:
            return SandboxFailedError(f"sandbox {name} failed: {info.message or 'no cause is known'}", sandbox_id=name)
        return SandboxNotRunningError(
            f"sandbox {name} has ended: its main command returned {info.returncode}",
            sandbox_id=name,
            hint=self.main_command_hint(),
        )

    def main_command_hint(self) -> str | None:
        """Return what probably helps when the main command was not found, else None."""
        words = () if self.spec is None else self.spec.command or ()
        if self.info.returncode == _NOT_FOUND and words and " " in words[0]:
            return f"A command is one word: give command={words[0].split()[0]!r} and the rest as args."
        return None

    async def stop(self, grace: float, *, missing_ok: bool) -> None:
        """Stop it; concurrent callers share one stop.

        Raises:
            AviatoError: It could not be stopped; a further call tries again.
        """
        self.check()
        if self._stop is None or (self._stop.done() and (self._stop.cancelled() or self._stop.exception() is not None)):
            self._stop = self.loop.create_task(
                self._run_stop(grace, missing_ok=missing_ok), name=f"aviato-stop-{self.sandbox_id}"
            )
        await asyncio.shield(self._stop)

    async def _run_stop(self, grace: float, *, missing_ok: bool) -> None:
        try:
            if self._start is not None and not self._start.done():
                self._start.cancel()
                await asyncio.wait([self._start])
            if self._start is None and self.spec is not None:
                self._end_unstarted()
                return
            if self.info.status.is_terminal:
                return
            self.observe_terminating()
            margin = grace + STOP_MARGIN_SECONDS
            started = time.monotonic()
            try:
                async with asyncio.timeout(margin):
                    info = await self.link.engine.stop(
                        self.sandbox_id, grace_seconds=grace, missing_ok=missing_ok or self.spec is not None
                    )
            except TimeoutError as error:
                if isinstance(error, AviatoError):
                    raise
                raise EngineConnectionError(
                    f"sandbox {self.sandbox_id} was not reported stopped within {time.monotonic() - started:.0f} s"
                ) from error
            if info is None:
                info = states.lost(self.info, "the engine no longer knows it")
            self.observe(info)
        finally:
            await self._close_channel()
            self._drained.set()

    def _end_unstarted(self) -> None:
        self._start = self.loop.create_future()
        self._start.set_result(None)
        self.observe(attrs.evolve(self.info, status=SandboxStatus.TERMINATED, exit_reason=ExitReason.STOPPED))
        self._ready.set_error(self.end_error())

    def observe_terminating(self) -> None:
        """Note that a stop has been asked for."""
        self.observe(attrs.evolve(self.info, status=SandboxStatus.TERMINATING))

    async def _leave(self) -> None:
        """Let the connection go once all that was on its way has been read.

        That is when the agent has said goodbye, or the channel asks for a new connection.
        """
        channel = self._channel
        if channel is not None:
            waits = [self.loop.create_task(self._drained.wait()), self.loop.create_task(channel.wait_closed())]
            await asyncio.wait(waits, timeout=END_NEWS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        await self._close_channel()

    @property
    def is_settled(self) -> bool:
        """True when it has ended and somebody has been told if that was a failure."""
        return self.ended.is_set() and (self.failure is None or self.failure_seen)

    @property
    def is_leaving(self) -> bool:
        """True while something is still held of a sandbox that has ended."""
        return self._leaving is not None and not self._leaving.done()

    async def left(self) -> None:
        """Wait until nothing is held any more of a sandbox that has ended."""
        if self._leaving is not None:
            await asyncio.shield(self._leaving)

    async def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
