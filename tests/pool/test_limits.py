"""Limits on starts, on what runs and on the rate: within one pool, and shared between processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aviato import aio
from aviato.aio.pooling import limiter, pressure, slots
from aviato.exceptions import ConfigurationError
from aviato.models import Limits
from aviato.testing import FakeEngine
from tests.pool.test_keeper import until

ROOT = Path(__file__).parents[2]


def hold(name: str, *, starting: int = 4, running: int = 0, sandboxes: int) -> subprocess.Popen[str]:
    """Start another process that uses the same limits."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/pool/holder.py"), name, str(starting), str(running), str(sandboxes)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill and reap it at the end."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> int:
    """Read how many it has."""
    assert process.stdout is not None
    return int(process.stdout.readline())


async def test_running_is_shared_and_freed_by_death() -> None:
    """What another process holds is not there for this one, until that one is killed."""
    limits = Limits(name="shared-running", running=3)
    with ended(hold("shared-running", running=3, sandboxes=2)) as other:
        while await asyncio.to_thread(line, other) < 2:
            pass
        async with aio.Session(engine=FakeEngine()) as session:
            pool = session.pool(3, warm=3, limits=limits, reset="none")
            await until(lambda: pool.stats().created == 1)
            with pytest.raises(TimeoutError):
                async with pool.acquire(), pool.acquire(timeout=0.3):
                    raise AssertionError
            assert pool.stats().starting == 2
            other.kill()  # with SIGKILL, so nothing of it could tidy up
            await until(lambda: pool.stats().idle == 3)
    with ended(hold("shared-running", running=3, sandboxes=3)) as other:
        while await asyncio.to_thread(line, other) < 3:  # and what this process gave back is there again
            pass


async def test_starting_is_shared() -> None:
    """Two processes start no more at once than one may."""
    engine = FakeEngine()
    gate = asyncio.Event()
    engine.faults.stall("create", until=gate)
    async with aio.Session(engine=engine) as session:
        pool = session.pool(4, warm=4, limits=Limits(name="shared-starting", starting=2), reset="none")
        await until(lambda: engine.faults.fired["stall:create"] == 2)
        with ended(hold("shared-starting", starting=2, sandboxes=1)) as other:
            told = asyncio.create_task(asyncio.to_thread(line, other))
            done, _ = await asyncio.wait([told], timeout=1.0)
            assert not done
            assert engine.faults.fired["stall:create"] == 2
            gate.set()
            assert await told == 1
        await until(lambda: pool.stats().idle == 4)


async def test_the_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are spaced evenly, over two pools that share the limit."""
    moments: list[float] = []

    async def started(session: aio.Session) -> None:
        make = session.sandbox

        def sandbox(**config: Any) -> aio.Sandbox:
            moments.append(time.monotonic())
            return make(**config)

        monkeypatch.setattr(session, "sandbox", sandbox)
        pool = session.pool(3, warm=3, limits=Limits(name="rate", per_second=20), reset="none")
        await until(lambda: pool.stats().idle == 3)

    async with aio.Session(engine=FakeEngine()) as one, aio.Session(engine=FakeEngine()) as two:
        await asyncio.gather(started(one), started(two))
    moments.sort()
    assert moments[-1] - moments[0] >= 5 / 20 - 0.02


async def test_a_rate_of_an_earlier_boot_or_damaged_is_begun_anew(tmp_path: Path) -> None:
    """A clock that began again, and a file that is none, block nobody."""
    assert slots.reserve(tmp_path, 0.01) == 0
    assert 99 < slots.reserve(tmp_path, 0.01) <= 100
    text = (tmp_path / "rate").read_text()
    (tmp_path / "rate").write_text(text.replace('"boot": "', '"boot": "0'))
    assert slots.reserve(tmp_path, 0.01) == 0
    for damaged in (b"", b"\0\xff", b"[1]", b'{"boot": 3, "next": "x"}'):
        (tmp_path / "rate").write_bytes(damaged)
        assert slots.reserve(tmp_path, 0.01) == 0


async def test_waiting_for_a_slot_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment, and no slot is lost."""
    limits = Limits(name="cancelled", running=1, starting=1)
    one = limiter.Limiter(limits)
    release = await one.running()
    for turns in range(20):
        task = asyncio.create_task(limiter.Limiter(limits).running())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    release()
    release()
    async with asyncio.timeout(5):
        again = await one.running()
        async with one.starting():
            pass
        async with one.starting():
            pass
    again()


async def test_the_directories_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can hold a slot, and a directory that cannot be used is named."""
    limits = Limits(name="private", running=1)
    (await limiter.Limiter(limits).running())()
    folder = slots.folder("private")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    (tmp_path / "limits").write_text("in the way")
    monkeypatch.setenv("AVIATO_HOME", str(tmp_path))
    async with aio.Session(engine=FakeEngine()) as session:
        pool = session.pool(1, warm=0, limits=limits)
        with pytest.raises(ConfigurationError, match="of limits cannot be used"):
            async with pool.acquire():
                raise AssertionError


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # 3.12 warns of a fork beside a thread
def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """It closes what it inherited, and cannot give the parent's slot away."""
    slot = slots.try_slot(tmp_path, "running", 1)
    assert slot is not None
    reading, writing = os.pipe()
    waiting, ending = os.pipe()
    child = os.fork()
    if not child:
        slot.release()
        os.write(writing, b"x")
        os.read(waiting, 1)
        os._exit(0)
    try:
        os.read(reading, 1)
        assert slots.try_slot(tmp_path, "running", 1) is None
        slot.release()  # the child lives, and still it is free
        other = slots.try_slot(tmp_path, "running", 1)
        assert other is not None
        other.release()
    finally:
        os.write(ending, b"x")
        os.waitpid(child, 0)
        for number in (reading, writing, waiting, ending):
            os.close(number)


async def test_a_large_pool_starts_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any number given, as many as the machine can bear."""
    monkeypatch.setattr(limiter, "startable", lambda: 3)
    engine = FakeEngine()
    gate = asyncio.Event()
    engine.faults.stall("create", until=gate)
    async with aio.Session(engine=engine) as session:
        pool = session.pool(100, warm=100, reset="none")
        await until(lambda: engine.faults.fired["stall:create"] == 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert engine.faults.fired["stall:create"] == 3
        gate.set()
        await until(lambda: pool.stats().idle == 100)


def test_what_the_machine_can_bear(tmp_path: Path) -> None:
    """Fewer when processors are wanted, one when memory is short, and the usual number where nothing is told."""
    usual = 2 * pressure.processors()
    assert pressure.startable(str(tmp_path)) == usual
    (tmp_path / "pressure").mkdir()
    cpu, memory, free = tmp_path / "pressure/cpu", tmp_path / "pressure/memory", tmp_path / "meminfo"
    free.write_text("MemTotal: 9 kB\nMemAvailable:   16000000 kB\n")
    cpu.write_text("some avg10=0.00 avg60=99.00 avg300=0.00 total=1\n")
    memory.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00\n")
    assert pressure.startable(str(tmp_path)) == usual
    cpu.write_text("some avg10=75.10 avg60=0.00 avg300=0.00 total=1\n")
    assert pressure.startable(str(tmp_path)) == pressure.processors()
    free.write_text("MemAvailable: 70000 kB\n")
    assert pressure.startable(str(tmp_path)) == 1
    free.write_text("nothing")
    memory.write_text("some avg10=25.00 avg60=0.00 avg300=0.00 total=1\n")
    assert pressure.startable(str(tmp_path)) == 1
    assert pressure.startable() >= 1


def test_bad_limits_are_named() -> None:
    """At once, with the right form."""
    slips: list[tuple[dict[str, Any], str]] = [
        ({"starting": 0}, "starting must be at least 1"),
        ({"running": -1}, "running must be at least 1"),
        ({"per_second": 0}, "per_second must be from"),
        ({"per_second": float("nan")}, "per_second must be from"),
        ({"name": "../x"}, "name must be 1 to 64"),
        ({"name": ""}, "name must be 1 to 64"),
    ]
    for options, said in slips:
        with pytest.raises(ValueError, match=said):
            Limits(**options)
    wrong: list[dict[str, Any]] = [{"starting": 1.5}, {"running": True}, {"per_second": "5"}]
    for options in wrong:
        with pytest.raises(TypeError):
            Limits(**options)
