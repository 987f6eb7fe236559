"""What a pool costs: taking a sandbox that is ready, and a thousand short rollouts over 32 sandboxes.

A rollout writes a file, runs `python` on it and reads the file that it wrote. The baseline does the same in a directory
of its own with a bare subprocess, 32 at a time; the pool resets each sandbox between two rollouts besides.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from common import Options, Row, interleave, main

from aviato import aio

WIDTH = 32
PYTHON = str(Path(sys.executable).resolve())
"""The interpreter that `python` is in a sandbox; that of a virtual environment may have less to import."""
PROGRAM = "open('result', 'w').write(str(sum(range(1000))))\n"


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    rollouts = options.count(1000)
    with asyncio.Runner() as runner:
        taking = interleave(
            {"create": lambda: runner.run(_create()), "acquire": lambda: runner.run(_acquire())}, options.count(20)
        )
        rolling = interleave(
            {"bare": lambda: [runner.run(_bare(rollouts))], "pool": lambda: [runner.run(_pool(rollouts))]},
            max(2, options.count(5)),
        )
        cycles = runner.run(_cycles(options.count(300)))
    return [
        Row(
            "acquire from a warm pool",
            "ms",
            taking["acquire"],
            taking["create"],
            "create until it runs",
            "<= 0.1 x",
            ratio_limit=0.1,
        ),
        Row(
            f"{rollouts} rollouts over {WIDTH} sandboxes",
            "s",
            rolling["pool"],
            rolling["bare"],
            "a bare subprocess each",
            "<= 1.5 x",
            ratio_limit=1.5,
        ),
        Row("acquire, give back, reset, acquire", "ms", cycles, [], "", ""),
    ]


async def _create() -> list[float]:
    async with aio.Session() as session:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            await session.sandbox()
            taken.append((time.perf_counter() - began) * 1e3)
        return taken


async def _acquire() -> list[float]:
    async with aio.Session() as session, session.pool(5, warm=5) as pool:
        while pool.stats().idle < 5:  # noqa: ASYNC110 - the benchmark waits for a warm pool
            await asyncio.sleep(0.005)
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            async with pool.acquire():
                taken.append((time.perf_counter() - began) * 1e3)
        return taken


async def _cycles(count: int) -> list[float]:
    async with aio.Session() as session, session.pool(1) as pool:
        async with pool.acquire():
            pass
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            async with pool.acquire():
                taken.append((time.perf_counter() - began) * 1e3)
        return taken


async def _all(one: Callable[[], Awaitable[None]], count: int) -> float:
    """Do something so often, at most `WIDTH` at a time, and return the seconds it took."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WIDTH)))
    return time.perf_counter() - began


async def _pool(count: int) -> float:
    async with aio.Session() as session, session.pool(WIDTH, warm=WIDTH) as pool:
        while pool.stats().idle < WIDTH:  # noqa: ASYNC110 - the benchmark waits for a warm pool
            await asyncio.sleep(0.005)

        async def one() -> None:
            async with pool.acquire() as sandbox:
                await sandbox.write_file("/workspace/task.py", PROGRAM)
                await sandbox.exec(["python", "task.py"], cwd="/workspace", check=True)
                assert await sandbox.read_file("/workspace/result") == b"499500"

        taken = await _all(one, count)
        assert pool.stats().created == WIDTH, pool.stats()
        return taken


async def _bare(count: int) -> float:
    async def one() -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "task.py").write_text(PROGRAM)
            process = await asyncio.create_subprocess_exec(PYTHON, "task.py", cwd=folder)
            assert await process.wait() == 0
            assert (Path(folder) / "result").read_bytes() == b"499500"

    return await _all(one, count)


if __name__ == "__main__":
    main(measure)
