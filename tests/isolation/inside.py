"""Short ways to run something in a sandbox of the local engine."""

from __future__ import annotations

import os

import pytest

from aviato import aio

AS_ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="takes root to plant")
SECRET = "secret-of-this-machine"


async def shell(sandbox: aio.Sandbox, script: str) -> str:
    """Run a script and give what it wrote on both streams."""
    return (await sandbox.exec(["sh", "-c", f"exec 2>&1\n{script}"], timeout_seconds=50)).stdout


async def python(sandbox: aio.Sandbox, program: str, *, user: str | int | None = None) -> str:
    """Run a Python program, which must succeed, and give what it printed."""
    done = await sandbox.exec(["python3", "-c", program], timeout_seconds=50, check=True, user=user)
    return done.stdout.strip()
