"""The agent of a real sandbox is killed or frozen while things go on: whoever waits is told, and it can be stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from aviato import aio
from aviato.exceptions import AviatoError, SandboxError
from tests.helpers.local import init_of, require_local
from tests.local.support import becomes, is_alive


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


async def endless() -> AsyncIterator[bytes]:
    """Give a piece, then nothing for ever."""
    yield b"x"
    await asyncio.Event().wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_everything_pending_settles(number: int) -> None:
    """A command, a read and a write end with an error of this library, and a stop asks the agent for nothing."""
    sandbox = await aio.Sandbox.run(engine="local")
    process = sandbox.exec(["sh", "-c", "echo up; sleep 1000"])
    assert await anext(aiter(process.stdout)) == "up\n"
    init = init_of(sandbox.sandbox_id)
    os.kill(init, number)
    if number == signal.SIGKILL:
        assert await becomes(lambda: not is_alive(init))
    requests = [sandbox.read_file("/etc/passwd"), sandbox.write_file_streaming("/tmp/x", endless())]
    tasks = [asyncio.ensure_future(request) for request in requests]
    async with asyncio.timeout(10):
        await asyncio.sleep(0)
        await sandbox.stop(graceful_shutdown_seconds=0.2, missing_ok=True)
        tasks[1].cancel()  # its own source of data would wait for ever
        results = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(SandboxError):
            await process
    assert isinstance(results[0], AviatoError)
    assert isinstance(results[1], AviatoError | asyncio.CancelledError)
    assert not is_alive(init)
