"""Warm interpreters in the sandboxes of pools: the same function has the same one, and there are never many."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aviato import aio
from aviato.aio._keeper import Kept
from aviato.aio.pooling.reset import INTERPRETERS_KEPT
from aviato.aio.shipping.interpreter import Interpreter
from tests.helpers.fakes import interpreters_ended
from tests.pool.test_pool import settled


@pytest.fixture(params=["clean", "none"])
async def pool(request: pytest.FixtureRequest, engine: Any) -> AsyncIterator[aio.Pool]:
    """A pool of one sandbox that is kept."""
    async with aio.Session(engine=engine) as session:
        yield session.pool(1, reset=request.param)
    await interpreters_ended()


@dataclasses.dataclass
class Box:
    """Something that has to be known on both sides."""

    value: int


def boxed(value: int) -> Box:
    """Put it into one."""
    return Box(value + more)


more = 0


def added(more: int) -> Callable[[int], int]:
    """Make a function anew."""
    return lambda value: value + more


def persist(interpreter: Interpreter) -> bool:
    """Tell whether an interpreter serves many calls, as a fake one does not."""
    return not interpreter._once


async def the_one(pool: aio.Pool) -> tuple[Kept, list[Interpreter]]:
    """Return the sandbox, and its interpreters."""
    await settled(pool)
    [kept] = pool._keeper._idle
    found = [thing for thing in kept.attached.values() if isinstance(thing, Interpreter)]
    assert kept.spared_pids == {interpreter.pid for interpreter in found}
    return kept, found


async def test_the_same_function_has_the_same_one(pool: aio.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is mapped; with another limit, or when what it uses has changed, it is another function."""
    results = [[box async for box in pool.map(boxed, [number])] for number in range(3)]
    assert results == [[Box(0)], [Box(1)], [Box(2)]]
    kept, [first] = await the_one(pool)
    assert first.usable == persist(first)
    assert [box async for box in pool.map(boxed, [1], timeout_seconds=30)] == [Box(1)]
    monkeypatch.setitem(globals(), "more", 5)
    assert [box async for box in pool.map(boxed, [1])] == [Box(6)]
    again, interpreters = await the_one(pool)
    assert again is kept
    assert len(interpreters) == 3
    assert interpreters[0] is first or not persist(first)


async def test_lambdas_made_anew(pool: aio.Pool) -> None:
    """The same code is the same function; others replace those that were used longest ago, which are dead then."""
    for number in range(5):
        assert [result async for result in pool.map(added(100), [number])] == [100 + number]
    kept, [first] = await the_one(pool)
    seen = [first]
    for offset in range(INTERPRETERS_KEPT + 2):
        assert [result async for result in pool.map(added(offset), [1])] == [1 + offset]
        assert [result async for result in pool.map(added(100), [2])] == [102]
        again, interpreters = await the_one(pool)
        assert again is kept, "killing them must not cost the sandbox"
        assert len(interpreters) <= INTERPRETERS_KEPT
        if persist(first):
            assert interpreters[-1] is first, "what is used most is kept"
            assert all(one.usable for one in interpreters)
        seen += [one for one in interpreters if one not in seen]
    if persist(first):
        assert len(seen) == 1 + INTERPRETERS_KEPT + 2
        assert [one.ended is None for one in seen].count(True) == INTERPRETERS_KEPT
    assert len(pool._functions._known) <= INTERPRETERS_KEPT
    assert pool.stats().replaced == 0


async def test_functions_of_ones_own_are_bounded_as_well(pool: aio.Pool) -> None:
    """Remote functions that are given to the pool, many at once."""
    functions = [pool._session.function()(added(by)) for by in range(INTERPRETERS_KEPT + 3)]

    async def one(function: Any) -> list[int]:
        return [result async for result in pool.map(function, [1, 2])]

    results = await asyncio.gather(*map(one, functions))
    assert results == [[1 + by, 2 + by] for by in range(len(functions))]
    _, interpreters = await the_one(pool)
    assert len(interpreters) == INTERPRETERS_KEPT
