"""Holds what limits of a name allow until it is killed: `holder.py NAME STARTING RUNNING SANDBOXES`."""

from __future__ import annotations

import asyncio
import sys

from aviato import aio
from aviato.models import Limits
from aviato.testing import FakeEngine


async def main(name: str, starting: int, running: int, sandboxes: int) -> None:
    """Say how many it got, each time."""
    limits = Limits(name=name, starting=starting, running=running or None)
    async with aio.Session(engine=FakeEngine()) as session:
        pool = session.pool(sandboxes, warm=sandboxes, limits=limits, reset="none")
        told = 0
        while True:
            if pool.stats().created > told:
                told = pool.stats().created
                sys.stdout.write(f"{told}\n")
                sys.stdout.flush()
            await asyncio.sleep(0.005)


asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
