"""A scope that owns sandboxes and stops them."""

from __future__ import annotations

import asyncio
import builtins
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from aviato.aio import _facade as facade
from aviato.aio import _fork
from aviato.aio._config import as_defaults
from aviato.aio._ids import new_sandbox_id
from aviato.aio._keeper import Keeper
from aviato.aio._loop import loop_state
from aviato.aio._report import Reporter
from aviato.aio.function import RemoteFunction
from aviato.aio.pool import Pool
from aviato.aio.sandbox import Sandbox, _new_life
from aviato.engines import check_name
from aviato.exceptions import SandboxError, summarize_failures
from aviato.models import Limits, SandboxDefaults, SandboxInfo, SandboxStatus, Serialization

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Session"]

P = ParamSpec("P")
R = TypeVar("R")


@facade.handle
class Session:
    """Sandboxes that are stopped together.

    As a context manager it is closed at the end, also after an exception, and the exception of the body
    is the one that propagates.
    """

    def __init__(
        self,
        defaults: SandboxDefaults | Mapping[str, Any] | None = None,
        *,
        engine: Any = None,
        report_to: Callable[[SandboxInfo], object] | None = None,
    ) -> None:
        """Open a session; nothing is started.

        Args:
            defaults: Configuration of its sandboxes.
            engine: Engine by name, URL or object; None is that of the defaults, else the configured one.
            report_to: Called with a `SandboxInfo` at each change of status of the session's sandboxes, in order, on a
                thread of its own. A callback that blocks holds nothing up; when 1,000 changes wait, further ones are
                dropped with a warning.

        Raises:
            TypeError: An argument has the wrong type, or a key of `defaults` is unknown.
            ValueError: A value of `defaults` is out of range.
            ConfigurationError: No engine has this name.
        """
        if isinstance(engine, str):
            check_name(engine)
        self._defaults = as_defaults(defaults)
        self._engine = engine
        self._id = new_sandbox_id().replace("sbx-", "ses-")
        if report_to is not None and not callable(report_to):
            raise TypeError(f"report_to must be a callable that takes a SandboxInfo, not {report_to!r}")
        self._reporter = None if report_to is None else Reporter(report_to, "report_to")
        self._sandboxes: dict[str, Sandbox] = {}
        self._ended: builtins.list[Sandbox] = []
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._generation = _fork.generation

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Session {state}, {self.sandbox_count} sandboxes>"

    @property
    def defaults(self) -> SandboxDefaults:
        """Configuration that its sandboxes start from."""
        return self._defaults

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        return self._closed

    @property
    def sandbox_count(self) -> int:
        """Number of sandboxes tracked; one less when one is stopped or ends."""
        lives = [sandbox._life for sandbox in self._sandboxes.values()]  # noqa: SLF001 - sessions own sandboxes
        return sum(not life.is_settled for life in lives)

    def _check_open(self) -> None:
        _fork.check(self._generation, "this session")
        if self._closed:
            raise SandboxError("this session is closed")

    def sandbox(self, **overrides: Any) -> Sandbox:
        """Create and start a sandbox; returns at once, with the id set.

        Every operation on it waits by itself until it runs. A failed start surfaces at the first use, at
        `Sandbox.wait`, and at the latest in `close`.

        Args:
            overrides: Fields of `SandboxDefaults` which win over the session's; tags, environment variables
                and annotations are merged.

        Raises:
            TypeError: A keyword is unknown or has the wrong type.
            ValueError: A value is out of range.
            SandboxError: The session is closed.
        """
        self._check_open()
        config = self._defaults.with_overrides(**overrides)
        engine = self._engine if overrides.get("engine") is None and overrides.get("base_url") is None else None
        sandbox = Sandbox._of(_new_life(config, engine, self._id), owner=True)  # noqa: SLF001 - sessions make sandboxes
        self._track(sandbox)
        sandbox._begin()  # noqa: SLF001 - likewise
        return sandbox

    def _keep(self, keeper: Keeper) -> Keeper:
        """Have a keeper, whose sandboxes are this session's, closed with the session; it is held weakly."""
        self._keepers.add(keeper)
        return keeper

    def adopt(self, sandbox: Sandbox) -> None:
        """Take over the clean-up of a sandbox: it is stopped when the session closes. Idempotent.

        Raises:
            TypeError: It is not a sandbox.
            ValueError: It has no id.
            SandboxError: The session is closed.
        """
        self._check_open()
        if not isinstance(sandbox, Sandbox):
            raise TypeError(f"sandbox must be a Sandbox, not {sandbox!r}")
        if not sandbox.sandbox_id:
            raise ValueError("sandbox must have an id to be adopted")
        sandbox._life.check()  # noqa: SLF001 - sessions own sandboxes
        if not sandbox.status.is_terminal:
            self._track(sandbox)

    def _track(self, sandbox: Sandbox) -> None:
        life = sandbox._life  # noqa: SLF001 - sessions own sandboxes
        if sandbox.sandbox_id in self._sandboxes:
            return
        self._sandboxes[sandbox.sandbox_id] = sandbox
        life.tracked = True

        def changed(info: SandboxInfo) -> None:
            if self._reporter is not None:
                self._reporter(info)
            if info.status.is_terminal and (life.failure is None or life.failure_seen) and not self._closed:
                self._ended = [other for other in self._ended if other._life.is_leaving]  # noqa: SLF001 - as above
                self._ended.append(self._sandboxes.pop(info.sandbox_id, sandbox))

        life.on_change.append(changed)

    async def list(
        self,
        *,
        tags: Iterable[str] | None = None,
        status: SandboxStatus | str | Iterable[SandboxStatus | str] | None = None,
        include_stopped: bool = False,
        adopt: bool = False,
    ) -> builtins.list[Sandbox]:
        """Find sandboxes that carry the session's own tags and the given ones, whichever process made them.

        Args:
            tags: Further tags which must be among a sandbox's.
            status: One status or several; None is every one that has not ended.
            include_stopped: Include sandboxes that have ended.
            adopt: Adopt what is found.

        Raises:
            TypeError: `tags` is a bare string.
            ValueError: A tag or status is not one.
            SandboxError: The session is closed.
            EngineError: The engine could not be asked.
        """
        self._check_open()
        found = await Sandbox.list(
            tags=self._defaults.merge_tags(() if tags is None else tags),
            status=status,
            include_stopped=include_stopped,
            engine=self._engine if self._engine is not None else self._defaults.engine,
            base_url=self._defaults.base_url if self._engine is None else None,
        )
        if adopt:
            for sandbox in found:
                self.adopt(sandbox)
        return found

    async def from_id(self, sandbox_id: str, *, adopt: bool = True) -> Sandbox:
        """Attach to a sandbox and adopt it.

        Args:
            sandbox_id: Its id.
            adopt: False leaves its clean-up to others.

        Raises:
            ValueError: `sandbox_id` is not of the form of an id.
            SandboxNotFoundError: There is none of this id.
            SandboxError: The session is closed.
            EngineError: The engine could not be asked.
        """
        self._check_open()
        sandbox = await Sandbox.from_id(
            sandbox_id,
            engine=self._engine if self._engine is not None else self._defaults.engine,
            base_url=self._defaults.base_url if self._engine is None else None,
        )
        if adopt:
            self.adopt(sandbox)
        return sandbox

    @overload
    def function(self, function: Callable[P, R], /) -> RemoteFunction[P, R]: ...

    @overload
    def function(
        self,
        /,
        *,
        container_image: str | None = None,
        serialization: Serialization = Serialization.JSON,
        timeout_seconds: float | None = None,
        concurrency: int | None = None,
        retries: int = 0,
        trust_result: bool = False,
        fresh: bool = True,
        on_output: Callable[[str, str], object] | None = None,
        **config: Any,
    ) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]: ...

    def function(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        container_image: str | None = None,
        serialization: Serialization = Serialization.JSON,
        timeout_seconds: float | None = None,
        concurrency: int | None = None,
        retries: int = 0,
        trust_result: bool = False,
        fresh: bool = True,
        on_output: Callable[[str, str], object] | None = None,
        **config: Any,
    ) -> RemoteFunction[P, R] | Callable[[Callable[P, R]], RemoteFunction[P, R]]:
        """Decorate a function so that it can be called in sandboxes of this session.

        Args:
            function: The function, when the decorator is used without parentheses.
            container_image: Image of its sandboxes.
            serialization: How arguments travel: `JSON` carries plain values and those of many other types, `PICKLE` all
                that can be pickled. Results are never pickles, unless `trust_result`.
            timeout_seconds: Limit of one call; the call is killed, not the sandbox.
            concurrency: Most calls, and sandboxes, at once.
            retries: How often a call is repeated that failed because of its infrastructure.
            trust_result: With `PICKLE`, pickle results too. To unpickle is to run what the bytes say, here, outside
                the sandbox; only for functions that run no code but yours.
            fresh: Run each call in a fork of the interpreter, so that nothing it does to globals is seen by another.
                False runs the calls of a sandbox one after the other in one interpreter: several times faster for short
                calls, and for functions that keep something between them.
            on_output: Called with `"stdout"` or `"stderr"` and the text that a call prints, as it comes; on the event
                loop, so it must not block. What it raises is logged.
            config: Further fields of `SandboxDefaults` for its sandboxes.

        Raises:
            FunctionSerializationError: The function cannot be shipped; it says why and what to do.
            TypeError: An argument has the wrong type, or a keyword is unknown.
            ValueError: An argument is out of range, or `trust_result` is set without `Serialization.PICKLE`.
        """
        if container_image is not None:
            config["container_image"] = container_image

        def decorate(function: Callable[P, R]) -> RemoteFunction[P, R]:
            return RemoteFunction(
                self,
                function,
                serialization=serialization,
                timeout_seconds=timeout_seconds,
                concurrency=concurrency,
                retries=retries,
                trust_result=trust_result,
                fresh=fresh,
                on_output=on_output,
                config=config,
            )

        return decorate if function is None else decorate(function)

    def pool(
        self,
        size: int,
        *,
        warm: int | None = None,
        max_size: int | None = None,
        max_uses: int | None = None,
        max_age_seconds: float | None = None,
        retries: int = 2,
        limits: Limits | None = None,
        reset: Literal["clean", "replace", "none"] = "clean",
        **config: Any,
    ) -> Pool:
        """Make a pool of sandboxes, and begin to start its spares; returns at once.

        Args:
            size: Most sandboxes at once; those that start, are reset or are being stopped count.
            warm: Idle sandboxes to keep ready; None is `size`, but at most twice the processors.
            max_size: What `acquire(policy="grow")` may grow to; None is `size`.
            max_uses: Uses after which a sandbox is replaced.
            max_age_seconds: Age after which a sandbox is replaced, once it is not in use.
            retries: How often `Pool.map` begins an item again whose sandbox was lost.
            limits: What this pool shares with those of other processes; None limits only how many of this pool start
                at once, by processors, memory and pressure.
            reset: What happens between two uses. "clean" kills what the user left running, empties the working and the
                temporary directory, and replaces the sandbox if anything else was changed; "replace" gives each user a
                fresh one; "none" leaves everything as it is.
            config: Fields of `SandboxDefaults` for its sandboxes.

        Raises:
            TypeError: An argument has the wrong type, or a keyword is unknown.
            ValueError: An argument is out of range.
            SandboxError: The session is closed.
            RuntimeError: No event loop is running.
        """
        self._check_open()
        loop_state()
        return Pool(
            self,
            size,
            warm=warm,
            max_size=max_size,
            max_uses=max_uses,
            max_age_seconds=max_age_seconds,
            retries=retries,
            limits=limits,
            reset=reset,
            config=config,
        )

    async def close(self) -> None:
        """Stop every sandbox, concurrently, and wait until nothing of them runs.

        All are attempted even when some fail. One that is already gone counts as stopped. A further close is a no-op
        after a success,
        waits with the first while it works, and tries the survivors again after a failure. If cancelled, the
        stopping goes on.

        Raises:
            SandboxError: Some could not be stopped, or had failed to start and nobody had been told; the message
                has their number and ids, the cause is an `ExceptionGroup`.
        """
        _fork.check(self._generation, "this session")
        self._closed = True
        if self._closing is None or self._closing.done():
            if not self._sandboxes and not self._ended and not self._keepers:
                self._end_reporting()
                return
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="aviato-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        keepers = [keeper.close() for keeper in self._keepers]
        await asyncio.gather(*keepers, return_exceptions=True)  # what they could not stop is tried again below
        ended, self._ended = self._ended, []
        await asyncio.gather(*(sandbox._life.left() for sandbox in ended))  # noqa: SLF001 - sessions own sandboxes
        sandboxes = builtins.list(self._sandboxes.values())
        outcomes = await asyncio.gather(
            *(sandbox.stop(missing_ok=True) for sandbox in sandboxes), return_exceptions=True
        )
        stuck: builtins.list[tuple[str, BaseException]] = []
        unseen: builtins.list[tuple[str, BaseException]] = []
        for sandbox, outcome in zip(sandboxes, outcomes, strict=True):
            life = sandbox._life  # noqa: SLF001 - sessions own sandboxes
            if isinstance(outcome, BaseException):
                stuck.append((sandbox.sandbox_id, outcome))
                continue
            self._sandboxes.pop(sandbox.sandbox_id, None)
            if life.failure is not None and not life.failure_seen:
                life.failure_seen = True
                unseen.append((sandbox.sandbox_id, life.failure))
        self._end_reporting()
        if stuck:
            raise summarize_failures("stopped", stuck + unseen, len(sandboxes))
        if unseen:
            raise summarize_failures("started", unseen, len(sandboxes))

    def _end_reporting(self) -> None:
        if self._reporter is not None:
            self._reporter.close()

    async def __aenter__(self) -> Self:
        """Return the session.

        Raises:
            SandboxError: It is closed.
        """
        self._check_open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session; an error of the body wins over one of the closing, which is added to it as a note.

        In a forked child, whose own the sandboxes are not, nothing is done.
        """
        if _fork.is_stale(self._generation):
            return
        try:
            await self.close()
        except SandboxError as error:
            if exc is None:
                raise
            exc.add_note(f"closing the session failed as well: {error}")
