"""What the tests of the local engine look at from outside: records, processes, and clients to be killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.local import record_of

ROOT = Path(__file__).parents[2]

CLIENT = """
import asyncio, sys
from aviato import aio

async def main():
    sandbox = await aio.Sandbox.run(engine="local", detached={detached})
    await sandbox.exec(["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"], check=True)
    print(sandbox.sandbox_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


async def becomes(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait until something outside is as it should be, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class Client:
    """A process that holds one sandbox, to be killed."""

    def __init__(self, *, detached: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT.format(detached=detached)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.sandbox_id = self.process.stdout.readline().strip()
        assert self.sandbox_id.startswith("sbx-")
        self.record = record_of(self.sandbox_id)
        self.init = int(self.record["init"]["pid"])
        self.supervisor = int(self.record["supervisor"]["pid"])

    def kill(self) -> None:
        """Kill it without a warning, and reap it."""
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
