"""A command in a running sandbox, against starting the same program directly on the host.

The command is `true`. The baseline is `os.posix_spawn` and `waitpid`. Measured one after another, on the core and
through the facade, and 32 at once, in one sandbox and in 32. Creating and stopping the sandboxes is not included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from common import TRUE, Options, Row, interleave, main, spawn_many, spawn_true, timed, timed_await

import aviato
from aviato import aio

AT_ONCE = 32
BATCH = 50


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    with asyncio.Runner() as runner, aviato.Sandbox.run() as facade:
        native = aio.Session()

        async def start() -> list[aio.Sandbox]:
            sandboxes = [native.sandbox() for _ in range(AT_ONCE)]
            for sandbox in sandboxes:
                await sandbox.exec(["true"])
            return sandboxes

        sandboxes = runner.run(start())
        facade.exec(["true"]).result()
        try:
            return [
                *_one_after_another(runner, sandboxes[0], facade, options),
                *_at_once(runner, sandboxes, options),
            ]
        finally:
            runner.run(native.close())


def _one_after_another(
    runner: asyncio.Runner, native: aio.Sandbox, facade: aviato.Sandbox, options: Options
) -> list[Row]:
    async def batch() -> list[float]:
        return [await timed_await(native.exec(["true"])) for _ in range(BATCH)]

    samples = interleave(
        {
            "spawn": lambda: [timed(spawn_true) for _ in range(BATCH)],
            "aio": lambda: runner.run(batch()),
            "facade": lambda: [timed(lambda: facade.exec(["true"]).result()) for _ in range(BATCH)],
        },
        options.count(40),
    )
    return [
        Row(
            f"exec of true, one after another, {name}",
            "ms",
            samples[name],
            samples["spawn"],
            "os.posix_spawn + waitpid",
            f"<= {limit} x",
            ratio_limit=limit,
        )
        for name, limit in (("aio", 1.6), ("facade", 1.7))
    ]


def _at_once(runner: asyncio.Runner, sandboxes: Sequence[aio.Sandbox], options: Options) -> list[Row]:
    number = options.count(3200)
    each = number // AT_ONCE

    async def worker(sandbox: aio.Sandbox) -> None:
        for _ in range(each):
            result = await sandbox.exec(["true"])
            assert result.returncode == 0

    async def all_at_once(used: Sequence[aio.Sandbox]) -> None:
        await asyncio.gather(*(worker(used[index % len(used)]) for index in range(AT_ONCE)))

    cpu: dict[int, list[float]] = {1: [], AT_ONCE: []}

    def ours(used: Sequence[aio.Sandbox]) -> list[float]:
        start, busy = time.perf_counter(), time.process_time()
        runner.run(all_at_once(used))
        wall, spent = time.perf_counter() - start, time.process_time() - busy
        cpu[len(used)].append(spent / (each * AT_ONCE) * 1e6)
        return [each * AT_ONCE / wall]

    def host() -> list[float]:
        start = time.perf_counter()
        spawn_many([TRUE], each * AT_ONCE, AT_ONCE)
        return [each * AT_ONCE / (time.perf_counter() - start)]

    samples = interleave(
        {"host": host, "one": lambda: ours(sandboxes[:1]), "many": lambda: ours(sandboxes)}, 3 if options.quick else 5
    )
    rows = []
    for name, place, used in (("one", "one sandbox", 1), ("many", f"{AT_ONCE} sandboxes", AT_ONCE)):
        rows += [
            Row(
                f"exec of true, {AT_ONCE} at once, {place}",
                "/s",
                samples[name],
                samples["host"],
                f"os.posix_spawn, {AT_ONCE} at once",
                ">= 0.9 x",
                ratio_floor=0.9,
            ),
            Row(f"client CPU an exec, {AT_ONCE} at once, {place}", "us", cpu[used], goal="<= 40 us", limit=40),
        ]
    return rows


if __name__ == "__main__":
    main(measure)
