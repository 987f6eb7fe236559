"""Ending a process together with its children while they are still being born."""

from __future__ import annotations

import contextlib
import os
import signal
import time

PATIENCE_SECONDS = 0.05


def kill_with_children(pid: int) -> None:
    """Kill a child process of ours and its children, none of which can get away.

    It is stopped first, so that it can neither fork again nor reap: until it does, its children's process ids
    cannot be given to anybody else. Without a control group there is no other way to reach a child that has not
    yet arranged to die with its parent.
    """
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _state(pid) not in "TtZX" and time.monotonic() < deadline:
        time.sleep(0.001)
    for child in _children(pid):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _stat(pid: int | str) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _children(pid: int) -> list[int]:
    """List the children of a process: from the kernel's own list where it keeps one, else from everybody's parent."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _stat(name)[1] == str(pid)]
