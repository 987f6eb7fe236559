"""Journals: what a driver that was killed has done stays done, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aviato import aio
from aviato.aio.pooling import journal as journals
from aviato.aio.pooling.digest import digest
from aviato.aio.pooling.journal import Journal, decode, encode
from aviato.exceptions import ConfigurationError, FunctionSerializationError, SandboxExecutionError
from aviato.models import ExitReason, ProcessResult
from aviato.testing import FakeEngine

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def pool() -> AsyncIterator[aio.Pool]:
    """A pool in memory."""
    async with aio.Session(engine=FakeEngine()) as session:
        yield session.pool(2, reset="none")


async def echoed(pool: aio.Pool, items: Any, path: Path, **options: Any) -> list[str]:
    """Map a command with a journal."""
    return [result.stdout.strip() async for result in pool.map(["echo", "{}"], items, journal=path, **options)]


async def test_what_is_there_is_not_done_again(pool: aio.Pool, tmp_path: Path) -> None:
    """The second run yields the same, in the same places, without running anything."""
    path = tmp_path / "results"
    first = [result async for result in pool.map(["echo", "{}"], ["a", "b", "c"], journal=path)]
    done = pool.stats().done
    assert done == 3
    assert [result async for result in pool.map(["echo", "{}"], ["a", "b", "c"], journal=path)] == first
    assert pool.stats().done == done
    assert await echoed(pool, ["a", "b", "c", "d"], path) == ["a", "b", "c", "d"]
    assert pool.stats().done == done + 1
    assert sorted(await echoed(pool, ["a", "b", "c", "d"], path, ordered=False)) == ["a", "b", "c", "d"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_leaving_early_keeps_what_was_done(pool: aio.Pool, tmp_path: Path) -> None:
    """A broken iteration, and one that raised, go on where they were."""
    path = tmp_path / "results"
    results = pool.map(["echo", "{}"], range(10), journal=path)
    assert (await anext(results)).stdout == "0\n"
    await results.aclose()
    assert 1 <= pool.stats().done < 10
    before = pool.stats().done
    assert await echoed(pool, range(10), path) == [str(number) for number in range(10)]
    assert pool.stats().done <= 10 + 2
    assert pool.stats().done >= 10
    assert before <= 10


async def test_functions_and_their_errors(pool: aio.Pool, tmp_path: Path) -> None:
    """Values come back as they were; an item that failed runs again."""

    def invert(value: float) -> list[float]:
        return [1 / value]

    path = tmp_path / "results"
    for _ in range(2):
        results = [r async for r in pool.map(invert, [2, 0, 4], journal=path, return_exceptions=True)]
        assert results[0] == [0.5]
        assert isinstance(results[1], SandboxExecutionError)
        assert results[2] == [0.25]
    assert pool.stats().done == 4


async def test_other_work_is_refused(pool: aio.Pool, tmp_path: Path) -> None:
    """Another command, a changed function, other items, fewer items: each is named, and the file stays as it was."""
    path = tmp_path / "results"
    assert await echoed(pool, ["a", "b"], path) == ["a", "b"]
    before = path.read_bytes()
    with pytest.raises(
        ConfigurationError, match="is of other work: it holds results of 'echo', and now it is 'printf'"
    ):
        [result async for result in pool.map(["printf", "{}"], ["a", "b"], journal=path)]
    with pytest.raises(ConfigurationError, match=r"its items\[1\] is not this one"):
        await echoed(pool, ["a", "c"], path)
    with pytest.raises(ConfigurationError, match=r"it holds items\[1\], and now there are 1"):
        await echoed(pool, ["a"], path)
    assert path.read_bytes() == before
    factor = 2
    functions = tmp_path / "functions"
    for factor in (2, 3):

        def scaled(value: int) -> int:
            return value * factor  # noqa: B023 - its value is part of what is shipped

        if factor == 2:
            assert [r async for r in pool.map(scaled, [1], journal=functions)] == [2]
        else:
            with pytest.raises(ConfigurationError, match="or that was changed since"):
                [r async for r in pool.map(scaled, [1], journal=functions)]


async def test_items_and_results_without_a_form(pool: aio.Pool, tmp_path: Path) -> None:
    """An item that cannot be known again is named."""
    with pytest.raises(FunctionSerializationError, match=r"items\[0\]\.x"):
        [r async for r in pool.map(["echo", "{y}"], [{"x": object(), "y": "1"}], journal=tmp_path / "results")]


async def test_two_at_once(pool: aio.Pool, tmp_path: Path) -> None:
    """The second is refused while the first runs, and let in afterwards."""
    path = tmp_path / "results"
    results = pool.map(["echo", "{}"], ["a", "b"], journal=path)
    await anext(results)
    with pytest.raises(ConfigurationError, match="in use by another map"):
        await echoed(pool, ["a", "b"], path)
    await results.aclose()
    assert await echoed(pool, ["a", "b"], path) == ["a", "b"]


async def test_a_torn_line_is_dropped_and_a_damaged_one_refused(pool: aio.Pool, tmp_path: Path) -> None:
    """Wherever the last line breaks off, its item runs again; a line before others is never skipped."""
    path = tmp_path / "results"
    await echoed(pool, ["a", "b", "c"], path)
    whole = path.read_bytes()
    last = whole[: whole[:-1].rindex(b"\n") + 1]
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        assert await echoed(pool, ["a", "b", "c"], path) == ["a", "b", "c"], length
        assert sorted(journalled(path)) == [0, 1, 2]
    for position in range(3, len(last) - 1, 11):  # without the end of a line it is one with the last, which was torn
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ConfigurationError, match=r"damaged|not a journal"):
            await echoed(pool, ["a", "b", "c"], path)
        assert path.read_bytes() == changed


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"\0" * 100, b'{"a": 1}\n', b"12345678 [1]\n"])
async def test_a_file_of_ones_own_is_left_as_it_is(pool: aio.Pool, tmp_path: Path, content: bytes) -> None:
    """A slip with the path destroys nothing."""
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a journal"):
        await echoed(pool, ["a"], path)
    assert path.read_bytes() == content


async def test_a_full_disk(pool: aio.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, nothing half is left in the file, and with room again it goes on."""
    path = tmp_path / "results"
    await echoed(pool, ["a"], path)
    before = path.read_bytes()
    write = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > 30:
            return write(descriptor, bytes(data[:30]), offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ConfigurationError, match=r"cannot be written: .* No space left"):
        await echoed(pool, ["a", "b"], path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert await echoed(pool, ["a", "b"], path) == ["a", "b"]


async def test_a_disk_that_fails(pool: aio.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not reach the disk is told at the end at the latest, though the system says it once."""

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(ConfigurationError, match="could not be brought to the disk"):
        await echoed(pool, ["a"], tmp_path / "results")


async def test_it_reaches_the_disk_within_a_second(
    pool: aio.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the map goes on, not only at its end."""
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        real(descriptor)
        loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(journals, "SYNC_SECONDS", 0.01)
    results = pool.map(["echo", "{}"], ["a", "b"], journal=tmp_path / "results")
    await anext(results)
    async with asyncio.timeout(10):
        await synced.wait()
    await results.aclose()


async def test_what_is_added_during_a_sync_reaches_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a further result that would have it noticed."""
    begun, go_on, again = asyncio.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        loop.call_soon_threadsafe((begun if len(synced) == 1 else again).set)
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(journals, "SYNC_SECONDS", 0.01)
    journal = Journal.open(tmp_path / "results", b"w", "w")
    journal.add(0, "d", 0)
    async with asyncio.timeout(10):
        await begun.wait()
        journal.add(1, "d", 1)
        go_on.set()
        await again.wait()
    assert synced[1] == (tmp_path / "results").stat().st_size > synced[0]
    await journal.close()


async def test_a_cancelled_opening_leaves_it_free(
    pool: aio.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancelled may open the file at once, however often it was cancelled."""
    path = tmp_path / "results"
    begun, go_on = asyncio.Event(), threading.Event()
    loop, real = asyncio.get_running_loop(), fcntl.flock

    def lock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(10)

    monkeypatch.setattr(fcntl, "flock", lock)
    results = pool.map(["echo", "{}"], ["a"], journal=path)
    first = asyncio.ensure_future(anext(results))
    await begun.wait()
    for _ in range(3):
        first.cancel()
        await asyncio.sleep(0)
        assert not first.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    monkeypatch.undo()
    assert await echoed(pool, ["a"], path) == ["a"]


async def test_a_cancelled_close_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when the file is free, also while a sync runs."""
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def sync(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(journals, "SYNC_SECONDS", 0.01)
    journal = Journal.open(tmp_path / "results", b"w", "w")
    journal.add(0, "d", 0)
    await begun.wait()
    closing = asyncio.ensure_future(journal.close())
    for _ in range(3):
        await asyncio.sleep(0)
        closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    monkeypatch.undo()
    await Journal.open(tmp_path / "results", b"w", "w").close()


_DIGESTS = """
import collections, dataclasses, enum, sys
from aviato.aio.pooling.digest import digest

@dataclasses.dataclass(frozen=True)
class Box:
    inside: object

class Pair(collections.namedtuple("Pair", "left right")):
    pass

words = ["a", "b", "c", "d", "$e", b"f", b"g", 7, None, "long" * 1000, "other" * 1000]
inner = frozenset(words)
nested = {frozenset({inner, "x", (1, inner)}), frozenset({"y", "z"}), "w"}
for value in (
    set(words), nested, Box(nested), [Box({"k": nested})], collections.deque([nested], 5), Pair(nested, inner),
    collections.OrderedDict(k=nested), collections.defaultdict(list, k=nested), {1: nested}, {inner: 1},
    (nested, [b"x"]),
    frozenset({Box(inner), Box(frozenset())}),
):
    print(digest(value, 0, (Box, Pair)))
"""


def test_items_are_known_again_under_another_hash_seed() -> None:
    """Sets anywhere in an item have another order in each process; different ones are told apart."""
    printed = []
    for seed in range(6):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", _DIGESTS]
        printed.append(subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout)
    assert len(set(printed)) == 1
    assert len(set(printed[0].split())) == len(printed[0].split()) == 12


def test_other_items_have_another_digest() -> None:
    """By kind, by order where it counts, and by what blobs hold and where."""
    values: list[Any] = [
        *([1, 2], (1, 2), {1, 2}, frozenset({1, 2}), [2, 1], {"1": 2}, {1: 2}),
        *([b"a", b"b"], [b"b", b"a"], [bytearray(b"a"), b"b"], ["$bytes", 0], b"a", {b"a", b"b"}, {b"a", b"c"}),
        *({(b"a", b"b")}, {(b"b", b"a")}, "x" * 5000, "y" * 5000, ["$set", 1, 2], ["$set", 2, 1]),
    ]
    assert len({digest(value, 0) for value in values}) == len(values)


async def test_places_that_cannot_be(pool: aio.Pool, tmp_path: Path) -> None:
    """A directory, or a file in none."""
    for path in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            await echoed(pool, ["a"], path)


async def test_what_is_no_file(pool: aio.Pool, tmp_path: Path) -> None:
    """A device would be read for ever, a pipe waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (("/dev/zero", "a device"), ("/dev/full", "a device"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(ConfigurationError, match=f"the journal {path} is no regular file but {kind}"):
            await echoed(pool, ["a"], Path(path))


def test_results_keep_their_form() -> None:
    """Bytes that are no text, and every field."""
    result = ProcessResult(b"\xff\0", b"", 137, ("a", "b"), 0.25, True, ExitReason.SIGNALLED, 9)
    assert decode(json.loads(json.dumps(encode(result, "x")))) == result
    for value in ({"a": [1, None, "é"]}, {1, (2, b"\xff")}):
        assert decode(json.loads(json.dumps(encode(value, "x")))) == value
    with pytest.raises(ValueError, match="form"):
        decode({"process": {"stdout_bytes": "?"}})
    with pytest.raises(FunctionSerializationError, match="x is of type"):
        encode(object(), "x")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_fifty_times(tmp_path: Path) -> None:
    """A driver that is killed at random moments and started again loses and doubles no item."""
    path, out, count = tmp_path / "results", tmp_path / "out", 1500
    command = [sys.executable, str(ROOT / "tests" / "pool" / "driver.py"), str(path), str(count), str(out)]
    chance = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = 0
    for number in range(50):
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
        assert driver.stdout is not None
        driver.stdout.readline()
        time.sleep(chance.uniform(0, 0.03))  # the moment is what is random
        driver.send_signal(signal.SIGKILL)
        finished += driver.wait() == 0
        driver.stdout.close()
        if number == 25:
            assert journalled(path), "nothing was done in 25 runs"
    assert finished == 0, "the driver came to its end: nothing was tested"
    kept = journalled(path)
    assert 50 < len(kept) < count
    subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert out.read_text() == "".join(f"{number}\n" for number in range(count))
    after = journalled(path)
    assert after[: len(kept)] == kept
    assert sorted(after) == list(range(count))


def journalled(path: Path) -> list[int]:
    """List the items of a journal, in the order in which they were done."""
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line.partition(b" ")[2])["i"] for line in lines]


def test_a_journal_is_small_in_memory(tmp_path: Path) -> None:
    """Results stay on the disk until they are asked for."""

    async def fill() -> None:
        journal = Journal.open(tmp_path / "results", b"w", "w")
        for number in range(20):
            journal.add(number, "d", "x" * 1_000_000)
        await journal.close()

    asyncio.run(fill())
    import tracemalloc

    tracemalloc.start()
    journal = Journal.open(tmp_path / "results", b"w", "w")
    assert tracemalloc.get_traced_memory()[0] < 2_000_000
    tracemalloc.stop()
    assert journal.find(7, "d") == (True, "x" * 1_000_000)
    asyncio.run(journal.close())
