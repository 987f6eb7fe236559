# Generated from aviato/aio/function.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""Functions that run in sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from aviato import aio
from aviato_sync._bridge import Handle, facade_of
from aviato_sync._iterators import BlockingIterator, feed
from aviato_sync._operation import OperationRef

__all__ = [
    "RemoteFunction",
]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


@facade_of(aio.RemoteFunction)
class RemoteFunction(Handle, Generic[P, R_co]):
    """A function whose calls run in sandboxes of a session, each in a fork of a warm interpreter.

    Made by `Session.function`. Its source is shipped, with the closure values, globals, helper functions and classes
    that it uses; modules are imported there. They are looked at when the function is decorated, and once more at the
    first call, which fixes them. An asynchronous function is run to its end there. Calling the object itself runs the
    function here, as `local` does. Its sandboxes are kept until `close`, or until the session closes.

    Arguments and results arrive as they were: values of JSON, bytes, tuples, sets, dicts with any keys, dates, paths,
    UUIDs, decimals and more of the standard library, numpy arrays and data frames where their packages are on both
    sides, and instances of enums, dataclasses, attrs classes and named tuples that the function's annotations name or
    that it uses; these are made by calling the class. Values are made to fit the annotations, or refused: a float where
    one is annotated, a dataclass of a dict. With `Serialization.PICKLE` arguments are whatever can be pickled, and
    results too with `trust_result`. What cannot be carried is refused with its path.
    """

    _core: aio.RemoteFunction[P, R_co]

    def __call__(
        self,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R_co:
        """Run the function here, in this process, as `local` does."""
        __tracebackhide__ = True
        return self._core(
            *args,
            **kwargs,
        )

    def local(
        self,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R_co:
        """Run the function here, in this process; for an asynchronous one this is its coroutine."""
        return self._core.local(
            *args,
            **kwargs,
        )

    @overload
    def remote(
        self: RemoteFunction[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> OperationRef[T]: ...

    @overload
    def remote(
        self,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> OperationRef[R_co]: ...

    def remote(
        self,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> OperationRef[Any]:
        """Run the function in a sandbox and return what it returns.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        At most `concurrency` calls run at once, in as many sandboxes, which are kept for further calls until the
        function or the session closes; others wait. Each sandbox has an interpreter that has imported and defined what
        the function needs; a call is a fork of it, and what the call started and left in its process group is killed at
        its end. `timeout_seconds` counts from when the call is handed to such an interpreter, and kills the call, not
        the sandbox. Only a call that failed because of its infrastructure is repeated, up to `retries` times with
        growing pauses; it may have had effects before. If cancelled, the call is killed in the sandbox.

        Raises:
            TypeError: The function does not take such arguments, or is a generator, for which there is `stream`.
            FunctionSerializationError: An argument or the result cannot be carried; the message has its path.
            SandboxExecutionError: The function raised: `exception_type`, `exception_message`, what it printed in
                `exec_result`, and the remote traceback as a note. Or its interpreter ended before it returned.
            SandboxTimeoutError: The call ran longer than `timeout_seconds`; what it printed is in `exec_result`.
            SandboxError: The function or its session is closed, or the sandbox failed or was stopped.
            EngineError: The engine failed.
        """
        __tracebackhide__ = True
        return self._start(
            cast("Any", self._core.remote),
            *args,
            **kwargs,
        )

    def stream(
        self: RemoteFunction[P, Iterable[T] | AsyncIterable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> BlockingIterator[T]:
        """Run a generator function in a sandbox and yield its items as they come.

        The generator waits when 1 MiB of its items has not been taken. A stream is never repeated, whatever `retries`
        says, since its first items may have been used. Leaving the iteration early kills the call in the sandbox.

        Raises:
            TypeError: The function does not take such arguments, or is no generator.
            FunctionSerializationError: An argument or an item cannot be carried; items before it have been yielded.
            SandboxExecutionError: As `remote`; items before it have been yielded.
            SandboxTimeoutError: The call ran longer than `timeout_seconds`.
            SandboxError: The function or its session is closed, or the sandbox failed or was stopped.
            EngineError: The engine failed.
        """
        __tracebackhide__ = True
        return BlockingIterator(
            self._home,
            self._core.stream,
            *args,
            **kwargs,
        )

    @overload
    def map(
        self: RemoteFunction[P, Coroutine[Any, Any, T]],
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> BlockingIterator[T]: ...

    @overload
    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> BlockingIterator[R_co]: ...

    @overload
    def map(
        self: RemoteFunction[P, Coroutine[Any, Any, T]],
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> BlockingIterator[T | Exception]: ...

    @overload
    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> BlockingIterator[R_co | Exception]: ...

    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> BlockingIterator[Any]:
        """Call the function with each tuple of arguments and yield the results.

        The input is read lazily: at most `concurrency` calls run, and at most four times as many items have been taken
        whose results were not yielded, twice as many with `ordered=False`. Leaving the iteration early cancels what is
        in flight.

        Args:
            items: Tuples of positional arguments; `(x,)` for one.
            ordered: Yield in the order of the input; else as they complete.
            return_exceptions: Yield the error of an item's call in its place, and go on, instead of raising it.

        Raises:
            TypeError: `items` is not iterable, or an item is not a tuple or list.
            RuntimeError: The input raised `CancelledError` though nobody cancelled the iteration.
            BaseException: What the call of an item raised, in its place, with a note of the item's number; or what the
                input raised, behind the results of the items before. What is in flight is cancelled.
        """
        __tracebackhide__ = True
        return BlockingIterator(
            self._home,
            cast("Any", self._core.map),
            feed(items),
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    def close(self) -> OperationRef[None]:
        """Stop the function's sandboxes, those in use too, and wait until nothing of them runs.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Calls that run there or wait fail with a `SandboxError`, and so do later ones, in pools too; `local` goes on to
        work. Sandboxes of pools are the pools' own: calls that run there go on, and the function's interpreters end
        with them, or to make room for other functions.
        Idempotent; concurrent callers wait together. If cancelled, the closing goes on.

        Raises:
            SandboxError: Some could not be stopped; a further close tries again.
        """
        __tracebackhide__ = True
        return self._start(self._core.close)
