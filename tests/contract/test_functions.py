"""What the contract says of remote functions and pools, sentence by sentence, on every engine and both faces."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.exceptions import (
    FunctionSerializationError,
    SandboxError,
    SandboxExecutionError,
    SandboxResourceExhaustedError,
    SandboxTimeoutError,
)
from aviato.models import Serialization
from tests.contract.faces import Face
from tests.helpers.fakes import interpreters_ended

SCALE = 3


class Kind(enum.Enum):
    """An enumeration of the test's own."""

    BIG = "big"


@dataclasses.dataclass
class Part:
    """A class of the test's own."""

    name: str
    kind: Kind = Kind.BIG


def scaled(value: int) -> int:
    """Use a global."""
    return value * SCALE


def logged(function: Callable[..., int]) -> Callable[..., int]:
    """Decorate, and tell of each call."""

    @functools.wraps(function)
    def inner(*args: Any) -> int:
        print("called")
        return function(*args) + 1

    return inner


@pytest.fixture
async def session(face: Face) -> AsyncIterator[aio.Session]:
    """A session of either face; typed as the core's, which has the same names."""
    async with face.session() as session:
        yield session
    await interpreters_ended()


async def collected(results: Any) -> list[Any]:
    """Iterate over results of either face."""
    return [result async for result in results]


async def test_a_function_and_what_travels_with_it(session: aio.Session) -> None:
    """Other decorators, closure values, globals, helpers and classes travel; local runs it here."""
    offset = 10

    @session.function(concurrency=1)
    @logged
    def compute(value: int) -> int:
        return scaled(value) + offset + len(Part("x").name)

    @session.function
    def square(x: int) -> int:
        return x * x

    assert await compute.remote(2) == 6 + 10 + 1 + 1
    assert compute.local(2) == compute(2) == 18
    assert await square.remote(3) == 9
    assert await collected(square.map((x,) for x in range(5))) == [0, 1, 4, 9, 16]


async def test_values_are_typed_by_the_annotations(session: aio.Session) -> None:
    """Classes, enumerations, dates, bytes, paths, sets, tuples and what is nested in them come back as they were."""

    @session.function(concurrency=1)
    def give(
        part: Part, when: dt.datetime, data: bytes, path: PurePosixPath, more: dict[str, list[tuple[int, str]]]
    ) -> tuple[Part, dt.datetime, bytes, PurePosixPath, set[Kind], dict[str, list[tuple[int, str]]]]:
        return part, when, data, path, {part.kind}, more

    part, when = Part("a"), dt.datetime(2024, 2, 29, tzinfo=dt.UTC)
    more = {"k": [(1, "x")]}
    result = await give.remote(part, when, b"\xff", PurePosixPath("/a"), more)
    assert result == (part, when, b"\xff", PurePosixPath("/a"), {Kind.BIG}, more)
    with pytest.raises(FunctionSerializationError, match=r"args\[1\]"):
        await give.remote(part, "never", b"", PurePosixPath("/"), {})  # type: ignore[arg-type]  # that is the point


async def test_pickled_arguments(session: aio.Session) -> None:
    """PICKLE adds everything else for arguments; a pickled result asks for explicit trust."""

    @session.function(serialization=Serialization.PICKLE, concurrency=1)
    def apply(function: Any) -> int:
        return function(4)  # type: ignore[no-any-return]  # whatever came

    assert await apply.remote(functools.partial(pow, 2)) == 16
    with pytest.raises(ValueError, match="trust_result"):
        session.function(trust_result=True)(scaled)


async def test_remote_exceptions_and_output(session: aio.Session) -> None:
    """The error has its type, text, traceback and what was printed; a missing answer is no result."""

    @session.function(concurrency=1)
    def fail() -> None:
        print("before")
        raise ValueError("why")

    with pytest.raises(SandboxExecutionError) as caught:
        await fail.remote()
    error = caught.value
    assert (error.exception_type, error.exception_message, error.exception_class) == ("ValueError", "why", ValueError)
    assert error.exec_result is not None
    assert error.exec_result.stdout == "before\n"
    assert 'raise ValueError("why")' in "".join(error.__notes__)


async def test_asynchronous_functions_and_generators(session: aio.Session) -> None:
    """Async functions run, generators stream."""

    @session.function(concurrency=1)
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    @session.function(concurrency=1)
    def count(end: int) -> Iterator[int]:
        yield from range(end)

    result: Any = await later.remote(1)  # the type of a coroutine function's call is the coroutine
    assert result == 2
    assert await collected(count.stream(3)) == [0, 1, 2]


async def test_calls_share_warm_sandboxes(session: aio.Session) -> None:
    """Calls reuse sandboxes, never more than `concurrency` at a time, and `map` takes a generator lazily."""
    taken = 0

    def numbers() -> Iterator[tuple[int]]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield (number,)

    @session.function(concurrency=2)
    def plain(value: int) -> int:
        return value

    results: Any = plain.map(numbers())
    first = [await anext(results) for _ in range(3)]
    assert first == [0, 1, 2]
    assert taken < 50
    assert session.sandbox_count <= 2
    await results.aclose()
    assert await plain.remote(5) == 5


async def test_a_call_that_takes_too_long(session: aio.Session) -> None:
    """The call is killed, not the sandbox."""

    @session.function(concurrency=1, timeout_seconds=2)
    def wait(path: str) -> str:
        import time

        while path:
            time.sleep(0.01)
        return "ended"

    with pytest.raises(SandboxTimeoutError):
        await wait.remote("x")
    assert await wait.remote("") == "ended"
    assert session.sandbox_count == 1


async def test_what_cannot_be_shipped(session: aio.Session) -> None:
    """It says why at decoration."""
    lock = threading.Lock()

    def guarded() -> None:
        with lock:
            pass

    with pytest.raises(FunctionSerializationError, match="lock"):
        session.function(guarded)


async def test_a_pool_hands_out_and_takes_back(face: Face, session: aio.Session) -> None:
    """A running sandbox, returned afterwards; with none free a policy says what happens."""
    pool = session.pool(1)
    async with pool:
        async with pool.acquire() as sandbox:
            assert (await sandbox.exec(["echo", "x"])).stdout == "x\n"
            with pytest.raises(SandboxResourceExhaustedError):
                async with pool.acquire(policy="fail"):
                    pass
            with pytest.raises(TimeoutError):
                async with pool.acquire(timeout=0.05):
                    pass
        async with pool.acquire() as again:
            assert (await again.exec(["true"])).returncode == 0
        assert pool.stats().size == 1
    with pytest.raises(SandboxError, match="closed"):
        async with pool.acquire():
            pass


async def test_a_pool_maps_commands_and_functions(session: aio.Session, tmp_path: Path) -> None:
    """In order or as completed, errors raised or yielded, and a journal that spares what was done."""

    def invert(value: int) -> float:
        return 1 / value

    async with session.pool(2) as pool:
        results = await collected(pool.map(["echo", "{}"], ["a", "b"]))
        assert [result.stdout for result in results] == ["a\n", "b\n"]
        assert sorted(await collected(pool.map(invert, [1, 2, 4], ordered=False))) == [0.25, 0.5, 1.0]
        kept = await collected(pool.map(invert, [1, 0], return_exceptions=True))
        assert kept[0] == 1.0
        assert isinstance(kept[1], SandboxExecutionError)
        with pytest.raises(SandboxExecutionError):
            await collected(pool.map(invert, [0]))
        journal = tmp_path / "journal"
        assert await collected(pool.map(invert, [1, 2], journal=journal)) == [1.0, 0.5]
        done = pool.stats().done
        assert await collected(pool.map(invert, [1, 2], journal=journal)) == [1.0, 0.5]
        assert pool.stats().done == done
        with pytest.raises(aviato.ConfigurationError, match="journal"):
            await collected(pool.map(invert, [2, 1], journal=journal))
