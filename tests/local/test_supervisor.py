"""The supervisor and its clients: nonsense disturbs nobody, and what dead ones left is removed."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from aviato import aio
from aviato.engines.local import held, ids, jobs, reaper, records
from tests.helpers.local import home, record_of

Session = Callable[..., aio.Session]


async def test_nonsense_on_the_socket_disturbs_nobody(local: Session) -> None:
    """Whatever a client of the same user says, it gets an error or is hung up on, and sandboxes go on."""
    async with local() as session:
        sandbox = session.sandbox()
        await sandbox
        token = record_of(sandbox.sandbox_id)["supervisor"]["token"]
        lines = [
            b"not json",
            b"[]",
            b"{}",
            b'{"n": 1, "op": "no_such"}',
            b'{"n": 1, "op": "get"}',
            b'{"n": 1, "op": "get", "id": "../../etc"}',
            b'{"n": 1, "op": "launch", "job": {}}',
            b'{"n": 1, "op": "stop", "id": 5, "grace": "x"}',
            b"[" * 100_000,
        ]
        for line in lines:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(home() / "supervisors" / f"{token}.sock"))
                client.sendall(line + b"\n")
                assert "error" in json.loads(client.makefile("rb").readline())
        assert (await sandbox.exec(["echo", "undisturbed"])).stdout == "undisturbed\n"


def test_a_directory_that_was_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lists removes a directory that nobody has locked, also one that is just being made."""
    place = tmp_path / "sbx-0123456789abcdef"
    real, calls = fcntl.flock, 0

    def flock(fd: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.rmtree(place)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = records.claim(str(place))
    assert lock is not None
    assert os.path.samestat(os.fstat(lock), (place / "lock").stat())
    assert records.claim(str(place)) is None
    os.close(lock)


def test_a_lock_that_was_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or two would think that they hold what is at its path."""
    path = tmp_path / "lock"
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        path.unlink()
        path.touch()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileNotFoundError):
        records.try_lock(str(path), create=True)


def test_prune_removes_the_sockets_of_dead_supervisors() -> None:
    """A socket that nobody answers on goes, and only when asked to."""
    folder = home() / "supervisors"
    folder.mkdir(parents=True, exist_ok=True)
    dead = folder / "dead.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(dead))
    assert "dead.sock" in reaper.prune(str(home()), dry_run=True)
    assert dead.exists()
    assert "dead.sock" in reaper.prune(str(home()))
    assert not dead.exists()


def test_slots_of_root_are_one_set_for_the_machine() -> None:
    """Two state directories never hand out the same range of ids."""
    one, two = ids.slot_directory("/home/one"), ids.slot_directory("/home/two")
    assert (one == two) is (os.getuid() == 0)


def test_descriptors_above_1023_are_heard() -> None:
    """With some hundred sandboxes a supervisor has as many, and may not fail for it."""
    high_descriptor = 1500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard <= high_descriptor:
        pytest.skip(f"this user may open {hard} files")
    read, write = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high_descriptor + 1), hard))
    try:
        high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, high_descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(read)
    try:
        assert not held._has_news(high)
        os.write(write, b"x")
        assert held._has_news(high)
        os.read(high, 1)
    finally:
        os.close(write)
    assert held._has_news(high), "the end is news too"
    os.close(high)


async def test_a_supervisor_opens_more_files_than_a_shell_allows(local: Session) -> None:
    """Some hundred sandboxes need more descriptors than the usual soft limit of 1024; its sandboxes keep theirs."""
    async with local() as session:
        sandbox = session.sandbox()
        await sandbox
        supervisor = record_of(sandbox.sandbox_id)["supervisor"]["pid"]
        soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        assert soft == hard
        inside = (await sandbox.exec(["sh", "-c", "ulimit -n"])).stdout
        assert int(inside) == min(jobs.FILES_OPEN, hard)
