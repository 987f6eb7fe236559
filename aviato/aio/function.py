"""Functions that run in sandboxes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from aviato import validation
from aviato.aio import _facade as facade
from aviato.aio import _runner, _shipping
from aviato.exceptions import (
    AviatoError,
    CapabilityError,
    FunctionSerializationError,
    SandboxExecutionError,
    SandboxFileError,
)
from aviato.models import ProcessResult, SandboxDefaults, Serialization

if TYPE_CHECKING:
    from aviato.aio.sandbox import Sandbox
    from aviato.aio.session import Session

__all__ = ["RemoteFunction"]

P = ParamSpec("P")
R = TypeVar("R")

FOLDER = "/tmp/.aviato"  # noqa: S108 - a path in the sandbox
LARGEST_RESULT = 256 * 1024 * 1024
_RUNNER_SOURCE = Path(_runner.__file__).read_bytes()


@facade.handle
class RemoteFunction(Generic[P, R]):
    """A function whose calls run in sandboxes of a session, one fresh interpreter a call.

    Its source is shipped with the closure values, globals, helper functions and classes that it uses; modules are
    imported there. Arguments and results are JSON: None, bool, int, float, str, lists and dicts with string keys come back
    as they were, a tuple comes back as a list. Calling the object itself runs the function here, as `local` does.
    """

    def __init__(
        self,
        session: Session,
        function: Callable[P, R],
        *,
        serialization: Serialization,
        timeout_seconds: float | None,
        concurrency: int | None,
        retries: int,
        config: dict[str, Any],
    ) -> None:
        if Serialization(serialization) is not Serialization.JSON:
            raise CapabilityError("serialization must be Serialization.JSON: pickled arguments are not in this release")
        self.__aviato_function__ = function
        self._session = session
        self._name = getattr(function, "__name__", repr(function))
        self._timeout = None if timeout_seconds is None else validation.seconds("timeout_seconds", timeout_seconds, above=True)
        if concurrency is None:
            concurrency = 2 * (os.cpu_count() or 1)
        self._concurrency = validation.whole_number("concurrency", concurrency, minimum=1)
        self._retries = validation.whole_number("retries", retries)
        SandboxDefaults().with_overrides(**config)
        self._config = config
        self._shipped = json.dumps(_shipping.collect(function)).encode()
        self._idle: deque[Sandbox] = deque()
        self._free: asyncio.Semaphore | None = None
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<RemoteFunction {self._name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, in this process."""
        return self.__aviato_function__(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, in this process; for an asynchronous one this is its coroutine."""
        return self.__aviato_function__(*args, **kwargs)

    async def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in a sandbox and return what it returns.

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
        _check(list(args), "args")
        _check(kwargs, "kwargs")
        if self._free is None:
            self._free = asyncio.Semaphore(self._concurrency)
        async with self._free:
            for attempt in range(self._retries + 1):
                try:
                    return await self._call(args, kwargs)
                except AviatoError as error:
                    if not error.is_infrastructure or attempt == self._retries:
                        raise
                    await asyncio.sleep(min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
        raise AssertionError("unreachable")  # the loop above returns or raises

    async def map(
        self, items: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]], *, ordered: bool = True
    ) -> AsyncIterator[R]:
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
        pending: deque[asyncio.Task[R]] = deque()
        source = _tuples(items)
        try:
            exhausted = False
            while pending or not exhausted:
                while not exhausted and len(pending) < 2 * self._concurrency:
                    try:
                        arguments = await anext(source)
                    except StopAsyncIteration:
                        exhausted = True
                    else:
                        call = cast("Any", self.remote)(*arguments)
                        pending.append(asyncio.get_running_loop().create_task(call))
                if not pending:
                    break
                if not ordered:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    task = next(task for task in pending if task.done())
                    pending.remove(task)
                else:
                    await asyncio.wait([pending[0]])
                    task = pending.popleft()
                yield task.result()
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
                for task in pending:
                    if not task.cancelled():
                        task.exception()
            await source.aclose()

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        sandbox = await self._sandbox()
        result_path = f"{FOLDER}/result-{secrets.token_hex(16)}"
        request = json.dumps({"args": args, "kwargs": kwargs, "result": result_path}).encode()
        process = sandbox.exec(
            ["python3", f"{FOLDER}/runner.py", f"{FOLDER}/function.json"], stdin=request, timeout_seconds=self._timeout
        )
        usable = False
        try:
            try:
                result = await process
            except asyncio.CancelledError:
                process.cancel()
                raise
            answer = await self._answer(sandbox, result_path, result)
            usable = True
        except SandboxExecutionError:
            usable = True
            raise
        finally:
            await self._give_back(sandbox, usable=usable)
        if "error" in answer:
            raise self._remote_error(answer["error"], result)
        return cast("R", answer["value"])

    async def _sandbox(self) -> Sandbox:
        while self._idle:
            sandbox = self._idle.popleft()
            if not sandbox.status.is_terminal:
                return sandbox
        sandbox = self._session.sandbox(**self._config)
        try:
            await sandbox.write_file(f"{FOLDER}/runner.py", _RUNNER_SOURCE)
            await sandbox.write_file(f"{FOLDER}/function.json", self._shipped)
        except BaseException:
            await self._give_back(sandbox, usable=False)
            raise
        return sandbox

    async def _give_back(self, sandbox: Sandbox, *, usable: bool) -> None:
        if usable and not sandbox.status.is_terminal:
            self._idle.append(sandbox)
        else:
            await asyncio.shield(sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True))

    async def _answer(self, sandbox: Sandbox, path: str, result: ProcessResult) -> dict[str, Any]:
        pieces: list[bytes] = []
        size = 0
        reader = sandbox.read_file_streaming(path)
        try:
            async for piece in reader:
                size += len(piece)
                if size > LARGEST_RESULT:
                    raise SandboxExecutionError(
                        f"the result of {self._name} is larger than {LARGEST_RESULT} bytes",
                        exec_result=result,
                        sandbox_id=sandbox.sandbox_id,
                        hint="Write it to a file in the sandbox and read that.",
                    )
                pieces.append(piece)
        except SandboxFileError as error:
            raise SandboxExecutionError(
                f"{self._name} ended without a result, with return code {result.returncode}{_tail(result)}",
                exec_result=result,
                sandbox_id=sandbox.sandbox_id,
            ) from error
        finally:
            await reader.close()
        cleanup = sandbox.exec(["rm", "-f", path])
        try:
            answer = json.loads(b"".join(pieces))
            if not isinstance(answer, dict) or len(answer.keys() & {"value", "error"}) != 1:
                raise ValueError("neither value nor error")  # noqa: TRY301 - one place makes the error
        except (ValueError, RecursionError) as error:
            raise SandboxExecutionError(
                f"the sandbox gave no proper result of {self._name}: {error}",
                exec_result=result,
                sandbox_id=sandbox.sandbox_id,
            ) from error
        await cleanup
        return answer

    def _remote_error(self, told: Any, result: ProcessResult) -> SandboxExecutionError:
        details = told if isinstance(told, dict) else {}
        kind, message = str(details.get("type", "Exception")), str(details.get("message", ""))
        error = SandboxExecutionError(
            f"{self._name} raised {kind}: {message}",
            exec_result=result,
            exception_type=kind,
            exception_message=message,
        )
        error.add_note(f"In the sandbox:\n{details.get('traceback', '')}".rstrip())
        return error


def _tail(result: ProcessResult) -> str:
    lines = result.stderr.strip().splitlines()
    return f": {lines[-1][:200]}" if lines else ""


async def _tuples(items: Any) -> Any:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield _tuple(item)
    elif isinstance(items, Iterable) and not isinstance(items, (str, bytes)):
        for item in items:
            yield _tuple(item)
    else:
        raise TypeError(f"items must be an iterable of tuples of arguments, not {items!r}")


def _tuple(item: Any) -> tuple[Any, ...]:
    if not isinstance(item, (tuple, list)):
        raise TypeError(f"each item must be a tuple of arguments, not {item!r}: write ({item!r},)")
    return tuple(item)


def _check(value: Any, path: str) -> None:
    """Refuse what JSON would change or cannot carry, naming where it is.

    Raises:
        FunctionSerializationError: There is such a value.
    """
    try:
        _runner.check(value, path)  # type: ignore[no-untyped-call]  # plain Python 3.8 has no annotations
    except TypeError as error:
        raise FunctionSerializationError(
            str(error), hint="Pass plain values: None, bool, int, float, str, lists, and dicts with string keys."
        ) from None
    except RecursionError:
        raise FunctionSerializationError(f"{path} is nested too deeply, or contains itself") from None


