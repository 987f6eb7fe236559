"""Ten thousand sandboxes at once, in memory: all settle, none is left, and the memory is bounded."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

import aviato
from aviato import aio
from aviato.testing import FakeEngine

pytestmark = pytest.mark.fault("F13")

NUMBER = 10_000


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_ten_thousand_at_once() -> None:
    """Every second one has a command, some fail to start, some are stopped before they run."""
    engine = FakeEngine(missing_images=["no/such:1"])
    session = aio.Session(engine=engine)
    sandboxes = [
        session.sandbox(container_image="no/such:1") if number % 100 == 7 else session.sandbox()
        for number in range(NUMBER)
    ]
    assert len({sandbox.sandbox_id for sandbox in sandboxes}) == NUMBER
    processes = [sandbox.exec(["echo", sandbox.sandbox_id]) for sandbox in sandboxes[::2]]
    stops = [asyncio.ensure_future(sandbox.stop(graceful_shutdown_seconds=0)) for sandbox in sandboxes[1::200]]
    outcomes = await asyncio.gather(*(process.result() for process in processes), return_exceptions=True)
    await asyncio.gather(*stops, return_exceptions=True)
    for sandbox, outcome in zip(sandboxes[::2], outcomes, strict=True):
        assert isinstance(outcome, aviato.ProcessResult), outcome
        assert outcome.stdout == f"{sandbox.sandbox_id}\n"
    with pytest.raises(aviato.SandboxError, match="100 "):
        await session.close()
    assert session.sandbox_count == 0
    assert [one for one in engine.machine.sandboxes.values() if not one.info.status.is_terminal] == []


async def test_commands_do_not_pile_up() -> None:
    """Thousands of commands one after the other leave no memory behind."""
    async with aio.Session(engine=FakeEngine()) as session:
        sandbox = session.sandbox()

        async def some(number: int) -> None:
            for _ in range(number):
                await sandbox.exec(["echo", "x" * 1000])

        await some(200)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await some(1500)
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert growth < 3 << 20, f"{growth >> 10} KiB"
