"""How many sandboxes this machine can start at once just now."""

from __future__ import annotations

import os
import time
from pathlib import Path

FRESH_SECONDS = 0.5
"""How long an answer serves."""
STALLED_CPU = 60.0
"""Percent of the last ten seconds in which something waited for a processor, above which fewer are started."""
STALLED_MEMORY = 10.0
"""Likewise for memory."""
_PER_SANDBOX = 64 << 20
"""Bytes of available memory for each that starts."""

_answer: tuple[float, int] = (0.0, 0)


def startable(root: str = "/proc") -> int:
    """Return how many may start at once, 1 or more; cheap to call often.

    Twice the processors that this process may use; as many as processors when others wait for them; one when memory
    is short. Where Linux tells nothing of the kind, it is twice the processors.
    """
    global _answer  # noqa: PLW0603 - the machine is one, too
    now = time.monotonic()
    if root == "/proc" and _answer[1] and now - _answer[0] < FRESH_SECONDS:
        return _answer[1]
    count = _startable(root)
    if root == "/proc":
        _answer = (now, count)
    return count


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _startable(root: str) -> int:
    count = 2 * processors()
    if _stalled(f"{root}/pressure/cpu") > STALLED_CPU:
        count = processors()
    if _stalled(f"{root}/pressure/memory") > STALLED_MEMORY:
        return 1
    free = _available(f"{root}/meminfo")
    return count if free is None else max(1, min(count, free // _PER_SANDBOX))


def _stalled(path: str) -> float:
    """Return the percentage of the last ten seconds in which some task waited, 0 where it is not told."""
    try:
        text = Path(path).read_text(encoding="ascii")
        return float(text.partition("avg10=")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0


def _available(path: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii")
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None
