"""Sandboxes kept for repeated use: never more than so many at once, spares started ahead, the dead replaced.

A place is taken from the moment a start is decided until the sandbox has been stopped, so that "at most so many" holds
on the machine too and not only in our books. Whoever waits is served in the order of coming.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from aviato.agent.loop_end import loop_ends
from aviato.aio import _fork
from aviato.aio.pooling.kept import Kept
from aviato.aio.pooling.stopping import Stopping
from aviato.aio.pooling.waiting import Queue
from aviato.exceptions import (
    AviatoError,
    SandboxError,
    SandboxResourceExhaustedError,
    SandboxTerminatedError,
    summarize_failures,
)

if TYPE_CHECKING:
    from aviato.aio.sandbox import Sandbox

__all__ = ["Keeper", "Kept"]

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_log = logging.getLogger("aviato")


class Keeper:
    """Hands out sandboxes and takes them back.

    Attributes:
        created: Sandboxes that came to run.
        reused: How often one was taken that had been used before.
        replaced: Sandboxes that were given up while the keeper was open: dead, too old, too used, not reusable.
        failed: Starts that failed.
    """

    def __init__(
        self,
        make: Callable[[], Sandbox],
        *,
        most: int,
        warm: int = 0,
        max_uses: int | None = None,
        max_age_seconds: float | None = None,
        ceiling: int | None = None,
        label: str = "this pool",
        prepare: Callable[[Kept], Awaitable[None]] | None = None,
        reset: Callable[[Kept], Awaitable[bool]] | None = None,
        needs_reset: Callable[[Kept], object] = lambda _: True,
        admit: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
        hold: Callable[[], Awaitable[Callable[[], object]]] | None = None,
    ) -> None:
        """Describe what is kept; nothing is started, and no loop need run.

        Args:
            make: Creates a sandbox, which starts by itself.
            most: Sandboxes at once, those included that start, are reset or are being stopped.
            warm: Sandboxes that should be idle, started ahead once `begin` or `take` was called.
            max_uses: Uses after which one is replaced.
            max_age_seconds: Age after which one is replaced, when it is idle or given back.
            ceiling: Sandboxes at once for those who take with `grow=True`.
            label: What errors and logs call this.
            prepare: Run on each sandbox that has started, before anybody gets it.
            reset: Run in the background on each that was given back; False has it replaced.
            needs_reset: Tells of one that was given back whether `reset` has anything to do.
            admit: Makes a context manager within which one sandbox starts.
            hold: Waits until there may be one sandbox more, and returns what is called when that one is gone.
        """
        self._make = make
        self._most = most
        self._warm = warm
        self._max_uses = max_uses
        self._max_age = max_age_seconds
        self._ceiling = most if ceiling is None else ceiling
        self._label = label
        self._prepare = prepare
        self._reset = reset
        self._needs_reset = needs_reset
        self._admit = admit
        self._hold = hold
        self._generation = _fork.generation
        self._idle: deque[Kept] = deque()
        self._in_use: set[Kept] = set()
        self._resetting: dict[Kept, asyncio.Task[None]] = {}
        self._stopping = Stopping(label)
        self._starting: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._waiting = Queue()
        self._pause = _FIRST_PAUSE
        self._paused: asyncio.TimerHandle | None = None
        self._aging: asyncio.TimerHandle | None = None
        self._closed = False
        self._abandoned = False
        self._closing: asyncio.Task[None] | None = None
        self.created = self.reused = self.replaced = self.failed = 0

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        return self._closed

    @property
    def size(self) -> int:
        """Places taken."""
        stopping = len(self._stopping.tasks)
        return len(self._idle) + len(self._in_use) + len(self._resetting) + stopping + len(self._starting)

    @property
    def counts(self) -> dict[str, int]:
        """How many are in each state now, and how many takers wait."""
        return {
            "idle": len(self._idle),
            "in_use": len(self._in_use),
            "starting": len(self._starting),
            "resetting": len(self._resetting),
            "stopping": len(self._stopping.tasks),
            "waiting": len(self._waiting),
        }

    def begin(self) -> None:
        """Start the spares, in the background."""
        self._check_open()
        self._fill()

    def _check_open(self) -> None:
        _fork.check(self._generation, self._label)
        if self._closed:
            raise SandboxError(f"{self._label} is closed")

    async def take(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - ends only the waiting
        *,
        grow: bool = False,
        wait: bool = True,
    ) -> Kept:
        """Return a sandbox that runs: an idle one, else a new one, else the next that is given back.

        If cancelled, nothing was taken.

        Args:
            timeout: Seconds to wait.
            grow: When all places are taken, use one beyond them, up to the ceiling.
            wait: False raises when only another user's giving back could help.

        Raises:
            TimeoutError: `timeout` passed.
            SandboxResourceExhaustedError: Every place is in use and not `wait`.
            SandboxError: This is closed.
            AviatoError: A sandbox could not start.
        """
        self._check_open()
        kept = self._take_idle()
        if kept is None:
            coming = len(self._starting) + len(self._resetting) - len(self._waiting)
            if coming <= 0 and self.size >= self._most:
                if grow and self.size < self._ceiling:
                    self._start()
                elif not wait:
                    raise SandboxResourceExhaustedError(
                        f"all {self._most} sandboxes of {self._label} are in use",
                        is_infrastructure=False,
                        hint='Wait for one with policy="wait", or let the pool be larger.',
                    )
            kept = await self._wait_for_one(timeout)
        if kept.uses:
            self.reused += 1
        kept.uses += 1
        return kept

    def _take_idle(self) -> Kept | None:
        while self._idle:
            kept = self._idle.pop()
            if kept.ended or self._worn(kept):
                self._retire(kept)
                continue
            self._in_use.add(kept)
            self._fill()
            return kept
        return None

    async def _wait_for_one(self, seconds: float | None) -> Kept:
        waiter = self._waiting.join()
        self._fill()
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            self._waiting.leave(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                kept = waiter.result()  # it came in the moment of the cancellation: the next one gets it
                self._in_use.discard(kept)
                self._offer(kept)
            if isinstance(error, TimeoutError) and not isinstance(error, AviatoError):
                raise TimeoutError(
                    f"no sandbox of {self._label} was free within {seconds:g} s: "
                    + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items())
                ) from None
            raise

    async def give_back(self, kept: Kept, *, reusable: bool) -> None:
        """Take a sandbox back; once only, further calls do nothing.

        One that is not reusable, dead, too old or too used is stopped, and replaced where it is needed. Returns when it
        has been stopped if it is not reusable, else at once: it is reset in the background. If cancelled, all of that
        goes on.
        """
        if kept not in self._in_use or _fork.is_stale(self._generation):
            return
        self._in_use.remove(kept)
        if not reusable or kept.ended or self._closed:
            stopping = self._retire(kept)
            if stopping is not None:
                await asyncio.shield(stopping)
        elif self._worn(kept):
            self._retire(kept)
        elif self._reset is None or not self._needs_reset(kept):
            self._offer(kept)
        else:
            task = asyncio.get_running_loop().create_task(self._run_reset(kept, self._reset), name="aviato-reset")
            self._resetting[kept] = task
            task.add_done_callback(lambda task: self._reset_over(kept, task, clean=False))

    async def _run_reset(self, kept: Kept, reset: Callable[[Kept], Awaitable[bool]]) -> None:
        try:
            clean = await reset(kept)
        except Exception as error:  # noqa: BLE001 - whatever it was, this sandbox is not used again
            _log.info("sandbox %s of %s is replaced: %s", kept.sandbox.sandbox_id, self._label, error)
            clean = False
        self._reset_over(kept, asyncio.current_task(), clean=clean)

    def _reset_over(self, kept: Kept, task: asyncio.Task[None] | None, *, clean: bool) -> None:
        """Note how a reset ended; when its task was cancelled, before its first step too, this is said afterwards."""
        if self._resetting.get(kept) is not task:
            return  # it was said already, and this may be its next reset
        del self._resetting[kept]
        if _was_cancelled(task):
            self._abandon()
        if clean:
            self._offer(kept)
        else:
            self._retire(kept)

    def _worn(self, kept: Kept) -> bool:
        """Tell whether it is too used or too old."""
        if self._max_uses is not None and kept.uses >= self._max_uses:
            return True
        return self._max_age is not None and asyncio.get_running_loop().time() - kept.made_at >= self._max_age

    def _offer(self, kept: Kept) -> None:
        """Give a free sandbox to who has waited longest, else let it be idle."""
        if self._closed or kept.ended or self._worn(kept):
            self._retire(kept)
            return
        waiter = self._waiting.next()
        if waiter is not None:
            self._in_use.add(kept)
            waiter.set_result(kept)
            self._fill()
            return
        if self.size >= self._most:  # it was made for somebody who let the pool grow
            self._retire(kept, replaced=False)
            return
        self._idle.append(kept)
        self._watch_ages()

    def _abandon(self) -> None:
        """Take note that the loop ends, or somebody else cancelled a task of this: nothing new may begin on it.

        What runs is stopped by `close`, or at the latest by its session at the end of the process.
        """
        if not self._closed:
            self._closed = self._abandoned = self._stopping.hurried = True
            for timer in (self._paused, self._aging):
                if timer is not None:
                    timer.cancel()

    def _retire(self, kept: Kept, *, replaced: bool = True) -> asyncio.Task[None] | None:
        """Stop one that is in no other state, and free its place then; None when the loop ends before that."""
        if replaced and not self._closed:
            self.replaced += 1
        kept.forget_attached()
        if not self._closed and loop_ends():
            self._abandon()
        if self._abandoned:
            self._stopping.leave(kept)
            return None
        return self._stopping.begin(kept, self._stop_over)

    def _stop_over(self, task: asyncio.Task[None]) -> None:
        """Use the place of one that was stopped."""
        if _was_cancelled(task):
            self._abandon()
        self._fill()

    def _fill(self) -> None:
        """Start what waiters and spares need and places allow."""
        if self._closed:
            return
        warm = 0 if self._paused is not None else self._warm
        wanted = len(self._waiting) + warm - len(self._idle) - len(self._starting) - len(self._resetting)
        if wanted > 0 and loop_ends():
            self._abandon()
            return
        for _ in range(min(wanted, self._most - self.size)):
            self._start()

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._run_start(), name="aviato-keep")
        self._starting.add(task)
        task.add_done_callback(self._start_over)

    def _start_over(self, task: asyncio.Task[None]) -> None:
        """Note the end of a start that was cancelled before its first step."""
        self._starting.discard(task)
        if _was_cancelled(task):
            self._abandon()

    async def _run_start(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is one
        kept: Kept | None = None
        failure: Exception | None = None
        try:
            kept = await self._make_one()
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            failure = SandboxTerminatedError(f"a sandbox of {self._label} was stopped by another while it started")
        except Exception as error:  # noqa: BLE001 - it is raised where a sandbox is waited for
            failure = error
        finally:
            self._starting.discard(task)
        if failure is not None:
            self._start_failed(failure)
        elif kept is not None:
            self.created += 1
            self._pause = _FIRST_PAUSE
            self._follow(kept)
            self._offer(kept)

    async def _make_one(self) -> Kept | None:
        """Start one when that is allowed; None if by then nobody wants it any more."""
        release = _nothing if self._hold is None else await self._hold()
        kept: Kept | None = None
        try:
            async with self._admit():
                if self._begun >= len(self._waiting) + self._warm - len(self._idle) - len(self._resetting):
                    return None
                self._begun += 1
                try:
                    kept = Kept(self._make(), asyncio.get_running_loop().time(), release)
                    await kept.sandbox.wait()
                    if self._prepare is not None:
                        await self._prepare(kept)
                finally:
                    self._begun -= 1
        except BaseException as error:
            if isinstance(error, GeneratorExit) or _was_cancelled(asyncio.current_task()):
                self._abandon()
            if kept is not None:
                self._retire(kept, replaced=False)
            raise
        finally:
            if kept is None:
                release()
        return kept

    def _start_failed(self, failure: Exception) -> None:
        """Tell who has waited longest; without anybody, have the next spare wait a while."""
        if self._closed:
            return
        self.failed += 1
        waiter = self._waiting.next()
        if waiter is not None:
            waiter.set_exception(failure)
            self._fill()
            return
        _log.warning(
            "a spare sandbox of %s could not start, the next try is in %g s: %s", self._label, self._pause, failure
        )
        if self._paused is None:
            self._paused = asyncio.get_running_loop().call_later(self._pause, self._resume)
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _resume(self) -> None:
        self._paused = None
        self._fill()

    def _follow(self, kept: Kept) -> None:
        """Replace it as soon as the engine says that it ended while idle."""

        def changed(_: object) -> None:
            if kept.ended and kept in self._idle:
                self._idle.remove(kept)
                self._retire(kept)

        kept.sandbox._life.on_change.append(changed)  # noqa: SLF001 - keepers own sandboxes, as sessions do

    def _watch_ages(self) -> None:
        if self._max_age is None or self._aging is not None or not self._idle:
            return
        loop = asyncio.get_running_loop()
        oldest = min(kept.made_at for kept in self._idle)
        self._aging = loop.call_at(oldest + self._max_age, self._replace_old)

    def _replace_old(self) -> None:
        self._aging = None
        for kept in [kept for kept in self._idle if self._worn(kept)]:
            self._idle.remove(kept)
            self._retire(kept)
        self._watch_ages()

    async def close(self) -> None:
        """Stop every sandbox, those in use too, and wait until nothing of them runs.

        Those who wait for one get an error. Idempotent; concurrent callers wait together; after a failure a further
        call tries again. If cancelled, the closing goes on.

        Raises:
            SandboxError: Some could not be stopped.
        """
        if _fork.is_stale(self._generation):
            return
        self._closed = self._stopping.hurried = True
        self._abandoned = False
        if self._closing is None or (self._closing.done() and (self._stopping.stuck or self._stopping.left)):
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="aviato-close-kept")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for timer in (self._paused, self._aging):
            if timer is not None:
                timer.cancel()
        self._paused = self._aging = None
        while waiter := self._waiting.next():
            waiter.set_exception(SandboxError(f"{self._label} was closed while a sandbox was waited for"))
        for task in (*self._starting, *self._resetting.values()):
            task.cancel()
        stopping = self._stopping
        for kept in {*self._idle, *self._in_use, *stopping.stuck, *stopping.left}:
            if kept not in stopping.tasks:
                self._retire(kept)
        self._idle.clear()
        self._in_use.clear()
        stopping.left.clear()
        while tasks := self._tasks():
            await asyncio.wait(tasks)
        if stopping.stuck:
            stuck = [(kept.sandbox.sandbox_id, error) for kept, error in stopping.stuck.items()]
            raise summarize_failures("stopped", stuck, len(stuck))

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._starting, *self._resetting.values(), *self._stopping.tasks.values()]


def _nothing() -> None:
    pass


def _was_cancelled(task: asyncio.Task[None] | None) -> bool:
    """Tell whether a task was cancelled itself, and not only what it waited for."""
    return task is not None and task.cancelling() > 0
