"""Which faults the tests let happen: each counts only when a test that brought it about has passed.

A run of everything fails when one of them never happened, so that a fault cannot drop out of the tests unnoticed.
"""

from __future__ import annotations

from collections import Counter

import pytest

FAULTS = {
    "F6": "the wall clock jumps",
    "F7": "the client is killed",
    "F8": "the client is interrupted or terminated",
    "F9": "the client forks",
    "F10": "the event loop is closed",
    "F11": "descriptors or processes are used up",
    "F12": "the interpreter ends",
    "F13": "ten thousand at once",
    "F14": "the state directory is full, read-only or gone",
    "F15": "a record is spoilt",
    "F16": "several clients stop one sandbox",
    "F17": "a call is cancelled anywhere",
    "F18": "a start stalls",
    "F19": "the agent lies, floods, freezes or dies",
    "F20": "a command ends or behaves in every way",
    "F22": "the sandbox's disk is full",
    "F23": "files of unusual names, sizes and holes",
    "F26": "a pid is somebody else's",
    "F29": "whoever is told of changes blocks",
}
_happened: Counter[str] = Counter()


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Count the faults of a test that has passed.

    Raises:
        ValueError: A mark names a fault that is not in the table.
    """
    for mark in item.iter_markers("fault"):
        for name in mark.args:
            if name not in FAULTS:
                raise ValueError(f"fault {name!r} of {item.nodeid} is not in tests/helpers/faults.py")
            if report.when == "call" and report.passed:
                _happened[name] += 1


def is_whole(config: pytest.Config) -> bool:
    """Tell whether everything was asked for."""
    chosen = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("--engine")
    return config.args == config.getini("testpaths") and not chosen


def missing() -> list[str]:
    """Describe the faults that never happened."""
    return [f"{name}: {what}" for name, what in FAULTS.items() if not _happened[name]]


def summary() -> str:
    """Say how often each happened."""
    return ", ".join(f"{name} {_happened[name]}" for name in FAULTS if _happened[name])
