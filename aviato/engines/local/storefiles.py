"""What the image store asks of the file system: locks, small records, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Any

from aviato.engines.local import records
from aviato.exceptions import AviatoError, EngineError, SandboxResourceExhaustedError

SHARED = fcntl.LOCK_SH
ALONE = fcntl.LOCK_EX
ALONE_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
_FULL = (errno.ENOSPC, errno.EDQUOT)


def lock(path: str, operation: int, *, create: bool = False) -> int | None:
    """Lock a file and return the descriptor that keeps it locked, or None when `ALONE_NOW` finds it taken.

    Raises:
        OSError: It cannot be opened; `FileNotFoundError` when there is none and not `create`.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock alone, waiting for it."""
    descriptor = lock(path, ALONE, create=True)
    assert descriptor is not None  # noqa: S101 - it waited
    try:
        yield
    finally:
        os.close(descriptor)


def is_current(descriptor: int, path: str) -> bool:
    """Tell whether a path still leads to the file of a descriptor."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def is_young(path: str) -> bool:
    """Tell whether a directory was made so recently that its maker may not have locked it yet."""
    try:
        return time.time() - os.stat(path).st_mtime < 60
    except FileNotFoundError:
        return True


def read_record(path: str, *fields: str) -> dict[str, Any]:
    """Read a record that has all of `fields`.

    Raises:
        FileNotFoundError: There is none.
        EngineError: It is damaged.
    """
    try:
        record = records.read(path)
    except records.CorruptRecordError as error:
        raise _damaged(str(error), path) from error
    if missing := [name for name in fields if name not in record]:
        raise _damaged(f"{path}: it has no {', '.join(missing)}", path)
    return record


def _damaged(what: str, path: str) -> EngineError:
    return EngineError(f"the image store is damaged: {what}", hint=f"Remove it and import the image again: rm {path}")


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn the errors of the file system into ours.

    Raises:
        SandboxResourceExhaustedError: The disk is full.
        EngineError: Any other error.
    """
    try:
        yield
    except AviatoError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise SandboxResourceExhaustedError(
                f"the disk of the image store {path} is full", hint="Free some space, or set AVIATO_HOME elsewhere."
            ) from error
        raise EngineError(
            f"the image store {path} cannot be used: {error}",
            hint="Set AVIATO_HOME to a directory of yours, or check the permissions of what the message names.",
        ) from error
