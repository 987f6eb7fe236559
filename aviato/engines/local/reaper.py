"""What a dead supervisor left: found by whoever looks next, ended, and written down."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from typing import Any

from aviato.engines.local import records
from aviato.engines.local.cgroups import FAMILY, ROOT
from aviato.engines.local.connection import connect_in

_TERMINAL = ("completed", "failed", "terminated")


def settle(home: str, sandbox_id: str) -> dict[str, Any]:
    """Return the record of a sandbox; one that nobody answers for any more is ended and recorded as lost.

    Raises:
        FileNotFoundError: There is none of this id.
        records.CorruptRecordError: It cannot be read; it was set aside.
        ValueError: The id is not one.
    """
    place = records.directory(home, sandbox_id)
    try:
        record = records.read(f"{place}/record.json")
        records.check(record, sandbox_id)
    except FileNotFoundError:
        _drop_unwritten(place)
        raise
    except records.CorruptRecordError:
        _set_aside(home, sandbox_id)
        raise
    if record["status"] in _TERMINAL:
        return record
    lock = records.try_lock(f"{place}/lock", create=False)  # made anew it would keep a directory that goes just now
    if lock is None:
        return record
    try:
        record = records.read(f"{place}/record.json")
        records.check(record, sandbox_id)
        if record["status"] not in _TERMINAL:
            _end(record)
            if not record["detached"]:
                records.remove(place)
                raise FileNotFoundError(place)
            record.update(status="failed", exit_reason="lost", ended_at=time.time(), message="its supervisor is gone")
            records.write(f"{place}/record.json", record, durable=False)
    finally:
        os.close(lock)
    return record


def _drop_unwritten(place: str) -> None:
    """Remove a directory that was made and never written to, unless somebody is at it."""
    with contextlib.suppress(OSError):
        lock = records.try_lock(f"{place}/lock", create=False)
        if lock is not None:
            records.remove(place)
            os.close(lock)


def _set_aside(home: str, sandbox_id: str) -> None:
    with contextlib.suppress(OSError):
        lock = records.try_lock(f"{records.directory(home, sandbox_id)}/lock", create=True)
        if lock is not None:
            records.set_aside(home, sandbox_id)
            os.close(lock)


def _end(record: dict[str, Any]) -> None:
    """End what is left of a sandbox, by names that cannot mean anybody else."""
    groups = [path for path in record.get("groups", ()) if _is_own(path, record["id"])]
    for path in groups:
        with contextlib.suppress(OSError), open(f"{path}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
    init = record.get("init") or {}
    if init:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(init["pid"])
            try:
                if records.start_time(init["pid"]) == init["start"]:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)
    deadline = time.monotonic() + 2
    while groups and time.monotonic() < deadline:
        for path in list(groups):
            try:
                os.rmdir(path)
                groups.remove(path)
            except FileNotFoundError:
                groups.remove(path)
            except OSError:
                time.sleep(0.005)


def _is_own(path: str, sandbox_id: str) -> bool:
    clean = os.path.normpath(path)
    return (
        clean == path and path.startswith(f"{ROOT}/") and f"/{FAMILY}" in path and path.rsplit("/", 1)[-1] == sandbox_id
    )


def settle_all(home: str) -> list[dict[str, Any]]:
    """Return the records of all sandboxes, settled; those that cannot be read are set aside and left out."""
    found = []
    for sandbox_id in records.sandbox_ids(home):
        with contextlib.suppress(FileNotFoundError, records.CorruptRecordError):
            found.append(settle(home, sandbox_id))
    return found


def prune(home: str, *, dry_run: bool = False) -> list[str]:
    """Remove what is left of sandboxes that have ended and of dead supervisors; give the names of what goes."""
    removed = []
    for record in settle_all(home):
        if record["status"] in _TERMINAL:
            place = records.directory(home, record["id"])
            try:
                lock = records.try_lock(f"{place}/lock", create=True)
            except FileNotFoundError:  # somebody else prunes too
                continue
            if lock is None:
                continue
            removed.append(record["id"])
            if not dry_run:
                records.remove(place)
            os.close(lock)
    removed += _prune_supervisors(home, dry_run=dry_run)
    return removed


def _prune_supervisors(home: str, *, dry_run: bool) -> list[str]:
    """Remove the sockets of supervisors that are gone and, when none is left, what they shared."""
    folder = f"{home}/supervisors"
    gone, alive = [], False
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
        if name.endswith(".sock"):
            if _answers(folder, name):
                alive = True
            else:
                gone.append(name)
    if not alive:
        gone += sorted(name for name in os.listdir(folder) if name.startswith("etc-")) if os.path.isdir(folder) else []
    if not dry_run:
        for name in gone:
            if name.endswith(".sock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
            else:
                shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    return [name for name in gone if name.endswith(".sock")]


def _answers(folder: str, name: str) -> bool:
    try:
        connect_in(folder, name).close()
    except OSError:
        return False
    return True
