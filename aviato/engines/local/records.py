"""What is kept on disk about sandboxes, and how it is read back without trusting it.

Everything lies under `AVIATO_HOME` (mode 0700)::

    sandboxes/<id>/record.json   what it is and how it is; written before anything is started
                   lock          held by the supervisor as long as it is responsible
                   log, log.1    output of the main command
                   agent.sock    where clients reach the agent
    supervisors/<token>.sock     where clients reach a supervisor
    slots/<n>                    locks on ranges of user ids
    images/                      the image store
    corrupt/                     records that could not be read
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from typing import Any

VERSION = 1
LARGEST_RECORD = 4 << 20
_ID = re.compile(r"sbx-[0-9a-hj-km-np-tv-z]{16}")

STATUSES = frozenset({"pending", "creating", "running", "paused", "terminating", "completed", "failed", "terminated"})


class CorruptRecordError(Exception):
    """A record that is not one of ours, or not complete."""


def prepare(home: str) -> None:
    """Make the directories.

    Raises:
        OSError: They cannot be made or are not ours.
    """
    os.makedirs(home, mode=0o700, exist_ok=True)
    found = os.stat(home)
    if found.st_uid != os.getuid():
        raise PermissionError(1, f"{home} belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(home, 0o700)
    for name in ("sandboxes", "supervisors", "slots", "images", "corrupt"):
        os.makedirs(f"{home}/{name}", mode=0o700, exist_ok=True)


def directory(home: str, sandbox_id: str) -> str:
    """Return the directory of a sandbox.

    Raises:
        ValueError: The id is not one.
    """
    if not _ID.fullmatch(sandbox_id):
        raise ValueError(f"bad sandbox id {sandbox_id!r}")
    return f"{home}/sandboxes/{sandbox_id}"


def write(path: str, record: dict[str, Any], *, durable: bool) -> None:
    """Replace a record atomically, with a checksum; `durable` waits until it is on the disk.

    Raises:
        OSError: It could not be written; the old one is still there.
    """
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(body.encode()).hexdigest()
    data = f'{{"version":{VERSION},"sha256":"{digest}","record":{body}}}\n'.encode()
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


def read(path: str) -> dict[str, Any]:
    """Read a record; links are not followed, and neither pipes nor large files are read.

    Raises:
        FileNotFoundError: There is none.
        CorruptRecordError: It is not one of ours, or not complete.
        OSError: It cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptRecordError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_size > LARGEST_RECORD:
            raise CorruptRecordError(f"{path}: not a record of this user")
        data = b""
        while piece := os.read(fd, 1 << 20):
            data += piece
    finally:
        os.close(fd)
    try:
        outer = json.loads(data)
        record: dict[str, Any] = outer["record"]
        body = json.dumps(record, sort_keys=True, separators=(",", ":"))
        if outer["version"] != VERSION or outer["sha256"] != hashlib.sha256(body.encode()).hexdigest():
            raise CorruptRecordError(f"{path}: checksum or version does not fit")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptRecordError(f"{path}: {error}") from error
    return record


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "status": str,
    "image": str,
    "created_at": (int, float),
    "detached": bool,
    "supervisor": dict,
    "tags": list,
    "annotations": dict,
    "resources": dict,
    "isolation": dict,
    "groups": list,
}


def check(record: Any, sandbox_id: str) -> None:
    """Refuse a record in which something is missing, as one of another version may be.

    Raises:
        CorruptRecordError: It is not the record of this sandbox, or not complete.
    """
    if not isinstance(record, dict) or record.get("id") != sandbox_id:
        raise CorruptRecordError(f"it is not the record of {sandbox_id}")
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise CorruptRecordError(f"{name} is missing or has the wrong type")
    if record["status"] not in STATUSES or not isinstance(record["supervisor"].get("token"), str):
        raise CorruptRecordError("its status or its supervisor is unknown")


def set_aside(home: str, sandbox_id: str) -> None:
    """Move a directory whose record cannot be read out of the way, for a human to look at."""
    target = f"{home}/corrupt/{sandbox_id}.{os.getpid()}.{os.urandom(4).hex()}"
    with contextlib.suppress(OSError):
        os.rename(f"{home}/sandboxes/{sandbox_id}", target)


def sandbox_ids(home: str) -> list[str]:
    """List the ids that have a directory, oldest first."""
    try:
        names = os.listdir(f"{home}/sandboxes")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _ID.fullmatch(name))


def try_lock(path: str, *, create: bool) -> int | None:
    """Take a lock without waiting and return its descriptor, None when another process holds it.

    Raises:
        OSError: The file cannot be opened, or was removed by who held the lock until now.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
            raise FileNotFoundError(errno.ENOENT, "the lock was removed", path)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def claim(path: str) -> int | None:
    """Make a sandbox's directory and return its lock, None when the directory is there already.

    Whoever lists may meet the directory before it is locked, and remove it as a leftover; then it is made again.

    Raises:
        OSError: It cannot be made.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return None
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError):
            lock = try_lock(f"{path}/lock", create=True)
            if lock is not None:
                return lock
        time.sleep(0.005)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    return None


def remove(path: str) -> None:
    """Remove a sandbox's directory; it holds files only."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(path)):  # all of them first: a new owner may make its own meanwhile
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
        os.rmdir(path)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; with the pid it names a process for good."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
