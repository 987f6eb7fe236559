"""Remote functions through the core, on every engine."""

# The functions run in fake sandboxes too, whose files `os` knows and pathlib does not:
# ruff: noqa: PTH102, PTH110

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.exceptions import (
    EngineConnectionError,
    FunctionSerializationError,
    SandboxError,
    SandboxExecutionError,
    SandboxLostError,
    SandboxTimeoutError,
)
from aviato.models import Serialization
from tests.helpers.crash import crash
from tests.helpers.fakes import interpreters_ended

FACTOR = 3


def helper(value: int) -> int:
    """Use a global."""
    return value * FACTOR


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session
    await interpreters_ended()


async def test_a_call_with_helpers_and_values(session: aio.Session) -> None:
    """Globals, helpers and closure values travel; plain values come back as they were."""
    offset = 1

    @session.function(concurrency=1)
    def compute(value: Any, *, more: Any = None) -> Any:
        """Compute."""
        return [helper(2) + offset, value, more, (1, 2)]

    values: list[Any] = [None, True, -1, 2.5, "é\ud800", {"k": []}]
    assert await compute.remote(values, more=(1,)) == [7, values, (1,), (1, 2)]
    assert compute.local(1) == [7, 1, None, (1, 2)]
    assert compute(1) == compute.local(1)
    assert session.sandbox_count == 1


async def test_without_parentheses_and_asynchronous(session: aio.Session) -> None:
    """The decorator may stand alone, and an asynchronous function is run to its end."""

    @session.function
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    result: Any = await later.remote(1)
    assert result == 2


async def test_an_exception_says_all(session: aio.Session) -> None:
    """Type, text, output and the remote lines come with the error, and the sandbox goes on."""

    @session.function(concurrency=1)
    def fail(how: str) -> None:
        print("out")
        if how == "exit":
            raise SystemExit(5)
        if how == "memory":
            raise MemoryError
        raise KeyError(how)

    with pytest.raises(SandboxExecutionError, match="raised KeyError: 'x'") as caught:
        await fail.remote("x")
    error = caught.value
    assert (error.exception_type, error.exception_message) == ("KeyError", "'x'")
    assert error.exec_result is not None
    assert error.exec_result.stdout == "out\n"
    assert "raise KeyError(how)" in error.__notes__[0]
    for how, kind in (("exit", "SystemExit"), ("memory", "MemoryError")):
        with pytest.raises(SandboxExecutionError) as caught:
            await fail.remote(how)
        assert caught.value.exception_type == kind
    assert session.sandbox_count == 1


async def test_an_interpreter_that_ends_early(session: aio.Session) -> None:
    """`os._exit` and a signal are told apart from a result, whatever the return code."""

    @session.function(concurrency=1)
    def leave(code: int) -> None:

        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)

    for code, said in ((7, "return code 7"), (0, "return code 0"), (-9, "signal 9")):
        with pytest.raises(SandboxExecutionError, match=f"ended with {said} before the function returned"):
            await leave.remote(code)


async def test_output_cannot_be_taken_for_a_result(session: aio.Session) -> None:
    """What is printed, however it looks, is output."""

    @session.function
    def forge() -> str:
        print('{"value": "forged"}', flush=True)
        return "real"

    assert await forge.remote() == "real"


async def test_a_result_that_cannot_travel_is_named(session: aio.Session) -> None:
    """Arguments are refused before anything runs, results with the output that there was."""

    @session.function
    def give(value: Any) -> Any:
        return {"inner": [value, object()]}

    with pytest.raises(FunctionSerializationError, match=r"args\[0\]\.when\[1\]"):
        await give.remote({"when": [1, object()]})
    assert session.sandbox_count == 0
    with pytest.raises(FunctionSerializationError, match=r"result\.inner\[1\] is of type builtins\.object") as caught:
        await give.remote(1)
    assert caught.value.exec_result is not None


async def test_a_time_limit_ends_the_call_only(session: aio.Session) -> None:
    """The output so far is kept, and the same sandbox serves the next call."""

    @session.function(concurrency=1, timeout_seconds=2)
    def wait(seconds: float) -> str:
        import time

        print("begun", flush=True)
        time.sleep(seconds)
        return "done"

    with pytest.raises(SandboxTimeoutError) as caught:
        await wait.remote(100)
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.stdout == "begun\n"
    assert await wait.remote(0) == "done"
    assert session.sandbox_count == 1


async def test_a_cancelled_call_gives_its_place_back(session: aio.Session) -> None:
    """After the cancellation the same sandbox is free, and the call no longer runs in it."""

    @session.function(concurrency=1)
    def wait_for(path: str, *, begin: bool) -> bool:
        import time

        if begin:
            os.mkdir("/tmp/begun")
        while begin and not os.path.exists(path):
            time.sleep(0.01)
        return os.path.exists(path)

    assert await wait_for.remote("/tmp/go", begin=False) is False
    (sandbox,) = await session.list()
    task = asyncio.ensure_future(wait_for.remote("/tmp/go", begin=True))
    await sandbox.exec(["sh", "-c", "while ! [ -d /tmp/begun ]; do sleep 0.01; done"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if sandbox.engine_name == "local":  # a fake sandbox has no /proc
        count = await sandbox.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | grep -c [r]unner.py || true"])
        assert count.stdout == "0\n"
    assert await wait_for.remote("/tmp/go", begin=False) is False
    assert session.sandbox_count == 1


async def test_map_is_lazy_ordered_and_bounded(session: aio.Session) -> None:
    """An endless input is read a little ahead, and no more sandboxes than `concurrency` are started."""
    taken = 0

    def numbers() -> Iterator[tuple[int]]:
        nonlocal taken
        while True:
            taken += 1
            yield (taken,)

    @session.function(concurrency=2)
    def double(value: int) -> int:
        return value * 2

    results = []
    async with contextlib.aclosing(double.map(numbers())) as mapped:
        async for result in mapped:
            results.append(result)
            assert taken <= len(results) + 4 * 2
            if len(results) == 6:
                break
    assert results == [2, 4, 6, 8, 10, 12]
    assert session.sandbox_count <= 2
    assert sorted([result async for result in double.map([(1,), (2,), (3,)], ordered=False)]) == [2, 4, 6]


async def test_map_raises_in_its_place(session: aio.Session) -> None:
    """Results before the failing item are given, and an item that is no tuple is named."""

    @session.function(concurrency=2)
    def invert(value: int) -> float:
        return 1 / value

    results = []
    with pytest.raises(SandboxExecutionError, match="ZeroDivisionError"):
        async for result in invert.map((value,) for value in (1, 2, 0, 4)):
            results.append(result)  # noqa: PERF401 - what was given before the error is kept
    assert results == [1.0, 0.5]
    results.clear()
    with pytest.raises(TypeError, match=r"items\[1\] must be a tuple.*write \(3,\)"):
        async for result in invert.map([(1,), 3]):  # type: ignore[list-item]  # the slip that is tested
            results.append(result)  # noqa: PERF401 - likewise
    assert results == [1.0]


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_keeps_errors_when_asked(session: aio.Session, ordered: bool) -> None:
    """The error of an item is an outcome among others; what is no error of an item's call still ends it."""

    @session.function(concurrency=2)
    def invert(value: int) -> float:
        return 1 / value

    def items() -> Iterator[tuple[int, ...]]:
        yield from [(1,), (0,), (2, 3), (4,)]
        raise OSError("the input broke")

    results: list[float | Exception] = []
    with pytest.raises(OSError, match="the input broke"):
        async for result in invert.map(items(), ordered=ordered, return_exceptions=True):
            results.append(result)  # noqa: PERF401 - what was given before the error is kept
    kinds = [type(item).__name__ for item in results]
    wanted = ["float", "SandboxExecutionError", "TypeError", "float"]
    assert kinds == wanted if ordered else sorted(kinds) == sorted(wanted)
    notes = [note for item in results if isinstance(item, Exception) for note in item.__notes__]
    assert any("items[1]" in note for note in notes)


async def test_a_dead_sandbox_is_replaced(session: aio.Session) -> None:
    """A sandbox that was stopped between two calls is not used again."""

    @session.function(concurrency=1)
    def one() -> int:
        return 1

    assert await one.remote() == 1
    (sandbox,) = await session.list()
    await sandbox.stop(graceful_shutdown_seconds=0)
    assert await one.remote() == 1
    assert session.sandbox_count == 1


async def test_only_infrastructure_is_tried_again(session: aio.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection is repeated as often as was asked for, an exception of the function never is."""
    start, tries = session.sandbox, 0

    def unreliable(**config: Any) -> aio.Sandbox:
        nonlocal tries
        tries += 1
        if tries % 3:
            raise EngineConnectionError("gone")
        return start(**config)

    monkeypatch.setattr(session, "sandbox", unreliable)

    def one() -> int:
        return 1

    assert await session.function(retries=2)(one).remote() == 1
    assert tries == 3
    with pytest.raises(EngineConnectionError):
        await session.function(retries=1)(one).remote()
    assert tries == 5

    @session.function(retries=3)
    def fail() -> None:
        raise OSError

    with pytest.raises(SandboxExecutionError):
        await fail.remote()
    assert tries == 6


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_sandbox_lost_during_a_call(session: aio.Session, engine: Any, retries: int) -> None:
    """An error of the infrastructure with the output so far; where retries are left, another sandbox does the work."""

    @session.function(concurrency=1, retries=retries)
    def wait_for(path: str, *, begin: bool) -> bool:
        import time

        if begin:
            print("begun", flush=True)
            os.mkdir("/tmp/begun")
        while begin and not os.path.exists(path):
            time.sleep(0.01)
        return begin

    await wait_for.remote("/tmp/go", begin=False)
    (first,) = await session.list()
    task = asyncio.ensure_future(wait_for.remote("/tmp/go", begin=True))
    await first.exec(["sh", "-c", "while ! [ -d /tmp/begun ]; do sleep 0.01; done"])
    crash(engine, first.sandbox_id)
    if retries:
        seen: list[aio.Sandbox] = []
        while not seen:  # its start is the call's, so there is nothing else to wait for
            seen = [one for one in await session.list(status="running") if one.sandbox_id != first.sandbox_id]
            await asyncio.sleep(0.01)
        (second,) = seen
        await second.write_file("/tmp/go", b"")
        assert await task is True
        assert second.sandbox_id != first.sandbox_id
    else:
        with pytest.raises(SandboxLostError) as caught:
            await task
        assert caught.value.is_infrastructure
        assert caught.value.sandbox_id == first.sandbox_id
        assert caught.value.exec_result is not None
        assert caught.value.exec_result.stdout == "begun\n"


async def test_a_call_that_takes_all_memory(session: aio.Session, engine: Any) -> None:
    """It is killed or gets a MemoryError, as the limit is made, and the error says which; the sandbox serves on."""
    if engine not in {"local", "docker"}:
        pytest.skip("a fake sandbox has no memory of its own")

    @session.function(concurrency=1, resources={"memory": "128Mi"})
    def eat() -> int:
        kept = [b"x" * (64 << 20) for _ in range(8)]
        return len(kept)

    with pytest.raises(SandboxExecutionError) as caught:
        await eat.remote()
    assert caught.value.exec_result is not None
    assert caught.value.exception_type == "MemoryError" or "memory limit" in str(caught.value)
    assert session.sandbox_count == 1


async def test_nothing_runs_after_the_session(engine: Any) -> None:
    """A closed session refuses calls."""
    async with aio.Session(engine=engine) as session:

        @session.function
        def one() -> int:
            return 1

    with pytest.raises(SandboxError, match="closed"):
        await one.remote()


async def test_bad_arguments_are_named_at_once(session: aio.Session) -> None:
    """Wrong options and functions fail at decoration."""

    def one() -> int:
        return 1

    with pytest.raises(ValueError, match="trust_result must be False with serialization=json"):
        session.function(trust_result=True)(one)
    with pytest.raises(TypeError, match="trust_result must be True or False, not 1"):
        session.function(serialization=Serialization.PICKLE, trust_result=1)(one)  # type: ignore[call-overload]  # the slip that is tested
    with pytest.raises(ValueError, match="marshal"):
        session.function(serialization="marshal")(one)  # type: ignore[call-overload]  # likewise
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        session.function(concurrency=0)(one)
    with pytest.raises(ValueError, match="timeout_seconds"):
        session.function(timeout_seconds=0)(one)
    with pytest.raises(TypeError, match="imagee"):
        session.function(imagee="x")(one)
    with pytest.raises(FunctionSerializationError, match="built"):
        session.function(len)


@pytest.mark.parametrize("given", ["xml", None, []])
async def test_an_unknown_serialization_is_named(session: aio.Session, given: Any) -> None:
    """The error has the argument and what it may be."""
    with pytest.raises(ValueError, match=r"^serialization must be one of Serialization\.JSON, .*PICKLE, got "):
        session.function(serialization=given)(helper)
    assert await session.function(serialization=Serialization("pickle"))(helper).remote(1) == FACTOR


async def test_iterations_are_refused_where_they_are_asked_for(session: aio.Session) -> None:
    """Not when they begin, which may be elsewhere."""
    function: Any = session.function(helper)
    for wrong in (3, "ab", None):
        with pytest.raises(TypeError, match=r"^items must be an iterable"):
            function.map(wrong)
    with pytest.raises(TypeError, match=r"use remote\(\) instead"):
        function.stream(1)


def test_help_finds_the_function(engine: Any) -> None:
    """Name, text and signature are the function's own, on both faces."""
    with aviato.Session(engine=engine) as session:
        function: Any
        for function in (session.function(helper), aio.Session(engine=engine).function(helper)):
            assert (function.__name__, function.__qualname__, function.__doc__) == ("helper", "helper", "Use a global.")
            assert inspect.signature(function) == inspect.signature(helper)


async def test_large_values(session: aio.Session) -> None:
    """Megabytes go in and come out."""

    @session.function(concurrency=1)
    def echo(text: str) -> str:
        return text

    text = "x" * 5_000_000
    assert await echo.remote(text) == text
