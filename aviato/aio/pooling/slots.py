"""What processes of one user share on the disk: slots that only one holds, and a rate.

A slot is a lock on a file, which the kernel gives up when its holder dies, so that nothing can be leaked. All of it
lies under AVIATO_HOME, in directories that only the user can enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from aviato import settings
from aviato.aio import _fork
from aviato.exceptions import ConfigurationError

_held: set[int] = set()


def folder(name: str) -> Path:
    """Return the directory of the limits of this name, making it.

    Raises:
        ConfigurationError: It cannot be made, or is not the user's own.
    """
    path = Path(settings.home()) / "limits" / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"the directory {path} of limits belongs to another user")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"the directory {path} of limits cannot be used: {error}") from error
    return path


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the file {path} of limits cannot be used: {error}") from error


class Slot:
    """One slot that is held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._generation = _fork.generation
        _held.add(descriptor)

    def release(self) -> None:
        """Give it up; idempotent, and without effect in a forked child, which never held it."""
        if self._descriptor >= 0 and not _fork.is_stale(self._generation):
            _held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1


def try_slot(directory: Path, kind: str, count: int) -> Slot | None:
    """Take one of `count` slots if one is free.

    Raises:
        ConfigurationError: The files cannot be used.
    """
    first = random.randrange(count)  # noqa: S311 - spreading is no secret
    for number in range(count):
        descriptor = _open(directory / f"{kind}-{(first + number) % count}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(f"the limits in {directory} cannot be locked: {error}") from error
        else:
            return Slot(descriptor)
    return None


def reserve(directory: Path, per_second: float) -> float:
    """Reserve the next start of the rate, and return the seconds until it.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    descriptor = _open(directory / "rate")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for some microseconds by whoever has it
        now, boot = time.clock_gettime(time.CLOCK_MONOTONIC), _boot_id()
        known = _decoded(os.pread(descriptor, 4096, 0))
        upcoming = now
        if known.get("boot") == boot and isinstance(known.get("next"), (int, float)):
            upcoming = max(now, float(known["next"]))
        document = json.dumps({"boot": boot, "next": upcoming + 1 / per_second}).encode()
        os.pwrite(descriptor, document.ljust(256), 0)
    except OSError as error:
        raise ConfigurationError(f"the limits in {directory} cannot be used: {error}") from error
    finally:
        os.close(descriptor)
    return upcoming - now


def _decoded(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        if isinstance(value, dict):
            return value
    return {}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _close_in_child() -> None:
    """Close what a forked child inherited, which would else hold the slots of its parent beyond its death."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


_fork.in_child(_close_in_child)
