"""What a call of a remote function costs: one on a warm sandbox, many of them by `map`, and large values.

The baseline is `ProcessPoolExecutor`, which keeps processes and forks none for a call; ours forks for each call unless
`fresh=False`, which is measured beside it. What a fork costs is measured as well: the same interpreter, in a sandbox,
forks processes that end at once, one after another and in as many processes as there are processors; no way to run each
call in a fork of Python can be faster. Large values are compared with the same bytes through a pair of plain pipes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from common import Options, Row, interleave, main, peak, reset_peak

from aviato import aio
from aviato.aio.function import RemoteFunction

WIDTH = 8
LARGE = 100_000_000
_FORK = """
import os, sys, time
count, width = int(sys.argv[1]), int(sys.argv[2])
began = time.perf_counter()
def forks():
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
if width > 1:
    for _ in range(width):
        if not os.fork():
            forks()
            os._exit(0)
    for _ in range(width):
        os.wait()
else:
    forks()
print((time.perf_counter() - began) / count / width * 1e6)
"""
_RELAY = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer, 65536)"


def nothing(value: int) -> int:
    """Do nothing."""
    return value


def back(data: bytes) -> bytes:
    """Give it back."""
    return data


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    calls, items = options.count(400), options.count(10_000)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork) as executor:  # before any thread or loop of ours is there
        executor.submit(nothing, 1).result()
        with asyncio.Runner() as runner:
            session = aio.Session()
            forks = session.function(concurrency=WIDTH)(nothing)
            keeps = session.function(concurrency=WIDTH, fresh=False)(nothing)
            one = session.function(concurrency=1)(nothing)
            one_kept = session.function(concurrency=1, fresh=False)(nothing)
            carry = session.function(concurrency=1)(back)
            sandbox = runner.run(_ready(session, one, one_kept, carry))
            alone = interleave(
                {
                    "executor": lambda: [_timed_submit(executor) for _ in range(calls)],
                    "true": lambda: runner.run(_commands(sandbox, calls)),
                    "call": lambda: runner.run(_calls(one, calls)),
                    "fork": lambda: [runner.run(_forks(sandbox, calls, 1))],
                    "kept": lambda: runner.run(_calls(one_kept, calls)),
                },
                max(2, options.count(5)),
            )
            many = interleave(
                {
                    "executor": lambda: [_rate(lambda: sum(1 for _ in executor.map(nothing, range(items))), items)],
                    "map": lambda: [runner.run(_mapped(forks, items))],
                    "fork": lambda: [1e6 / runner.run(_forks(sandbox, items // 10, os.cpu_count() or 1))],
                    "kept": lambda: [runner.run(_mapped(keeps, items))],
                },
                max(2, options.count(3)),
            )
            growth = [runner.run(_growth(keeps, items))]
            large = interleave(
                {"pipe": lambda: [_pipe()], "call": lambda: [runner.run(_large(carry))]}, max(2, options.count(3))
            )
            memory = [runner.run(_large_memory(carry)) / LARGE]
            runner.run(session.close())
    base = "ProcessPoolExecutor, forked once"
    return [
        Row("call of a no-op function", "us", alone["call"], alone["executor"], base, "<= 5 x", ratio_limit=5),
        Row("the same with fresh=False", "us", alone["kept"], alone["executor"], base, ""),
        Row("the call", "us", alone["call"], alone["true"], "exec of true", "<= 3 x", ratio_limit=3),
        Row("the call", "us", alone["call"], alone["fork"], "a fork that ends at once", ""),
        Row(
            f"map of {items} no-op items, {WIDTH} sandboxes",
            "/s",
            many["map"],
            many["executor"],
            base,
            ">= 0.4 x",
            ratio_floor=0.4,
        ),
        Row(
            "the same map",
            "/s",
            many["map"],
            many["fork"],
            "forks that end at once, one loop a processor",
            "",
        ),
        Row(
            "the same with fresh=False",
            "/s",
            many["kept"],
            many["executor"],
            base,
            ">= 0.4 x",
            ratio_floor=0.4,
        ),
        Row(f"growth of memory over {items} further items", "MiB", growth, goal="<= 4 MiB", limit=4),
        Row(
            "100 MB argument and result",
            "MiB/s",
            large["call"],
            large["pipe"],
            "two plain pipes",
            ">= 0.2 x",
            ratio_floor=0.2,
        ),
        Row("peak of the client's memory for it, over the value", "x", memory, goal="<= 3 x", limit=3),
    ]


async def _ready(
    session: aio.Session,
    one: RemoteFunction[[int], int],
    kept: RemoteFunction[[int], int],
    carry: RemoteFunction[[bytes], bytes],
) -> aio.Sandbox:
    """Have every interpreter up, and return a sandbox for commands."""
    await asyncio.gather(one.remote(1), kept.remote(1), carry.remote(b""))
    return await session.sandbox()


def _timed_submit(executor: ProcessPoolExecutor) -> float:
    began = time.perf_counter()
    executor.submit(nothing, 1).result()
    return (time.perf_counter() - began) * 1e6


async def _calls(function: RemoteFunction[[int], int], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await function.remote(1)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


async def _commands(sandbox: aio.Sandbox, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await sandbox.exec(["true"])
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


async def _forks(sandbox: aio.Sandbox, count: int, width: int) -> float:
    """Return how many microseconds a fork takes that does nothing."""
    return float((await sandbox.exec(["python3", "-X", "utf8", "-c", _FORK, str(count), str(width)])).stdout)


def _rate(work: object, count: int) -> float:
    began = time.perf_counter()
    assert callable(work)
    work()
    return count / (time.perf_counter() - began)


def _items(count: int) -> Iterator[tuple[int]]:
    return ((number,) for number in range(count))


async def _mapped(function: RemoteFunction[[int], int], count: int) -> float:
    async for _ in function.map(_items(WIDTH * 4)):  # every sandbox up, with its interpreter
        pass
    began = time.perf_counter()
    done = 0
    async for _ in function.map(_items(count)):
        done += 1
    assert done == count
    return count / (time.perf_counter() - began)


async def _growth(function: RemoteFunction[[int], int], count: int) -> float:
    """Return by how many MiB the peak grows over so many items once everything is warm."""
    async for _ in function.map(_items(count // 10)):
        pass
    gc.collect()
    before = reset_peak()
    async for _ in function.map(_items(count)):
        pass
    return (peak() - before) / (1 << 20)


async def _large(function: RemoteFunction[[bytes], bytes]) -> float:
    data = bytes(LARGE)
    began = time.perf_counter()
    assert len(await function.remote(data)) == LARGE
    return 2 * LARGE / (1 << 20) / (time.perf_counter() - began)


async def _large_memory(function: RemoteFunction[[bytes], bytes]) -> float:
    """Return how much memory a call takes at its peak, its argument included."""
    gc.collect()
    before = reset_peak()
    result = await function.remote(os.urandom(LARGE))
    assert len(result) == LARGE
    return peak() - before


def _pipe() -> float:
    """Send the bytes to a process that sends them back, over plain pipes; MiB a second, both ways together."""
    with subprocess.Popen([sys.executable, "-c", _RELAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        data, out, source = memoryview(bytes(LARGE)), process.stdin, process.stdout.fileno()

        def send() -> None:
            for start in itertools.count(step=65536):
                if start >= LARGE:
                    break
                out.write(data[start : start + 65536])
            out.close()

        began = time.perf_counter()
        sender = threading.Thread(target=send)
        sender.start()
        size = 0
        while piece := os.read(source, 65536):
            size += len(piece)
        sender.join()
        assert size == LARGE
        return 2 * LARGE / (1 << 20) / (time.perf_counter() - began)


if __name__ == "__main__":
    main(measure)
