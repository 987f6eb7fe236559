"""Functions that run in sandboxes."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

from aviato import validation
from aviato.aio import _facade as facade
from aviato.aio.pooling.mapping import Run, Source, check_items
from aviato.aio.shipping.calls import Calls
from aviato.aio.shipping.carrier import Carrier
from aviato.aio.shipping.collect import Shipped, check_function, collect
from aviato.models import Serialization

if TYPE_CHECKING:
    from aviato.aio.session import Session

__all__ = ["RemoteFunction"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


@facade.handle
class RemoteFunction(Generic[P, R_co]):
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

    def __init__(
        self,
        session: Session,
        function: Callable[P, R_co],
        *,
        serialization: Serialization,
        timeout_seconds: float | None,
        concurrency: int | None,
        retries: int,
        trust_result: bool,
        fresh: bool,
        on_output: Callable[[str, str], object] | None,
        config: dict[str, Any],
    ) -> None:
        check_function(function)
        if not isinstance(fresh, bool):
            raise TypeError(f"fresh must be True or False, not {fresh!r}")
        if on_output is not None and not callable(on_output):
            raise TypeError(f"on_output must be callable, as on_output(stream, text), not {on_output!r}")
        if serialization not in tuple(Serialization):
            known = ", ".join(f"Serialization.{kind.name}" for kind in Serialization)
            raise ValueError(f"serialization must be one of {known}, got {serialization!r}")
        self._serialization = Serialization(serialization)
        if not isinstance(trust_result, bool):
            raise TypeError(f"trust_result must be True or False, not {trust_result!r}")
        if trust_result and self._serialization is not Serialization.PICKLE:
            raise ValueError(
                f"trust_result must be False with serialization={self._serialization!s}: only pickled results need "
                "trust; use serialization=Serialization.PICKLE"
            )
        self._trust_result = trust_result
        if timeout_seconds is not None:
            timeout_seconds = validation.seconds("timeout_seconds", timeout_seconds, above=True)
        if concurrency is None:
            concurrency = min(32, 2 * (os.cpu_count() or 1))
        self.__aviato_function__ = function
        self._name: str = getattr(function, "__qualname__", repr(function))
        self.__name__: str = getattr(function, "__name__", self._name)
        self.__qualname__ = self._name
        self.__doc__ = function.__doc__
        with contextlib.suppress(TypeError, ValueError):  # a decorator may have made what has none
            self.__signature__ = inspect.signature(function)
        raw = inspect.unwrap(function)
        self._is_generator = inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)
        self._concurrency = validation.whole_number("concurrency", concurrency, minimum=1)
        self._collect()  # what cannot be shipped is said now
        self._bundle: tuple[bytes, Carrier] | None = None
        self._calls = Calls(
            session,
            self._name,
            self._shipped,
            timeout_seconds=timeout_seconds,
            concurrency=self._concurrency,
            retries=validation.whole_number("retries", retries),
            fresh=fresh,
            on_output=on_output,
            config=config,
        )

    def __repr__(self) -> str:
        return f"<RemoteFunction {self._name}>"

    def _shipped(self) -> tuple[bytes, Carrier]:
        if self._bundle is None:
            shipped, function = self._collect(), self.__aviato_function__
            carrier = Carrier(
                function,
                shipped.classes,
                self._serialization,
                trust_result=self._trust_result,
                left_out=shipped.left_out,
            )
            self._bundle = shipped.document, carrier
        return self._bundle

    def _collect(self) -> Shipped:
        return collect(self.__aviato_function__, pickled=self._serialization is Serialization.PICKLE)

    @facade.direct
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function here, in this process, as `local` does."""
        return self.__aviato_function__(*args, **kwargs)

    @facade.direct
    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function here, in this process; for an asynchronous one this is its coroutine."""
        return self.__aviato_function__(*args, **kwargs)

    @overload
    async def remote(self: RemoteFunction[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    async def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function in a sandbox and return what it returns.

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
        if self._is_generator:
            raise TypeError(
                f"{self._name} is a generator, whose items come one by one: use stream() instead of remote()"
            )
        return await self._calls.run(args, kwargs)

    def stream(
        self: RemoteFunction[P, Iterable[T] | AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[T, None]:
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
        if not self._is_generator:
            raise TypeError(f"{self._name} is no generator: use remote() instead of stream()")
        return self._calls.stream(args, kwargs)

    @overload
    def map(
        self: RemoteFunction[P, Coroutine[Any, Any, T]],
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[R_co, None]: ...

    @overload
    def map(
        self: RemoteFunction[P, Coroutine[Any, Any, T]],
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> AsyncGenerator[T | Exception, None]: ...

    @overload
    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> AsyncGenerator[R_co | Exception, None]: ...

    def map(
        self,
        items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
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
        check_items(items)
        run = Run(Source(items), concurrency=self._concurrency, ordered=ordered, return_exceptions=return_exceptions)
        return self._map(run)

    async def _map(self, run: Run) -> AsyncGenerator[Any, None]:
        try:
            run.begin(self._one)
            while True:
                try:
                    result = await run.next()
                except StopAsyncIteration:
                    return
                yield result
        finally:
            await run.close()

    async def close(self) -> None:
        """Stop the function's sandboxes, those in use too, and wait until nothing of them runs.

        Calls that run there or wait fail with a `SandboxError`, and so do later ones, in pools too; `local` goes on to
        work. Sandboxes of pools are the pools' own: calls that run there go on, and the function's interpreters end
        with them, or to make room for other functions.
        Idempotent; concurrent callers wait together. If cancelled, the closing goes on.

        Raises:
            SandboxError: Some could not be stopped; a further close tries again.
        """
        await self._calls.close()

    async def _one(self, number: int, item: Any) -> Any:
        return await self._calls.run(_tuple(item, number), {})


def _tuple(item: Any, number: int) -> tuple[Any, ...]:
    if not isinstance(item, (tuple, list)):
        raise TypeError(f"items[{number}] must be a tuple of arguments, not {item!r}: write ({item!r},)")
    return tuple(item)
