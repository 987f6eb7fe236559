"""The wall clock jumps: durations and limits go by a clock that does not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aviato
from aviato import aio
from tests.helpers.local import require_local

pytestmark = pytest.mark.fault("F6")

ROOT = Path(__file__).parents[2]
HOURS = (-87_600, -1, 1, 87_600)


@pytest.mark.parametrize("hours", HOURS)
async def test_limits_of_a_client_whose_clock_jumps(engine: Any, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a command's time limit nor a sandbox's lifetime passes early or late."""
    real = time.time
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox(max_lifetime_seconds=600)
        await sandbox
        process = sandbox.exec(["cat"], stdin=True, timeout_seconds=300)
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
        late = sandbox.exec(["sleep", "600"], timeout_seconds=0.3)
        with pytest.raises(aviato.SandboxTimeoutError):
            await asyncio.wait_for(late.result(), 30)
        with pytest.raises(TimeoutError):
            await sandbox.wait_until_complete(timeout=0.3)
        assert process.stdin is not None
        await process.stdin.close()
        result = await process
        assert result.returncode == 0
        assert 0 <= result.duration_seconds < 60
        assert await sandbox.get_status() == "running"


PROGRAM = """
import asyncio, sys, time
from aviato import aio

shift = float(sys.argv[1])

async def main():
    async with aio.Session(engine="local") as session:
        sandbox = session.sandbox(max_lifetime_seconds=60, idle_timeout_seconds=60)
        await sandbox
        time.clock_settime(time.CLOCK_REALTIME, time.time() + shift)
        try:
            print((await sandbox.exec(["sh", "-c", "sleep 0.2; echo on"], timeout_seconds=30)).stdout.strip())
            print(await sandbox.get_status())
            print(len(await aio.Sandbox.list(engine="local")))
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.time() - shift)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can set a clock")
@pytest.mark.skipif(os.environ.get("AVIATO_TEST_SET_CLOCK") != "1", reason="AVIATO_TEST_SET_CLOCK=1 allows it")
@pytest.mark.parametrize("hours", HOURS)
def test_the_machines_clock_jumps(hours: int, tmp_path: Path) -> None:
    """The supervisor and the agent keep to the monotonic clock as well."""
    require_local()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(hours * 3600)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "AVIATO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.split() == ["on", "running", "1"], done.stderr
