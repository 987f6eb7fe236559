"""What a test may leave in this process: descriptors, child processes, mounts."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

KINDS = ("socket:", "pipe:", "anon_inode:[pidfd]", "/memfd:")


def descriptors() -> Counter[str]:
    """Count the open descriptors that a sandbox's client uses, by kind."""
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        for kind in KINDS:
            if target.startswith(kind):
                found[kind] += 1
    return found


def children() -> list[str]:
    """List the child processes but the supervisors, which live as long as their engine."""
    found = []
    me = str(os.getpid())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if fields[1] == me and not name.startswith("aviato-super"):
            found.append(f"{entry.name} {name} ({fields[0]})")
    return found


def mounts() -> list[str]:
    """List what is mounted under the tests' state directory."""
    home = os.environ["AVIATO_HOME"]
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line]


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait until a condition about this process holds; what closes it may run on another thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True
