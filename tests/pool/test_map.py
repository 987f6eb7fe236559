"""`Pool.map`: commands and functions, order, laziness, errors in their place, and sandboxes that are lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.aio import pool as pools
from aviato.exceptions import (
    EngineConnectionError,
    FunctionSerializationError,
    SandboxError,
    SandboxExecutionError,
    SandboxTimeoutError,
)
from aviato.models import ProcessResult
from aviato.testing import FakeEngine
from tests.helpers.crash import crash
from tests.helpers.fakes import interpreters_ended
from tests.pool.test_keeper import until


@pytest.fixture
async def pool(engine: Any) -> AsyncIterator[aio.Pool]:
    """A pool on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session.pool(2)
    await interpreters_ended()


def double(value: int, more: int = 0) -> int:
    """Give something to check."""
    return value * 2 + more


async def test_commands(pool: aio.Pool) -> None:
    """Fields stand for the item, for a part of a tuple, or for a key; all other words are as they are."""
    results = [result async for result in pool.map(["echo", "{}", "{}x", "{ }"], [1, ("a", 2.5), PurePosixPath("/p")])]
    assert all(isinstance(result, ProcessResult) for result in results)
    assert [result.stdout for result in results] == ["1 {}x { }\n", "a 2.5 {}x { }\n", "/p {}x { }\n"]
    assert [r.stdout async for r in pool.map(["echo", "{1}", "{0}"], [("a", "b")])] == ["b a\n"]
    assert [r.stdout async for r in pool.map(["echo", "{name}"], [{"name": "n", "z": 1}])] == ["n\n"]
    assert [r.returncode async for r in pool.map(["sh", "-c", "exit $0", "{}"], [0, 3])] == [0, 3]


async def test_functions(pool: aio.Pool) -> None:
    """Plain and remote ones; a tuple is the arguments, anything else the only one."""
    assert [result async for result in pool.map(double, [1, (2, 1), 3])] == [2, 5, 6]
    remote = pool._session.function()(double)
    assert [result async for result in pool.map(remote, [1, (2, 1)])] == [2, 5]
    stats = pool.stats()
    assert (stats.done, stats.retried, stats.contaminated) == (5, 0, 0)
    with pytest.raises(FunctionSerializationError, match="expected int, got str"):
        [result async for result in pool.map(double, ["x"])]
    with pytest.raises(TypeError, match="missing a required argument"):
        [result async for result in pool.map(double, [()])]
    with pytest.raises(FunctionSerializationError):
        pool.map(len, [1])
    with pytest.raises(ValueError, match="given where it is decorated"):
        pool.map(remote, [1], timeout_seconds=1)


def test_the_front_door(engine: Any) -> None:
    """Generators from the caller's thread, asynchronous ones from his loop, and leaving early."""
    with aviato.Session(engine=engine) as session, session.pool(2) as pool:

        @session.function()
        def triple(value: int) -> int:
            return value * 3

        assert list(pool.map(triple, (n for n in range(5)))) == [0, 3, 6, 9, 12]
        with pytest.raises(ValueError, match="no word of fn_or_command"):
            pool.map(["true"], [1])
        with pool.map(["echo", "{}"], iter(range(1000))) as results:
            assert next(results).stdout == "0\n"

        async def use() -> list[str]:
            async def numbers() -> AsyncIterator[int]:
                for number in range(3):
                    await asyncio.sleep(0)
                    yield number

            return [result.stdout async for result in pool.map(["echo", "{}"], numbers())]

        assert asyncio.run(use()) == ["0\n", "1\n", "2\n"]


async def test_lazy_bounded_and_ordered(pool: aio.Pool) -> None:
    """An endless input is read a bounded number ahead; leaving early ends what is at work."""
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    seen = []
    async with contextlib.aclosing(pool.map(["echo", "{}"], numbers())) as results:
        async for result in results:
            seen.append(int(result.stdout))
            assert taken <= len(seen) + 2 * 4
            if len(seen) == 20:
                break
    assert seen == list(range(1, 21))
    assert pool.stats().in_use == 0
    unordered = [int(r.stdout) async for r in pool.map(["echo", "{}"], range(50), ordered=False)]
    assert sorted(unordered) == list(range(50))


async def test_a_slow_item_holds_up_only_what_it_must(engine: Any) -> None:
    """Others overtake it where the order does not matter; where it does they are done meanwhile."""
    command = ["sh", "-c", "[ $0 = 0 ] && sleep 0.5; echo $0", "{}"]
    async with aio.Session(engine=engine) as session, session.pool(2) as pool:
        seen = [result.stdout async for result in pool.map(command, range(4), ordered=False)]
        assert seen[3] == "0\n"
        results = pool.map(command, range(4))
        assert (await anext(results)).stdout == "0\n"
        assert pool.stats().done == 8
        assert [result.stdout async for result in results] == ["1\n", "2\n", "3\n"]


async def test_a_slow_input_holds_no_result_up(pool: aio.Pool) -> None:
    """What is done is yielded while the next item is waited for."""
    more = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    results = pool.map(["echo", "{}"], items())
    assert (await anext(results)).stdout == "1\n"
    more.set()
    assert [result.stdout async for result in results] == ["2\n"]


@pytest.mark.parametrize("ordered", [True, False])
async def test_errors(pool: aio.Pool, ordered: bool) -> None:
    """Raised in their place, or yielded there; an input that raises does so behind the results before it."""

    def invert(value: int) -> float:
        return 1 / value

    results = []
    with pytest.raises(SandboxExecutionError, match="ZeroDivisionError"):
        async for result in pool.map(invert, [1, 2, 0, 4], ordered=ordered, concurrency=1):
            results.append(result)  # noqa: PERF401 - what was given before the error is kept
    assert results == [1.0, 0.5]
    kept = [r async for r in pool.map(invert, [1, 0, 4], ordered=ordered, return_exceptions=True, concurrency=1)]
    assert isinstance(kept[1], SandboxExecutionError)
    assert [kept[0], kept[2]] == [1.0, 0.25]

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    results.clear()
    with pytest.raises(LookupError, match="no more"):
        async for result in pool.map(invert, broken(), ordered=ordered, return_exceptions=True):
            results.append(result)  # noqa: PERF401 - likewise
    assert results == [1.0]
    assert pool.stats().in_use == 0


async def test_a_time_limit(pool: aio.Pool) -> None:
    """It ends the item and not the sandbox."""
    results = [r async for r in pool.map(["sleep", "{}"], [100, 0], timeout_seconds=0.3, return_exceptions=True)]
    assert isinstance(results[0], SandboxTimeoutError)
    assert results[1].returncode == 0
    assert pool.stats().replaced == 0


async def test_wrong_calls_are_refused_at_the_call(pool: aio.Pool) -> None:
    """Before anything is begun, naming what is wrong."""
    with pytest.raises(TypeError, match="not a bare string"):
        pool.map("echo {}", [1])
    with pytest.raises(TypeError, match="function or a list of words"):
        pool.map(3, [1])  # type: ignore[arg-type]  # the slip that is tested
    with pytest.raises(TypeError, match="items must be an iterable"):
        pool.map(["echo", "{}"], 3)  # type: ignore[arg-type]  # likewise
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        pool.map(["echo", "{}"], [1], concurrency=0)
    for command, item, said in (
        (["echo", "{}"], None, r"items\[0\] has None, which is no word"),
        (["echo", "{1}"], ("a",), r"items\[0\] has no part 1"),
        (["echo", "{key}"], 3, r"items\[0\] must be a mapping"),
        (["echo", "{key}"], {}, r"items\[0\] has no key 'key'"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            [result async for result in pool.map(command, [item])]


async def test_a_lost_sandbox_is_replaced_and_its_item_done_again(engine: Any) -> None:
    """As often as the pool's retries say, and counted; then the error is the item's."""
    async with aio.Session(engine=engine) as session, session.pool(1, retries=1) as pool:
        for losses in (1, 2):
            results = pool.map(["sh", "-c", "sleep $0; echo done", "{}"], [1.5])
            task = asyncio.ensure_future(anext(results))
            for _ in range(losses):
                await until(lambda: pool.stats().in_use == 1)
                (kept,) = pool._keeper._in_use
                await kept.sandbox.exec(["true"])
                crash(engine, kept.sandbox.sandbox_id)
                await until(lambda: kept not in pool._keeper._in_use)  # noqa: B023 - called within the round
            if losses == 1:
                assert (await task).stdout == "done\n"
                await results.aclose()
            else:
                with pytest.raises(SandboxError) as caught:
                    await task
                assert caught.value.is_infrastructure
        assert pool.stats().retried == 2


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_one_sandbox_in_twenty_is_killed(engine: Any) -> None:
    """Every item is right, none is lost or doubled, and the retries are counted."""
    if engine == "docker":
        pytest.skip("slow there, and the same code")
    count = 300
    chance = random.Random(7)
    async with aio.Session(engine=engine) as session, session.pool(4, retries=20) as pool:
        kills = 0

        async def kill() -> None:
            nonlocal kills
            seen: set[tuple[str, int]] = set()
            while True:
                for kept in list(pool._keeper._in_use):
                    use = (kept.sandbox.sandbox_id, kept.uses)
                    if use not in seen and kept.sandbox.status == "running":
                        seen.add(use)
                        if chance.random() < 0.05:
                            kills += 1
                            crash(engine, kept.sandbox.sandbox_id)
                await asyncio.sleep(0.001)

        killer = asyncio.create_task(kill())
        try:
            results = [r.stdout async for r in pool.map(["sh", "-c", "sleep 0.01; echo $0", "{}"], range(count))]
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
        assert results == [f"{number}\n" for number in range(count)]
        stats = pool.stats()
        assert kills >= 5
        assert 1 <= stats.retried <= kills * 3
        assert stats.done == count
        assert stats.replaced >= kills


async def test_a_start_that_fails_is_tried_again_and_a_task_is_not() -> None:
    """The infrastructure's failures are repeated; those of the task are its result."""
    engine = FakeEngine()
    async with aio.Session(engine=engine) as session, session.pool(1, warm=0, retries=2) as pool:
        engine.faults.fail("create", EngineConnectionError("gone"), times=2)
        assert [r.stdout async for r in pool.map(["echo", "{}"], ["x"])] == ["x\n"]
        assert pool.stats().retried == 2
        engine.faults.fail("create", EngineConnectionError("gone"), times=3)
        await pool._keeper.give_back(await pool._keeper.take(), reusable=False)
        with pytest.raises(EngineConnectionError):
            [result async for result in pool.map(["echo", "{}"], ["x"])]


async def test_a_functions_own_retries_count_and_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger number is what there is, and the pool's figures tell of each."""
    tried = []

    async def lost(*_: object, **__: object) -> None:
        tried.append(1)
        raise EngineConnectionError("gone")

    async with aio.Session(engine=FakeEngine()) as session:
        function = session.function(retries=3)(double)
        monkeypatch.setattr(function._calls, "retries", 3, raising=False)
        monkeypatch.setattr(function._calls, "run", lost)
        monkeypatch.setattr(pools, "_BACKOFF_SECONDS", 0.001)
        for retries, times in ((1, 3), (5, 5)):
            pool = session.pool(1, warm=0, retries=retries)
            tried.clear()
            with pytest.raises(EngineConnectionError):
                [result async for result in pool.map(function, [1])]
            assert pool.stats().retried == times
            assert len(tried) == times + 1


async def test_closing_under_a_map(engine: Any) -> None:
    """It ends with an error, and does not try again."""
    async with aio.Session(engine=engine) as session, session.pool(2) as pool:
        results = pool.map(["sleep", "{}"], [100, 100, 100])
        task = asyncio.ensure_future(anext(results))
        await until(lambda: pool.stats().in_use == 2)
        await pool.close()
        with pytest.raises(SandboxError):
            await task
        assert pool.stats().retried == 0


async def test_cancelled_in_the_middle(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The consumer's cancellation ends what is at work, and the pool serves on."""
    async with aio.Session(engine=engine) as session, session.pool(2) as pool:

        async def consume() -> None:
            async with contextlib.aclosing(pool.map(["sleep", "{}"], [100, 100, 100])) as results:
                async for _ in results:
                    pass

        task = asyncio.create_task(consume())
        await until(lambda: pool.stats().in_use == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().in_use == 0
        assert [r.stdout async for r in pool.map(["echo", "{}"], [1])] == ["1\n"]
    gc.collect()
    assert "never looked at" not in caplog.text


async def test_progress_without_a_terminal(pool: aio.Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """A line at the end, on standard error."""
    assert len([r async for r in pool.map(["echo", "{}"], [1, 2], progress=True)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("echo: 2 of 2 done, ")
    assert captured.out == ""


async def test_progress_on_a_terminal(pool: aio.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar, which shows the last count when it ends."""
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert len([r async for r in pool.map(["echo", "{}"], [1, 2], progress=True)]) == 2
    assert "2/2" in terminal.getvalue()
