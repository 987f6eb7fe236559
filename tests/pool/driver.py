"""A driver that maps over items with a journal, for tests that kill it: `driver.py JOURNAL COUNT OUT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aviato import aio
from aviato.testing import FakeEngine


async def main(journal: str, count: int) -> str:
    """Return all that was yielded."""
    async with aio.Session(engine=FakeEngine()) as session, session.pool(4, reset="none") as pool:
        results = pool.map(["echo", "{}"], range(count), journal=journal)
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        return "".join([result.stdout async for result in results])


Path(sys.argv[3]).write_text(asyncio.run(main(sys.argv[1], int(sys.argv[2]))))
