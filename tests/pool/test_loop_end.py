"""The end of a loop on which a pool is still open: nothing begins on it any more, and nothing is complained about."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from aviato import aio
from aviato.exceptions import SandboxError, SandboxTerminatedError
from aviato.testing import FakeEngine
from tests.pool.test_keeper import keep, until

PROGRAM = """
import asyncio, sys
from aviato import aio

async def main():
    session = aio.Session(engine="local")
    pool = session.pool(2)
    async def use():
        async with pool.acquire() as sandbox:
            await sandbox.exec(["sleep", "60"])
    moment = sys.argv[1]
    if moment == "used":
        user = asyncio.create_task(use())
    if moment == "begun":
        await asyncio.sleep(0)
    while moment in ("idle", "used") and not pool.stats().idle:
        await asyncio.sleep(0.01)
    if moment == "alone":
        await session.sandbox().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["at once", "begun", "idle", "used", "alone"])
def test_nothing_is_begun_and_left(moment: str) -> None:
    """Whether sandboxes start, are idle or in use, the end of `asyncio.run` says nothing and ends them all."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM, moment], capture_output=True, text=True, timeout=60, check=False
    )
    fine = (
        "Executing <",  # slow, in debug mode
        "the failure of command 'sleep'",  # whose connection broke, and nobody waited for it any more
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith(fine)]
    assert (done.returncode, said) == (0, [])


async def test_a_cancelled_task_closes_and_close_still_stops() -> None:
    """Who cancels all tasks gets a closed pool, without a new start; what it left is stopped by `close`."""
    async with aio.Session(engine=FakeEngine()) as session:
        keeper = keep(session, most=2, warm=2)
        keeper.begin()
        await until(lambda: keeper.counts["idle"] == 2)
        kept = await keeper.take()
        giving = asyncio.create_task(keeper.give_back(kept, reusable=False))
        while not keeper.counts["stopping"]:  # noqa: ASYNC110 - it stops within a few turns of the loop
            await asyncio.sleep(0)
        next(task for task in asyncio.all_tasks() if task.get_name() == "aviato-retire").cancel()
        await asyncio.gather(giving, return_exceptions=True)
        assert keeper.closed
        assert keeper.counts["starting"] == 0
        with pytest.raises(SandboxError, match="is closed"):
            await keeper.take()
        await keeper.close()
        assert kept.sandbox.status.is_terminal
        assert session.sandbox_count == 0


async def test_a_start_that_another_ended_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits gets an error, and the next one a sandbox."""
    async with aio.Session(engine=FakeEngine()) as session:
        keeper = keep(session, most=1)
        real = aio.Sandbox.wait

        async def cancelled(_: aio.Sandbox) -> None:
            monkeypatch.setattr(aio.Sandbox, "wait", real)
            raise asyncio.CancelledError

        monkeypatch.setattr(aio.Sandbox, "wait", cancelled)
        with pytest.raises(SandboxTerminatedError, match="was stopped by another while it started"):
            await keeper.take(10)
        await keeper.give_back(await keeper.take(10), reusable=True)
        assert not keeper.closed
