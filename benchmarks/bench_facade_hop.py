"""What it costs to cross from a thread into the facade's event loop and back, with nothing to do there.

The operation is a coroutine that returns at once; no sandbox is involved. The baseline runs the same coroutine on
the same loop by `asyncio.run_coroutine_threadsafe(...).result()`.
"""

from __future__ import annotations

import asyncio
import time

from common import Options, Row, interleave, main

from aviato_sync import _runtime
from aviato_sync._operation import OperationRef

IN_FLIGHT = 1000
BATCH = 500


async def no_op() -> None:
    """Do nothing."""


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    home = _runtime.home()

    def start() -> OperationRef[None]:
        return OperationRef._started(home, None, no_op, (), {})  # noqa: SLF001 - what every method of the facade calls

    def ours() -> list[float]:
        begin = time.perf_counter()
        for _ in range(BATCH):
            start().result()
        return [(time.perf_counter() - begin) / BATCH * 1e6]

    def theirs() -> list[float]:
        begin = time.perf_counter()
        for _ in range(BATCH):
            asyncio.run_coroutine_threadsafe(no_op(), home.loop).result()
        return [(time.perf_counter() - begin) / BATCH * 1e6]

    def ours_in_flight() -> list[float]:
        begin = time.perf_counter()
        refs = [start() for _ in range(IN_FLIGHT)]
        for ref in refs:
            ref.result()
        return [(time.perf_counter() - begin) / IN_FLIGHT * 1e6]

    def theirs_in_flight() -> list[float]:
        begin = time.perf_counter()
        futures = [asyncio.run_coroutine_threadsafe(no_op(), home.loop) for _ in range(IN_FLIGHT)]
        for future in futures:
            future.result()
        return [(time.perf_counter() - begin) / IN_FLIGHT * 1e6]

    samples = interleave(
        {"ours": ours, "theirs": theirs, "ours many": ours_in_flight, "theirs many": theirs_in_flight},
        options.count(60),
    )
    versus = "run_coroutine_threadsafe(...).result()"
    return [
        Row(
            "facade round trip of a no-op",
            "us",
            samples["ours"],
            samples["theirs"],
            versus,
            "<= 0.75 x",
            ratio_limit=0.75,
        ),
        Row(
            f"the same, {IN_FLIGHT} in flight, each",
            "us",
            samples["ours many"],
            samples["theirs many"],
            versus,
            "<= 0.4 x",
            ratio_limit=0.4,
        ),
    ]


if __name__ == "__main__":
    main(measure)
