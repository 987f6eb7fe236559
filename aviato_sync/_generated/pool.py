# Generated from aviato/aio/pool.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""Pools of sandboxes that are kept ready."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from aviato import aio
from aviato.models import PoolStats
from aviato_sync._bridge import ContextHandle, EnteringHandle, facade_of, unwrap
from aviato_sync._generated.sandbox import Sandbox
from aviato_sync._iterators import BlockingIterator, feed
from aviato_sync._operation import OperationRef

if TYPE_CHECKING:
    from aviato_sync._generated.function import RemoteFunction

__all__ = [
    "Lease",
    "Pool",
]


@facade_of(aio.Lease)
class Lease(EnteringHandle[Sandbox]):
    """One use of a sandbox of a pool, as a context manager that gives the sandbox; made by `Pool.acquire`.

    It may be entered again after it was left.
    """

    _core: aio.Lease


@facade_of(aio.Pool)
class Pool(ContextHandle):
    """Sandboxes of one configuration that are kept ready and used again; made by `Session.pool`.

    As a context manager it is closed at the end. The session closes it as well.
    """

    _core: aio.Pool

    @property
    def size(self) -> int:
        """Most sandboxes at once, but for those that `policy="grow"` adds."""
        return self._core.size

    @property
    def closed(self) -> bool:
        """True after `close` was called, or its session's."""
        return self._core.closed

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
        __tracebackhide__ = True
        return cast(
            "Lease",
            self._call_wrapped(
                self._core.acquire,
                policy=policy,
                timeout=timeout,
            ),
        )

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
    ) -> BlockingIterator[Any]:
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
        __tracebackhide__ = True
        return BlockingIterator(
            self._home,
            self._core.map,
            unwrap(fn_or_command),
            feed(items),
            concurrency=concurrency,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress,
            journal=journal,
            timeout_seconds=timeout_seconds,
        )

    def stats(self) -> PoolStats:
        """Return what the pool has and did."""
        __tracebackhide__ = True
        return self._call(self._core.stats)

    def close(self) -> OperationRef[None]:
        """Stop every sandbox of the pool, those in use too, and wait until nothing of them runs.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Those who wait for a sandbox get an error. Idempotent; concurrent callers wait together. If cancelled, the
        closing goes on.

        Raises:
            SandboxError: Some could not be stopped; a further close tries again.
        """
        __tracebackhide__ = True
        return self._start(self._core.close)
