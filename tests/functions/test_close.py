"""A function that is closed has no sandbox any more, while its session goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.exceptions import SandboxError
from tests.helpers.fakes import interpreters_ended


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session
    await interpreters_ended()


def double(value: int) -> int:
    """Give something to check."""
    return 2 * value


async def test_its_sandboxes_end(session: aio.Session) -> None:
    """Later calls say so, in a pool as well; a function of the same source is another one."""
    first, second = session.function(double), session.function(double)
    assert await first.remote(1) + await second.remote(2) == 6
    assert session.sandbox_count == 2
    await first.close()
    assert session.sandbox_count == 1
    with pytest.raises(SandboxError, match=r"^function double is closed"):
        await first.remote(1)
    with pytest.raises(SandboxError, match=r"^function double is closed"):
        [result async for result in first.map([(1,)])]
    async with session.pool(1) as pool:
        with pytest.raises(SandboxError, match=r"^function double is closed"):
            [result async for result in pool.map(first, [1])]
        assert [result async for result in pool.map(second, [1])] == [2]
    assert first.local(2) == first(2) == 4
    assert await second.remote(3) == 6
    await asyncio.gather(first.close(), first.close())


async def test_one_that_was_never_called(session: aio.Session) -> None:
    """Nothing is started for its closing."""
    function = session.function(double)
    await function.close()
    await function.close()
    with pytest.raises(SandboxError, match="is closed"):
        await function.remote(1)
    assert session.sandbox_count == 0


async def test_calls_at_work_and_waiting_fail(session: aio.Session) -> None:
    """Neither is left hanging, nor tried again."""
    begun = asyncio.Event()

    @session.function(concurrency=1, retries=5, on_output=lambda *_: begun.set())
    def last() -> None:
        print("begun", flush=True)
        while True:
            os.getpid()

    calls = [asyncio.create_task(last.remote()) for _ in range(3)]
    await begun.wait()
    await last.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert all(isinstance(outcome, SandboxError) for outcome in outcomes), outcomes
    assert session.sandbox_count == 0


async def test_a_stream_at_work_fails(session: aio.Session) -> None:
    """What was yielded before stays."""

    @session.function
    def numbers() -> Iterator[int]:
        yield 1
        while True:
            os.getpid()

    taken = []
    with pytest.raises(SandboxError):
        async for number in numbers.stream():
            taken.append(number)
            await numbers.close()
    assert taken == [1]


def test_the_front_door(engine: Any) -> None:
    """It is an operation like others."""
    with aviato.Session(engine=engine) as session:
        function = session.function(double)
        assert function.remote(1).result() == 2
        function.close().result()
        assert session.sandbox_count == 0
        with pytest.raises(SandboxError, match="is closed"):
            function.remote(1).result()
