"""From nothing to the first result, and many sandboxes at once, against bare bubblewrap.

A start is timed from `session.sandbox()` to the result of `true`, with every protection on and the launcher warm; the
first one of a process, which starts the launcher, stands in the facts. The baseline is `bwrap --unshare-all … true`,
which sets up far less: no id shift, no seccomp, no cgroup, no limits, no agent. Memory is PSS of everything that
descends from this process, divided by the number of sandboxes; it can be read by root only.
"""

from __future__ import annotations

import asyncio
import time

from common import (
    Options,
    Row,
    agents,
    bare_bwrap,
    descendants,
    interleave,
    main,
    pss_bytes,
    spawn_many,
    statistic,
    timed,
    timed_await,
)

from aviato import aio

FLEET = 200
CROWD = 1000
BWRAPS_AT_ONCE = 32


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    with asyncio.Runner() as runner:
        return [*_first_result(runner, options), *_fleet(runner, options), *_crowd(runner, options)]


def _first_result(runner: asyncio.Runner, options: Options) -> list[Row]:
    async def first() -> float:
        async with aio.Session() as session:
            start = time.perf_counter()
            result = await session.sandbox().exec(["true"])
            taken = (time.perf_counter() - start) * 1e3
            assert result.returncode == 0
        return taken

    cold = runner.run(first())
    bare = bare_bwrap("true")
    samples = interleave(
        {
            "bwrap": lambda: [timed(lambda: spawn_many(bare, 1, 1)) for _ in range(5)],
            "ours": lambda: [runner.run(first()) for _ in range(5)],
        },
        options.count(20),
    )
    return [
        Row(
            "create -> first result of true",
            "ms",
            samples["ours"],
            samples["bwrap"],
            "bare bwrap --unshare-all true",
            "<= 6 x",
            ratio_limit=6,
            facts={"the first of the process, launcher not running yet": f"{cold:.1f} ms"},
        )
    ]


def _fleet(runner: asyncio.Runner, options: Options) -> list[Row]:
    number = options.count(FLEET)
    memory: list[float] = []
    failures: list[BaseException] = []

    async def once() -> None:
        async with aio.Session() as session:
            sandboxes = [session.sandbox() for _ in range(number)]
            processes = [sandbox.exec(["true"]) for sandbox in sandboxes]
            ends = await asyncio.gather(*processes, return_exceptions=True)
            failures.extend(end for end in ends if isinstance(end, BaseException))

    async def weigh() -> None:
        async with aio.Session() as session:
            sandboxes = [session.sandbox() for _ in range(number)]
            await asyncio.gather(*(sandbox.exec(["true"]) for sandbox in sandboxes))
            used = pss_bytes(descendants())
            if used is not None:
                memory.append(used / number / 2**20)

    bare = bare_bwrap("true")
    samples = interleave(
        {
            "bwrap": lambda: [timed(lambda: spawn_many(bare, number, BWRAPS_AT_ONCE)) / 1e3],
            "ours": lambda: [timed(lambda: runner.run(once())) / 1e3],
        },
        3,
    )
    runner.run(weigh())
    rows = [
        Row(
            f"{number} sandboxes created, one exec each, closed",
            "s",
            samples["ours"],
            samples["bwrap"],
            f"{number} bare bwrap runs, {BWRAPS_AT_ONCE} at once",
            "<= 8 x, none fails",
            ratio_limit=8,
            facts={"failed": len(failures), **({"first failure": repr(failures[0])} if failures else {})},
        )
    ]
    if memory:
        rows.append(Row(f"memory a sandbox, {number} live (PSS)", "MiB", memory, goal="<= 8 MiB", limit=8))
    return rows


def _crowd(runner: asyncio.Runner, options: Options) -> list[Row]:
    number = options.count(CROWD)

    async def one_after_another(sandboxes: list[aio.Sandbox], count: int) -> list[float]:
        return [await timed_await(sandboxes[index % len(sandboxes)].exec(["true"])) for index in range(count)]

    async def run() -> Row:
        async with aio.Session() as session:
            alone = session.sandbox()
            await alone.exec(["true"])
            idle = await one_after_another([alone], number)
            start = time.perf_counter()
            sandboxes = [session.sandbox() for _ in range(number)]
            ends = await asyncio.gather(*(sandbox.exec(["true"]) for sandbox in sandboxes), return_exceptions=True)
            up = time.perf_counter() - start
            failed = [end for end in ends if isinstance(end, BaseException)]
            live = len(agents())
            usable = [box for box, end in zip(sandboxes, ends, strict=True) if not isinstance(end, BaseException)]
            crowded = await one_after_another(usable, number) if usable else []
            start = time.perf_counter()
        return Row(
            f"exec with {number} sandboxes live",
            "ms",
            crowded,
            idle,
            "the same with one sandbox live",
            "p99 <= 5 x, none fails",
            ratio_limit=5,
            statistic="p99",
            facts={
                "all up with a result": f"{up:.2f} s",
                "closed in": f"{time.perf_counter() - start:.2f} s",
                "live at once": live,
                "failed": len(failed),
                "median": f"{statistic(crowded, 'median'):.2f} ms" if crowded else "-",
                **({"first failure": repr(failed[0])} if failed else {}),
                "left when closed": len(agents()),
            },
        )

    return [runner.run(run())]


if __name__ == "__main__":
    main(measure)
