# Generated from aviato/aio/function.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""Functions that run in sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar

from aviato import aio
from aviato_sync._bridge import Handle, facade_of
from aviato_sync._iterators import BlockingIterator, feed
from aviato_sync._operation import OperationRef

__all__ = [
    "RemoteFunction",
]

P = ParamSpec("P")
R = TypeVar("R")


@facade_of(aio.RemoteFunction)
class RemoteFunction(Handle, Generic[P, R]):
    """A function whose calls run in sandboxes of a session, one fresh interpreter a call.

    Its source is shipped with the closure values, globals, helper functions and classes that it uses; modules are
    imported there. Arguments and results are JSON: None, bool, int, float, str, lists and dicts with string keys come back
    as they were, a tuple comes back as a list. Calling the object itself runs the function here, as `local` does.
    """

    _core: aio.RemoteFunction[P, R]

    def __call__(
        self,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run the function here, in this process."""
        __tracebackhide__ = True
        return self._call(
            self._core.__call__,
            *args,
            **kwargs,
        )

    def local(
        self,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run the function here, in this process; for an asynchronous one this is its coroutine."""
        __tracebackhide__ = True
        return self._call(
            self._core.local,
            *args,
            **kwargs,
        )

    def remote(
        self,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> OperationRef[R]:
        """Run the function in a sandbox and return what it returns.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        At most `concurrency` calls run at once, others wait. If cancelled, the call is killed in the sandbox. Only a call that failed
        because of its infrastructure is repeated, up to `retries` times; it may have had effects before.

        Raises:
            FunctionSerializationError: An argument cannot be carried; the message has its path.
            SandboxExecutionError: The function raised, or ended without a result: `exception_type`, `exception_message`,
                what it had printed in `exec_result`, and the remote traceback as a note.
            SandboxTimeoutError: The call ran longer than `timeout_seconds`.
            SandboxError: The session is closed, or its sandbox failed.
            EngineError: The engine failed.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.remote,
            *args,
            **kwargs,
        )

    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
    ) -> BlockingIterator[R]:
        """Call the function with each tuple of arguments and yield the results.

        The input is read lazily, at most twice `concurrency` items ahead of what has been yielded. Leaving the iteration early
        cancels what is in flight.

        Args:
            items: Tuples of positional arguments.
            ordered: Yield in the order of the input; else as they complete.

        Raises:
            TypeError: An item is not a tuple.
            AviatoError: What the call of an item raised, at its place; the items after it are cancelled.
        """
        __tracebackhide__ = True
        return BlockingIterator(
            self._home,
            self._core.map,
            feed(items),
            ordered=ordered,
        )
