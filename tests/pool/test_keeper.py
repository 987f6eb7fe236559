"""The keeper of sandboxes: places, order, replacement, and being cancelled at every point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aviato import aio
from aviato.aio._keeper import Keeper, Kept
from aviato.exceptions import (
    EngineConnectionError,
    EngineError,
    ImageNotFoundError,
    SandboxError,
    SandboxResourceExhaustedError,
)
from aviato.testing import FakeEngine
from tests.helpers.crash import crash


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session


@pytest.fixture
async def faked() -> AsyncIterator[tuple[aio.Session, FakeEngine]]:
    """A session on a fake engine, and the engine with its switches."""
    engine = FakeEngine()
    async with aio.Session(engine=engine) as session:
        yield session, engine


def keep(session: aio.Session, **options: Any) -> Keeper:
    """Make a keeper of a session."""
    return session._keep(Keeper(session.sandbox, **options))


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; each turn of the loop may bring it about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def test_one_is_kept_and_taken_again(session: aio.Session) -> None:
    """What users attach stays with the sandbox until it goes."""
    keeper = keep(session, most=1)
    kept = await keeper.take()
    assert (await kept.sandbox.exec(["echo", "hi"])).stdout == "hi\n"
    kept.attached["warm"] = 1
    await keeper.give_back(kept, reusable=True)
    again = await keeper.take()
    assert again is kept
    assert (again.uses, again.attached) == (2, {"warm": 1})
    await keeper.give_back(again, reusable=False)
    assert again.sandbox.status.is_terminal
    assert again.attached == {}
    other = await keeper.take()
    assert other.sandbox.sandbox_id != kept.sandbox.sandbox_id
    assert (keeper.created, keeper.reused, keeper.replaced) == (2, 1, 1)
    await keeper.give_back(other, reusable=True)
    await keeper.give_back(other, reusable=True)
    assert keeper.counts["idle"] == 1


async def test_a_dead_one_is_replaced_while_idle(session: aio.Session, engine: Any) -> None:
    """The engine's watch tells, and the spare is there before anybody asks."""
    keeper = keep(session, most=2, warm=1)
    keeper.begin()
    await until(lambda: keeper.counts["idle"] == 1)
    (first,) = await session.list()
    crash(engine, first.sandbox_id)
    await until(lambda: keeper.created == 2 and keeper.counts["idle"] == 1)
    kept = await keeper.take()
    assert kept.sandbox.sandbox_id != first.sandbox_id
    assert (await kept.sandbox.exec(["true"])).returncode == 0


async def test_never_more_than_most(faked: tuple[aio.Session, FakeEngine]) -> None:
    """A thousand takers of four places, some of whom ruin theirs: those that stop count too."""
    session, _ = faked
    keeper = keep(session, most=4, warm=4)
    highest = running = 0

    async def use(number: int) -> None:
        nonlocal highest, running
        kept = await keeper.take()
        running += 1
        alive = sum(not one.status.is_terminal for one in session._sandboxes.values())
        highest = max(highest, alive, keeper.size)
        await asyncio.sleep(0)
        running -= 1
        await keeper.give_back(kept, reusable=number % 10 != 0)

    await asyncio.gather(*(use(number) for number in range(1000)))
    assert highest == 4
    assert running == 0
    assert keeper.created >= 100


async def test_waiters_are_served_in_order(faked: tuple[aio.Session, FakeEngine]) -> None:
    """First come, first served, and a latecomer does not overtake."""
    session, _ = faked
    keeper = keep(session, most=1)
    kept = await keeper.take()
    order: list[int] = []

    async def use(number: int) -> None:
        mine = await keeper.take()
        order.append(number)
        await keeper.give_back(mine, reusable=True)

    tasks = []
    for number in range(50):
        tasks.append(asyncio.create_task(use(number)))
        await asyncio.sleep(0)
    tasks[7].cancel()
    await keeper.give_back(kept, reusable=True)
    tasks.append(asyncio.create_task(use(50)))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [number for number in range(51) if number != 7]


async def test_timeout_growing_and_failing_fast(faked: tuple[aio.Session, FakeEngine]) -> None:
    """The three ways to meet a keeper all of whose places are in use."""
    session, _ = faked
    keeper = keep(session, most=1, ceiling=2)
    kept = await keeper.take(wait=False)
    with pytest.raises(TimeoutError, match=r"no sandbox of this pool was free within 0\.01 s: 0 idle, 1 in use"):
        await keeper.take(0.01)
    with pytest.raises(SandboxResourceExhaustedError, match="all 1 sandboxes of this pool are in use") as caught:
        await keeper.take(wait=False)
    assert not caught.value.is_infrastructure
    more = await keeper.take(grow=True)
    with pytest.raises(TimeoutError):
        await keeper.take(0.01, grow=True)
    await keeper.give_back(kept, reusable=True)  # one is beyond the size and goes
    await until(lambda: keeper.size == 1)
    await keeper.give_back(more, reusable=True)
    assert keeper.counts["idle"] == 1


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_each_point(turns: int) -> None:
    """Whatever turn of the loop the cancellation falls in, the place is free afterwards."""
    async with aio.Session(engine=FakeEngine()) as session:
        keeper = keep(session, most=1)
        for first in (True, False):
            task = asyncio.create_task(keeper.take())
            for _ in range(turns * (5 if first else 1)):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, Kept):
                giving = asyncio.create_task(keeper.give_back(outcome, reusable=False))
                await asyncio.sleep(0)
                giving.cancel()
                await asyncio.gather(giving, return_exceptions=True)
            kept = await keeper.take(10)
            assert keeper.size == 1
            await keeper.give_back(kept, reusable=True)


async def test_age_and_uses(faked: tuple[aio.Session, FakeEngine]) -> None:
    """A worn one is replaced when it comes back, an old one also while it is idle."""
    session, _ = faked
    keeper = keep(session, most=1, max_uses=2)
    names = []
    for _ in range(5):
        kept = await keeper.take()
        names.append(kept.sandbox.sandbox_id)
        await keeper.give_back(kept, reusable=True)
    assert [names.count(name) for name in dict.fromkeys(names)] == [2, 2, 1]
    aging = keep(session, most=1, warm=1, max_age_seconds=0.05)
    aging.begin()
    await until(lambda: aging.created >= 3)


async def test_a_reset_decides(faked: tuple[aio.Session, FakeEngine]) -> None:
    """It runs behind the giving back; one that is not clean, or cannot be reset, is replaced."""
    session, _ = faked
    answers: list[Any] = [True, False, EngineConnectionError("gone")]

    async def reset(kept: Kept) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    keeper = keep(session, most=1, reset=reset)
    names = []
    for _ in range(4):
        kept = await keeper.take()
        names.append(kept.sandbox.sandbox_id)
        if answers:
            await keeper.give_back(kept, reusable=True)
            assert keeper.counts["resetting"] == 1
    assert [names.count(name) for name in dict.fromkeys(names)] == [2, 1, 1]


async def test_given_back_while_the_last_reset_ends(faked: tuple[aio.Session, FakeEngine]) -> None:
    """One reset is not taken for the other, however quickly they follow."""
    session, _ = faked

    async def reset(kept: Kept) -> bool:
        await asyncio.sleep(0)
        return True

    keeper = keep(session, most=1, reset=reset)
    for _ in range(50):
        await keeper.give_back(await keeper.take(), reusable=True)
    assert (keeper.created, keeper.replaced) == (1, 0)


async def test_a_start_that_fails_is_raised_where_it_is_waited_for(faked: tuple[aio.Session, FakeEngine]) -> None:
    """One failure reaches one taker; a spare that cannot start is tried again later."""
    session, engine = faked
    keeper = keep(session, most=2)
    engine.faults.fail("create", EngineError("no room"), times=1)
    outcomes = await asyncio.gather(keeper.take(), keeper.take(), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["EngineError", "Kept"]
    spares = keep(session, most=1, warm=1)
    engine.faults.fail("create", EngineError("no room"), times=2)
    spares.begin()
    await until(lambda: spares.counts["idle"] == 1)
    assert (spares.failed, spares.created) == (2, 1)
    missing = session._keep(Keeper(lambda: session.sandbox(container_image="no/such"), most=1))
    engine.machine.missing_images = frozenset(["no/such"])
    with pytest.raises(ImageNotFoundError):
        await missing.take()
    await until(lambda: missing.size == 0)


async def test_a_stop_that_fails_is_tried_again(faked: tuple[aio.Session, FakeEngine]) -> None:
    """The place is not given away before the sandbox is gone."""
    session, engine = faked
    keeper = keep(session, most=1)
    kept = await keeper.take()
    engine.faults.fail("stop", EngineConnectionError("busy"), times=1)
    await keeper.give_back(kept, reusable=False)
    assert engine.faults.fired["fail:stop"] == 1
    assert kept.sandbox.status.is_terminal


async def test_closing(faked: tuple[aio.Session, FakeEngine]) -> None:
    """Takers are told, starts are undone, those in use are stopped, and it may be called again."""
    session, engine = faked
    keeper = keep(session, most=1)
    kept = await keeper.take()
    gate = asyncio.Event()
    engine.faults.stall("create", until=gate)
    await keeper.give_back(kept, reusable=False)
    taking = asyncio.create_task(keeper.take())
    await until(lambda: engine.faults.fired["stall:create"])
    closing = [asyncio.create_task(keeper.close()) for _ in range(2)]
    with pytest.raises(SandboxError, match="closed while a sandbox was waited for"):
        await taking
    gate.set()
    await asyncio.gather(*closing)
    assert keeper.size == 0
    assert await session.list() == []
    await keeper.close()
    with pytest.raises(SandboxError, match="this pool is closed"):
        await keeper.take()
    with pytest.raises(SandboxError, match="this pool is closed"):
        keeper.begin()


async def test_a_close_that_fails_can_be_repeated(faked: tuple[aio.Session, FakeEngine]) -> None:
    """It names what it could not stop."""
    session, engine = faked
    keeper = keep(session, most=1)
    kept = await keeper.take()
    engine.faults.fail("stop", EngineConnectionError("busy"), times=1)
    with pytest.raises(SandboxError, match=kept.sandbox.sandbox_id):
        await keeper.close()
    await keeper.close()
    assert kept.sandbox.status.is_terminal


async def test_the_session_closes_its_keepers(engine: Any) -> None:
    """No spare is started behind a closing session."""
    async with aio.Session(engine=engine) as session:
        keeper = keep(session, most=3, warm=3)
        keeper.begin()
        kept = await keeper.take()
        assert kept.sandbox.status == "running"
    assert keeper.closed
    assert keeper.size == 0
    assert kept.sandbox.status.is_terminal
