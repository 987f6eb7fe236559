"""`mapping.Run` by itself: inputs and work that end in unusual ways, and closing it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aviato.aio.pooling.mapping import Run, Source
from tests.pool.test_keeper import until


def run_over(items: Any, *, return_exceptions: bool = False) -> Run:
    """Give a run with two items at work at once."""
    return Run(Source(items), concurrency=2, ordered=True, return_exceptions=return_exceptions)


async def given(run: Run, seen: list[Any], work: Any = None) -> None:
    """Collect what a run gives."""

    async def same(number: int, item: Any) -> Any:
        return item

    run.begin(work or same)
    try:
        while True:
            try:
                seen.append(await run.next())
            except StopAsyncIteration:
                return
    finally:
        await run.close()


async def test_an_input_is_cancelled_by_another() -> None:
    """The rest is not dropped silently, and the consumer is not taken for cancelled."""
    foreign = asyncio.create_task(asyncio.sleep(3600))

    async def items() -> AsyncIterator[int]:
        yield 1
        foreign.cancel()
        await foreign
        yield 2

    seen: list[int] = []
    with pytest.raises(RuntimeError, match="items raised CancelledError after 1 items") as caught:
        await given(run_over(items()), seen)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert seen == [1]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_exits_of_an_input_come_out_of_next(error: BaseException) -> None:
    """They reach the consumer, which can go on, and not the event loop."""

    def items() -> Iterator[int]:
        yield 1
        raise error

    async def consume() -> str:
        with pytest.raises(type(error)) as caught:
            await given(run_over(items()), [])
        assert caught.value is error
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(consume()) == "went on"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exits_of_work_are_never_kept(error: BaseException) -> None:
    """They are raised even where errors are yielded."""

    async def work(number: int, item: int) -> int:
        raise error if item else LookupError

    async def consume() -> list[Any]:
        seen: list[Any] = []
        with pytest.raises(type(error)):
            await given(run_over([0, 1], return_exceptions=True), seen, work)
        return seen

    seen = asyncio.run(consume())
    if isinstance(error, SystemExit):
        assert [type(item) for item in seen] == [LookupError]


def test_an_interrupt_waits_for_no_result() -> None:
    """Ctrl-C that hits the input comes out while items before it are at work, which are then cancelled."""
    ended: list[int] = []

    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    async def work(number: int, item: int) -> int:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(item)
        return item

    async def consume() -> None:
        with pytest.raises(KeyboardInterrupt):
            await given(run_over(items()), [], work)

    asyncio.run(consume())
    assert ended == [1]


async def test_cancelling_again_does_not_hit_the_clean_up() -> None:
    """Work and the input end in full, whoever has lost patience meanwhile."""
    cleaning, may_end, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cleaned: list[int] = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            closed.set()

    async def work(number: int, item: int) -> int:
        if item == 1:
            return item
        try:
            await asyncio.sleep(3600)
        finally:
            cleaning.set()
            await may_end.wait()
            cleaned.append(item)
        return item

    run = run_over(items())
    task = asyncio.create_task(given(run, [], work))
    await until(lambda: run.taken == 2)
    task.cancel()
    await cleaning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = asyncio.create_task(run.close())
    may_end.set()
    await again
    assert cleaned == [2]
    assert closed.is_set()


async def test_an_input_that_ignores_its_cancellation() -> None:
    """What it gives then is not begun, and closing ends."""
    waiting = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        number = 0
        while True:
            try:
                waiting.set()
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                yield (number := number + 1)

    run = run_over(items())
    task = asyncio.create_task(given(run, []))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.taken == 0


def test_an_exit_of_an_input_that_is_closed() -> None:
    """It comes out of the closing."""

    async def items() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise SystemExit(3)

    async def work(number: int, item: int) -> int:
        raise LookupError

    async def consume() -> str:
        with pytest.raises(SystemExit):
            await given(run_over(items()), [], work)
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(consume()) == "went on"


async def test_an_error_says_of_which_item_it_is() -> None:
    """Also when results come as they complete, in which their place says nothing; one error of two items has both."""
    shared = ValueError("shared")

    async def work(number: int, item: Any) -> Any:
        if item == "shared":
            raise shared
        raise ValueError(item)

    for ordered in (True, False):
        run = Run(Source(["a", "b", "c"]), concurrency=3, ordered=ordered, return_exceptions=True)
        seen: list[Any] = []
        await given(run, seen, work)
        assert {str(error): error.__notes__ for error in seen} == {
            "a": ["in the work of items[0]"],
            "b": ["in the work of items[1]"],
            "c": ["in the work of items[2]"],
        }
    with pytest.raises(ValueError, match="d") as caught:
        await given(run_over(["d"]), [], work)
    assert caught.value.__notes__ == ["in the work of items[0]"]
    await given(run_over(["shared", "shared"], return_exceptions=True), [], work)
    assert shared.__notes__ == ["in the work of items[0]", "in the work of items[1]"]
