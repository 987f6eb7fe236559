"""What the local engine may leave on this machine, and whether it can run here at all."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest


def home() -> Path:
    """Return the state directory of the tests."""
    return Path(os.environ["AVIATO_HOME"])


@functools.cache
def why_not_local() -> str | None:
    """Start a real sandbox once and say why it cannot be done here, None when it can."""
    from aviato import aio
    from aviato.exceptions import AviatoError

    async def attempt() -> None:
        async with aio.Sandbox.run(engine="local") as sandbox:
            await sandbox.exec(["true"], check=True)

    try:
        asyncio.run(attempt())
    except AviatoError as error:
        return str(error)
    return None


def require_local() -> None:
    """Skip where the local engine cannot run, with the reason; in CI that is a failure."""
    reason = why_not_local()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the local engine must run in CI: {reason}")
        pytest.skip(f"the local engine cannot run here: {reason}")


def supervisors_alive(*, of_others: bool = False) -> list[int]:
    """List the processes that hold sandboxes of the tests' state directory, or of any other one."""
    marker = repr(str(home())).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"aviato.engines.local.supervisor" in line and (marker in line) is not of_others:
                found.append(int(entry.name))
    return found


def record_of(sandbox_id: str) -> dict[str, Any]:
    """Read a record as it lies on the disk."""
    document = json.loads((home() / "sandboxes" / sandbox_id / "record.json").read_text())
    record: dict[str, Any] = document["record"]
    return record


def init_of(sandbox_id: str) -> int:
    """Return the pid, on the host, of a sandbox's first process."""
    pid: int = record_of(sandbox_id)["init"]["pid"]
    return pid


def sandboxes_alive(patience: float = 5.0) -> list[str]:
    """List what is left of sandboxes of the tests' state directory once they have had time to end."""
    deadline = time.monotonic() + patience
    while True:
        left = [entry.name for entry in (home() / "sandboxes").glob("*")] if home().exists() else []
        left += [f"supervisor {pid}" for pid in supervisors_alive()]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


def sandboxes_running(patience: float = 5.0) -> list[str]:
    """List the sandboxes of the tests' state directory that have not ended once they have had time to."""
    deadline = time.monotonic() + patience
    while True:
        left = [path.parent.name for path in (home() / "sandboxes").glob("*/agent.sock")]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.01)


def groups_left() -> list[str]:
    """List control groups of sandboxes; none while another state directory has sandboxes of its own."""
    if supervisors_alive(of_others=True):
        return []
    return [str(path) for path in Path("/sys/fs/cgroup").glob("*/aviato*/sbx-*")] + [
        str(path) for path in Path("/sys/fs/cgroup").glob("aviato*/sbx-*")
    ]
