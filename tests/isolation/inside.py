"""Short ways to run something in a sandbox of the local engine."""

from __future__ import annotations

import os

import pytest

from aviato import aio

AS_ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="takes root to plant")
PROCESSES = 48
LIMITS = {"memory": "96Mi", "disk": "16Mi", "processes": PROCESSES}


async def shell(sandbox: aio.Sandbox, script: str) -> str:
    """Run a script and give what it wrote on both streams."""
    return (await sandbox.exec(["sh", "-c", f"exec 2>&1\n{script}"], timeout_seconds=50)).stdout


async def python(sandbox: aio.Sandbox, program: str, *, user: str | int | None = None) -> str:
    """Run a Python program, which must succeed, and give what it printed."""
    done = await sandbox.exec(["python3", "-c", program], timeout_seconds=50, check=True, user=user)
    return done.stdout.strip()


async def answers(sandbox: aio.Sandbox) -> None:
    """The agent still starts commands."""
    assert (await sandbox.exec(["echo", "here"], check=True, timeout_seconds=30)).stdout == "here\n"


async def started(process: aio.Process) -> None:
    """Wait until a program says that it is."""
    async for line in process.stdout:
        assert line.strip() in {"started", "up"}
        return
