"""A small sandbox to attack the machine from, and what must hold after each attack."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aviato import aio
from tests.helpers.local import groups_left, init_of, require_local
from tests.isolation.inside import LIMITS, python
from tests.local.support import becomes, is_alive


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.fixture
async def sandbox() -> AsyncIterator[aio.Sandbox]:
    """A small sandbox; afterwards the machine can still fork, and all of it is gone soon after the grace."""
    made = await aio.Sandbox.run(engine="local", resources=LIMITS)
    init = init_of(made.sandbox_id)
    namespace = await _namespace_of(made)
    assert namespace != os.readlink("/proc/self/ns/pid")
    yield made
    assert subprocess.run(["true"], check=False, timeout=20).returncode == 0
    began = time.monotonic()
    await made.stop(graceful_shutdown_seconds=0.2)
    assert time.monotonic() - began < 2.2
    assert await becomes(lambda: not is_alive(init))
    assert _processes_in(namespace) == []
    assert not [path for path in groups_left() if made.sandbox_id in path]


async def _namespace_of(sandbox: aio.Sandbox) -> str:
    """Name its process namespace, which inside has the same name as outside."""
    return await python(sandbox, "import os; print(os.readlink('/proc/self/ns/pid'))")


def _processes_in(namespace: str) -> list[str]:
    """List what runs in a process namespace, as far as this user may see."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == namespace:
                    found.append(entry.name)
    return found
