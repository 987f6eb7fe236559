# Generated from aviato/aio/session.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""A scope that owns sandboxes and stops them."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from aviato import aio
from aviato.models import Limits, SandboxDefaults, SandboxInfo, SandboxStatus, Serialization
from aviato_sync._bridge import ContextHandle, facade_of, unwrap
from aviato_sync._operation import OperationRef

if TYPE_CHECKING:
    from aviato_sync._generated.function import RemoteFunction
    from aviato_sync._generated.pool import Pool
    from aviato_sync._generated.sandbox import Sandbox

__all__ = [
    "Session",
]

P = ParamSpec("P")
R = TypeVar("R")


@facade_of(aio.Session)
class Session(ContextHandle):
    """Sandboxes that are stopped together.

    As a context manager it is closed at the end, also after an exception, and the exception of the body
    is the one that propagates.
    """

    _core: aio.Session

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
        __tracebackhide__ = True
        self._make(
            aio.Session,
            defaults,
            engine=engine,
            report_to=report_to,
        )

    @property
    def defaults(self) -> SandboxDefaults:
        """Configuration that its sandboxes start from."""
        return self._core.defaults

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        return self._core.closed

    @property
    def sandbox_count(self) -> int:
        """Number of sandboxes tracked; one less when one is stopped or ends."""
        return self._core.sandbox_count

    def sandbox(
        self,
        **overrides: Any,
    ) -> Sandbox:
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
        __tracebackhide__ = True
        return cast(
            "Sandbox",
            self._call_wrapped(
                self._core.sandbox,
                **overrides,
            ),
        )

    def adopt(
        self,
        sandbox: Sandbox,
    ) -> None:
        """Take over the clean-up of a sandbox: it is stopped when the session closes. Idempotent.

        Raises:
            TypeError: It is not a sandbox.
            ValueError: It has no id.
            SandboxError: The session is closed.
        """
        __tracebackhide__ = True
        self._call(
            self._core.adopt,
            unwrap(sandbox),
        )

    def list(
        self,
        *,
        tags: Iterable[str] | None = None,
        status: SandboxStatus | str | Iterable[SandboxStatus | str] | None = None,
        include_stopped: bool = False,
        adopt: bool = False,
    ) -> OperationRef[builtins.list[Sandbox]]:
        """Find sandboxes that carry the session's own tags and the given ones, whichever process made them.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

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
        __tracebackhide__ = True
        return self._start_wrapped(
            self._core.list,
            tags=tags,
            status=status,
            include_stopped=include_stopped,
            adopt=adopt,
        )

    def from_id(
        self,
        sandbox_id: str,
        *,
        adopt: bool = True,
    ) -> OperationRef[Sandbox]:
        """Attach to a sandbox and adopt it.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Args:
            sandbox_id: Its id.
            adopt: False leaves its clean-up to others.

        Raises:
            ValueError: `sandbox_id` is not of the form of an id.
            SandboxNotFoundError: There is none of this id.
            SandboxError: The session is closed.
            EngineError: The engine could not be asked.
        """
        __tracebackhide__ = True
        return self._start_wrapped(
            self._core.from_id,
            sandbox_id,
            adopt=adopt,
        )

    @overload
    def function(
        self,
        function: Callable[P, R],
        /,
    ) -> RemoteFunction[P, R]: ...

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
        __tracebackhide__ = True
        return cast(
            "RemoteFunction[P, R] | Callable[[Callable[P, R]], RemoteFunction[P, R]]",
            self._call_wrapped(
                cast("Any", self._core.function),
                function,
                container_image=container_image,
                serialization=serialization,
                timeout_seconds=timeout_seconds,
                concurrency=concurrency,
                retries=retries,
                trust_result=trust_result,
                fresh=fresh,
                on_output=on_output,
                **config,
            ),
        )

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
        __tracebackhide__ = True
        return cast(
            "Pool",
            self._call_wrapped(
                self._core.pool,
                size,
                warm=warm,
                max_size=max_size,
                max_uses=max_uses,
                max_age_seconds=max_age_seconds,
                retries=retries,
                limits=limits,
                reset=reset,
                **config,
            ),
        )

    def close(self) -> OperationRef[None]:
        """Stop every sandbox, concurrently, and wait until nothing of them runs.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        All are attempted even when some fail. One that is already gone counts as stopped. A further close is a no-op
        after a success,
        waits with the first while it works, and tries the survivors again after a failure. If cancelled, the
        stopping goes on.

        Raises:
            SandboxError: Some could not be stopped, or had failed to start and nobody had been told; the message
                has their number and ids, the cause is an `ExceptionGroup`.
        """
        __tracebackhide__ = True
        return self._start(self._core.close)
