"""Pools of sandboxes that are kept ready."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Any, Literal, Self

from aviato import validation
from aviato.aio import _facade as facade
from aviato.aio._keeper import Keeper, Kept
from aviato.aio.function import RemoteFunction
from aviato.aio.pooling import mapping
from aviato.aio.pooling.limiter import Limiter
from aviato.aio.pooling.pressure import processors
from aviato.aio.pooling.progress import Progress
from aviato.aio.pooling.reset import Janitor, end_surplus, surplus
from aviato.aio.pooling.work import Functions, Work, make_work, may_begin_again
from aviato.aio.sandbox import Sandbox
from aviato.exceptions import AviatoError, SandboxError
from aviato.models import Limits, PoolStats

if TYPE_CHECKING:
    from types import TracebackType

    from aviato.aio.pooling.journal import Journal
    from aviato.aio.session import Session

__all__ = ["Lease", "Pool"]

_POLICIES = ("wait", "grow", "fail")
_RESETS = ("clean", "replace", "none")
_BACKOFF_SECONDS = 0.05
_LONGEST_BACKOFF_SECONDS = 5.0
_log = logging.getLogger("aviato")


@facade.handle
class Lease:
    """One use of a sandbox of a pool, as a context manager that gives the sandbox; made by `Pool.acquire`.

    It may be entered again after it was left.
    """

    def __init__(self, pool: Pool, policy: str, seconds: float | None) -> None:
        self._pool = pool
        self._policy = policy
        self._seconds = seconds
        self._kept: Kept | None = None
        self._entering = False

    def __repr__(self) -> str:
        return f"<Lease of {'nothing' if self._kept is None else self._kept.sandbox.sandbox_id}>"

    async def __aenter__(self) -> Sandbox:
        """Take a sandbox and return it, running. If cancelled, none is taken.

        Raises:
            TimeoutError: None was free in time.
            SandboxResourceExhaustedError: All are in use and the policy is "fail".
            SandboxError: The pool is closed.
            AviatoError: A sandbox could not start.
            RuntimeError: It is entered already, or another task is about to.
        """
        if self._kept is not None or self._entering:
            raise RuntimeError("this lease is in use; ask the pool for another one")
        self._entering = True
        try:
            self._kept = await self._pool._keeper.take(  # noqa: SLF001 - its pool
                self._seconds, grow=self._policy == "grow", wait=self._policy != "fail"
            )
        finally:
            self._entering = False
        return self._kept.sandbox

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the sandbox back without waiting for its reset; after an error of the infrastructure it is replaced."""
        kept, self._kept = self._kept, None
        if kept is not None:
            lost = isinstance(exc, AviatoError) and exc.is_infrastructure
            await self._pool._keeper.give_back(kept, reusable=not lost)  # noqa: SLF001 - its pool


@facade.handle
class Pool:
    """Sandboxes of one configuration that are kept ready and used again; made by `Session.pool`.

    As a context manager it is closed at the end. The session closes it as well.
    """

    def __init__(
        self,
        session: Session,
        size: int,
        *,
        warm: int | None,
        max_size: int | None,
        max_uses: int | None,
        max_age_seconds: float | None,
        retries: int,
        limits: Limits | None,
        reset: str,
        config: dict[str, Any],
    ) -> None:
        self._session = session
        self._size = validation.whole_number("size", size, minimum=1)
        warm = min(self._size, 2 * processors()) if warm is None else validation.whole_number("warm", warm)
        if warm > self._size:
            raise ValueError(f"warm must be at most size={self._size}, got {warm}")
        if max_size is None:
            max_size = self._size
        elif validation.whole_number("max_size", max_size, minimum=1) < self._size:
            raise ValueError(f"max_size must be at least size={self._size}, got {max_size}")
        if max_uses is not None:
            validation.whole_number("max_uses", max_uses, minimum=1)
        if max_age_seconds is not None:
            max_age_seconds = validation.seconds("max_age_seconds", max_age_seconds, above=True)
        if reset not in _RESETS:
            raise ValueError(f"reset must be one of {', '.join(map(repr, _RESETS))}, got {reset!r}")
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits, such as Limits(running=8), not {limits!r}")
        self._retries = validation.whole_number("retries", retries)
        self._defaults = session.defaults.with_overrides(**config)
        self._functions = Functions(session)
        self._contaminated = self._done = self._retried = 0
        self._cleans = reset == "clean"
        limiter = Limiter(limits)
        self._keeper = session._keep(  # noqa: SLF001 - sessions own pools
            Keeper(
                lambda: session.sandbox(**config),
                most=self._size,
                warm=warm,
                ceiling=max_size,
                max_uses=1 if reset == "replace" else max_uses,
                max_age_seconds=max_age_seconds,
                prepare=self._prepare if self._cleans else None,
                reset=self._reset,
                needs_reset=(lambda _: True) if self._cleans else surplus,
                admit=limiter.starting,
                hold=limiter.running,
            )
        )
        self._keeper.begin()

    def __repr__(self) -> str:
        counts = self._keeper.counts
        state = "closed" if self._keeper.closed else "open"
        return f"<Pool {state}, size {self._size}, {counts['in_use']} in use, {counts['idle']} idle>"

    @property
    def size(self) -> int:
        """Most sandboxes at once, but for those that `policy="grow"` adds."""
        return self._size

    @property
    def closed(self) -> bool:
        """True after `close` was called, or its session's."""
        return self._keeper.closed

    async def _prepare(self, kept: Kept) -> None:
        places = [str(volume.get("path", "")) for volume in self._defaults.volumes if isinstance(volume, dict)]
        kept.attached[Janitor] = await Janitor.start(kept, [self._defaults.temp_dir], places)

    async def _reset(self, kept: Kept) -> bool:
        await end_surplus(kept)
        if not self._cleans:
            return True
        janitor: Janitor = kept.attached[Janitor]
        problem = await janitor.reset(sorted(kept.spared_pids), sorted(kept.spared_paths))
        if problem is not None:
            self._contaminated += 1
            _log.info("sandbox %s is replaced: %s", kept.sandbox.sandbox_id, problem)
        return problem is None

    def acquire(
        self,
        *,
        policy: Literal["wait", "grow", "fail"] = "wait",
        timeout: float | None = None,
    ) -> Lease:
        """Return a context manager that gives a running sandbox for the time of its block.

        Afterwards the sandbox is made fit for the next user in the background, or replaced; do not use it any more.
        Those who wait are served in the order of coming.

        Args:
            policy: What happens when all sandboxes are in use: "wait" for one, "grow" beyond `size` up to `max_size`
                and then wait, or "fail".
            timeout: Seconds to wait for a sandbox; None waits as long as it takes.

        Raises:
            ValueError: `policy` is none of these, or `timeout` is negative.
            TypeError: `timeout` is not a number.
        """
        if policy not in _POLICIES:
            raise ValueError(f"policy must be one of {', '.join(map(repr, _POLICIES))}, got {policy!r}")
        if timeout is not None:
            timeout = validation.seconds("timeout", timeout)
        return Lease(self, policy, timeout)

    def map(
        self,
        fn_or_command: RemoteFunction[..., Any] | Callable[..., Any] | Sequence[str],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: bool = False,
        journal: str | os.PathLike[str] | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Do something with each item in a sandbox of its own, and yield the results.

        The input is read lazily, as sandboxes become free and results are taken. An item whose sandbox was lost or had
        ended is begun again in another one, up to the pool's `retries` times, or the remote function's own if those
        are more; it may have had effects before. Leaving
        the iteration early cancels what is at work.

        Args:
            fn_or_command: A remote function; a plain function, which is shipped as `Session.function` would; or a
                command as a list of words, of which `"{}"` stands for the item (a tuple's parts become words of their
                own), `"{0}"` for one part of a tuple and `"{name}"` for one key of a mapping. Functions get a tuple's
                parts as their arguments, and any other item as the only one. The result of a command is its
                `ProcessResult`, whatever the return code.
            items: The items.
            concurrency: Most items at work at once; None is the pool's size.
            ordered: Yield in the order of the input; else as they come.
            return_exceptions: Yield an item's error in its place instead of raising it. A note of the error has the
                number of the item either way.
            progress: Show on standard error how far it is.
            journal: File to which results are appended, and from which those are yielded that it holds already.
                Errors are not kept: such an item runs again.
            timeout_seconds: Limit of one command, or call of a plain function, which is killed then.

        Raises:
            TypeError: An argument has the wrong type, or an item does not fit the command.
            ValueError: An argument is out of range, or an item lacks what the command needs.
            ConfigurationError: The journal is of other work or items, in use, damaged, or cannot be written.
            FunctionSerializationError: The function cannot be shipped, or an item or result cannot be carried.
            SandboxTimeoutError: An item took longer than `timeout_seconds`.
            SandboxExecutionError: The function raised.
            SandboxError: The pool is closed.
            AviatoError: The infrastructure failed more often than `retries`.
            BaseException: What the input raised, behind the results of the items before.
        """
        if self._keeper.closed:
            raise SandboxError("this pool is closed")
        if concurrency is None:
            concurrency = self._size
        validation.whole_number("concurrency", concurrency, minimum=1)
        mapping.check_items(items)
        work = make_work(self._functions, fn_or_command, timeout_seconds)
        path = None if journal is None else os.fspath(journal)
        shown = Progress(work.name, len(items) if isinstance(items, Sized) else None) if progress else None
        source = mapping.Source(items)
        run = mapping.Run(source, concurrency=concurrency, ordered=ordered, return_exceptions=return_exceptions)
        return self._map(run, work, path, shown)

    async def _map(
        self, run: mapping.Run, work: Work, path: str | None, shown: Progress | None
    ) -> AsyncGenerator[Any, None]:
        journal = None if path is None else await _opened(path, work)
        try:
            if shown is not None:
                shown.begin()
            run.begin(functools.partial(self._one, work, journal))
            while True:
                try:
                    result = await run.next()
                except StopAsyncIteration:
                    break
                if shown is not None:
                    shown.advance(self._retried)
                yield result
            if journal is not None:
                journal.check_count(run.taken)
        finally:
            try:
                await run.close()
            finally:
                if shown is not None:
                    shown.close(self._retried)
                if journal is not None:
                    await journal.close()

    async def _one(self, work: Work, journal: Journal | None, number: int, item: Any) -> Any:
        prepared = work.prepare(item, number)
        if journal is None:
            return await self._with_retries(work, prepared)
        known = journal.digest(item, number)
        found, value = journal.find(number, known)
        if not found:
            value = await self._with_retries(work, prepared)
            journal.add(number, known, value)
        return value

    async def _with_retries(self, work: Work, prepared: Any) -> Any:
        attempt, retries = 0, max(self._retries, work.retries)
        while True:
            try:
                result = await work.run(self._keeper, prepared)
            except Exception as error:
                if self._keeper.closed or not may_begin_again(error) or attempt >= retries:
                    self._done += 1
                    raise
                _log.info("an item of %s is begun again: %s", work.name, error)
            else:
                self._done += 1
                return result
            self._retried += 1
            pause = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreading load is no secret
            attempt += 1

    def stats(self) -> PoolStats:
        """Return what the pool has and did."""
        keeper = self._keeper
        return PoolStats(
            size=self._size,
            **keeper.counts,
            created=keeper.created,
            reused=keeper.reused,
            replaced=keeper.replaced,
            contaminated=self._contaminated,
            failed=keeper.failed,
            done=self._done,
            retried=self._retried,
        )

    async def close(self) -> None:
        """Stop every sandbox of the pool, those in use too, and wait until nothing of them runs.

        Those who wait for a sandbox get an error. Idempotent; concurrent callers wait together. If cancelled, the
        closing goes on.

        Raises:
            SandboxError: Some could not be stopped; a further close tries again.
        """
        await self._keeper.close()

    async def __aenter__(self) -> Self:
        """Return the pool.

        Raises:
            SandboxError: It is closed.
        """
        if self._keeper.closed:
            raise SandboxError("this pool is closed")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the pool; an error of the body wins over one of the closing, which is added to it as a note."""
        try:
            await self.close()
        except SandboxError as error:
            if exc is None:
                raise
            exc.add_note(f"closing the pool failed as well: {error}")


async def _opened(path: str, work: Work) -> Journal:
    """Open a journal on a thread; when cancelled meanwhile, it is closed again before that is raised."""
    from aviato.aio.pooling.journal import Journal, until_done  # noqa: PLC0415 - few need it and what it imports

    opening = asyncio.get_running_loop().run_in_executor(
        None, lambda: Journal.open(path, work.identity(), work.name, work.classes())
    )
    try:
        return await until_done(opening)
    except asyncio.CancelledError:
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
        raise
