"""Iterators across the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aviato_sync import _iterators
from aviato_sync._operation import OperationRef
from tests.facade.fixture_core import Box
from tests.facade.script import run


def test_reader_in_few_crossings() -> None:
    """A blocking loop gives every item in order, many for one crossing."""
    reader = Box().reader(1000)
    assert list(reader) == list(range(1000))
    assert reader._core.batches <= 1000 // _iterators.BATCH + 2
    assert list(reader) == []


def test_second_loop_goes_on() -> None:
    """What a loop left is there for the next one, for `next` and for other operations."""
    reader = Box().reader(100)
    for number in reader:
        if number == 9:
            break
    assert next(reader) == 10
    assert next(iter(reader)) == 11
    assert reader.read().result() == sum(range(12, 100))


async def test_both_kinds_of_loop_share_the_place() -> None:
    """A blocking and an asynchronous loop read one after the other from the same place."""
    reader = await asyncio.to_thread(Box().reader, 600)
    seen = [await anext(reader)]
    async for number in reader:
        seen.append(number)
        if number == 300:
            break
    seen += await asyncio.to_thread(list, reader)
    assert seen == list(range(600))
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


def test_core_knows_who_reads() -> None:
    """The core is told of a loop while it lives, and no longer."""
    box = Box()
    reader = box.reader(5)
    loop = iter(reader)
    assert reader._core.holders == 1
    assert next(loop) == 0
    del loop
    gc.collect()
    box.open()  # behind the release
    assert reader._core.holders == 0


def test_many_threads_read_each_item_once() -> None:
    """Threads that share a reader get every item exactly once."""
    reader = Box().reader(20_000)
    seen: list[list[int]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: own.extend(reader)) for own in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(number for own in seen for number in own) == list(range(20_000))
    assert all(own == sorted(own) for own in seen)


def test_generator_is_pumped_within_bounds() -> None:
    """An asynchronous generator of the core runs a bounded number of items ahead, and is closed at its end."""
    box = Box()
    with box.numbers(1000) as numbers:
        assert next(numbers) == 0
        box.open()
        assert len(box.log) <= 2 * _iterators.AHEAD
        assert list(numbers) == list(range(1, 1000))
    assert box.log[-1] == "closed"


def test_closing_early_runs_the_clean_up() -> None:
    """`close` ends the generator and waits until its `finally` ran; a second close is a no-op."""
    box = Box()
    numbers = box.numbers(1000)
    next(numbers)
    numbers.close().result()
    numbers.close().result()
    assert box.log[-1] == "closed"


def test_dropping_a_generator_warns() -> None:
    """A generator that is dropped before its end warns, and is closed."""
    box = Box()
    numbers = box.numbers(1000)
    next(numbers)
    with pytest.warns(ResourceWarning, match="dropped before its end"):
        del numbers
    box.open()
    while "closed" not in box.log:
        box.open()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "if not os.fork(): del numbers; gc.collect(); os._exit(0)\nos.wait()\n"])
def test_dropped_where_nothing_can_be_closed(end: str) -> None:
    """At the interpreter's end, and in a forked child, an iterator that is dropped is silent."""
    program = f"""
import gc, os
from tests.facade.fixture_core import Box
numbers = Box().numbers(1000)
next(numbers)
{end}
"""
    assert run(program, "-W", "default::ResourceWarning") == (0, "", "")


async def test_generator_on_another_loop() -> None:
    """`async for` and `async with` work from any running loop."""
    box = await asyncio.to_thread(Box)
    async with box.numbers(5) as numbers:
        assert [number async for number in numbers] == [0, 1, 2, 3, 4]


async def test_generator_keeps_an_awaiting_item() -> None:
    """Cancelling the one who waits for an item loses none."""
    box = await asyncio.to_thread(Box)
    reader = await asyncio.to_thread(box.reader, 3)
    gate = box.block()

    async def slow(limit: int) -> list[int]:
        await box._core.gate.wait()
        return [7] if limit else []

    reader._core.read_batch = slow  # type: ignore[method-assign]  # a reader that has nothing yet
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await anext(reader)
    box.open()
    assert await anext(reader) == 7
    await gate


async def test_feeding_from_the_callers_loop() -> None:
    """The user's asynchronous iterable is iterated on the loop it belongs to, a blocking one on a thread."""
    box = await asyncio.to_thread(Box)
    here = asyncio.get_running_loop()
    places: list[object] = []

    async def pieces() -> object:
        for number in range(3):
            await asyncio.sleep(0)
            places.append(asyncio.get_running_loop())
            yield number

    async def collect(data: object) -> list[int]:
        return [item async for item in data]  # type: ignore[attr-defined]  # an asynchronous iterable

    fed = _iterators.feed(pieces())
    assert await box._start(collect, fed) == [0, 1, 2]
    assert places == [here] * 3

    def blocking() -> object:
        for number in range(3):
            places.append(threading.current_thread().name)
            yield number

    assert await box._start(collect, _iterators.feed(blocking())) == [0, 1, 2]
    assert "aviato-loop" not in places
    assert _iterators.feed(b"bytes") == b"bytes"


def test_interrupted_when_the_items_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost when waiting ends with an exception although the batch is there."""
    reader = Box().reader(3)

    def interrupted(ref: OperationRef[object], timeout: float | None = None) -> object:
        ref.exception(timeout)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OperationRef, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(reader)
    assert list(reader) == [0, 1, 2]


def test_what_makes_items_is_cancelled_by_another() -> None:
    """That is an error and not the end."""
    box = Box()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError

    items = _iterators.BlockingIterator[int](box._home, numbers)
    assert next(items) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        next(items)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
@pytest.mark.parametrize("call", ["double.map(items)", "pool.map(double, items, return_exceptions=True)"])
def test_exit_in_what_the_caller_gives(tmp_path: Path, call: str, error: str) -> None:
    """What would end an event loop comes out where the caller iterates, blocking or not, and the session works on."""
    (tmp_path / "shipped.py").write_text("def double(value):\n    return value * 2\n")
    program = f"""
import asyncio, sys
import aviato
from aviato.testing import FakeEngine
sys.path.insert(0, {str(tmp_path)!r})
import shipped
def numbers():
    yield (1,)
    raise {error}
async def awaited_numbers():
    yield (1,)
    raise {error}
class Unreadable:
    def __iter__(self):
        raise {error}
session = aviato.Session(engine=FakeEngine())
pool = session.pool(1)
double = session.function()(shipped.double)
def blocking(items):
    list({call})
async def awaited(items):
    async for item in {call}:
        pass
def seen(function, *args):
    try:
        function(*args)
    except BaseException as error:
        print(repr(error))
seen(blocking, numbers())
seen(blocking, Unreadable())
seen(lambda: asyncio.run(awaited(numbers())))
seen(lambda: asyncio.run(awaited(awaited_numbers())))
print(double.remote(21).result())
session.close().result()
print(session.closed)
"""
    assert run(program, "-W", "error") == (0, f"{error}\n" * 4 + "42\nTrue\n", "")
