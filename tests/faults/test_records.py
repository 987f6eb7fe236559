"""Records that are not as they were written: nothing is followed, nobody else is harmed, and a look goes on."""

# What a test does to the machine may take its time:
# ruff: noqa: ASYNC220, ASYNC221, ASYNC240

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aviato import aio
from aviato.engines.local import reaper, records
from aviato.exceptions import SandboxNotFoundError
from aviato.models import SandboxStatus
from tests.helpers.local import groups_left, home, record_of, require_local
from tests.local.support import Client, becomes, is_alive

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.fixture
async def neighbour() -> AsyncIterator[aio.Sandbox]:
    """A sandbox that must not notice anything."""
    async with aio.Sandbox.run(engine="local") as sandbox:
        await sandbox
        yield sandbox
        assert (await sandbox.exec(["echo", "undisturbed"])).stdout == "undisturbed\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """The directory of a sandbox that is not there, and no leftovers of it."""
    made = home() / "sandboxes" / ("sbx-" + "".join(secrets.choice(ALPHABET) for _ in range(16)))
    made.mkdir(parents=True, mode=0o700)
    (made / "lock").touch(mode=0o600)
    yield made
    for left in (made, *(home() / "corrupt").glob(made.name + ".*")):
        subprocess.run(["rm", "-rf", str(left)], check=True)


def _written(place: Path, record: Any) -> None:
    records.write(str(place / "record.json"), record, durable=False)


def _good(place: Path, **changes: Any) -> dict[str, Any]:
    """A record as a running sandbox of a dead supervisor has it."""
    running = next(path.parent.name for path in (home() / "sandboxes").glob("*/agent.sock"))
    return {**record_of(running), "id": place.name, "groups": [], "init": None, "detached": True, **changes}


def _cut(place: Path) -> None:
    _written(place, _good(place))
    data = (place / "record.json").read_bytes()
    (place / "record.json").write_bytes(data[: len(data) // 2])


def _changed(place: Path) -> None:
    _written(place, _good(place))
    text = (place / "record.json").read_text()
    (place / "record.json").write_text(text.replace('"detached":true', '"detached":false'))


def _linked(place: Path) -> None:
    _written(place, _good(place))
    (place / "record.json").rename(place / "elsewhere")
    (place / "record.json").symlink_to(place / "elsewhere")


def _huge(place: Path) -> None:
    with (place / "record.json").open("wb") as file:
        file.truncate(1 << 30)


def _text(content: bytes) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        (place / "record.json").write_bytes(content)

    return write


def _without(*names: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        _written(place, {name: value for name, value in _good(place).items() if name not in names})

    return write


SPOILT: dict[str, Callable[[Path], None]] = {
    "empty": _text(b""),
    "zeros": _text(bytes(4096)),
    "random": _text(os.urandom(4096)),
    "not an object": _text(b"[1, 2]"),
    "deep": _text(b"[" * 100_000),
    "another version": _text(b'{"version": 999, "sha256": "", "record": {}}'),
    "cut": _cut,
    "one field changed": _changed,
    "a symbolic link": _linked,
    "a pipe": lambda place: os.mkfifo(place / "record.json"),
    "a directory": lambda place: (place / "record.json").mkdir(),
    "a gigabyte": _huge,
    "of another sandbox": lambda place: _written(place, _good(place, id="sbx-0000000000000000")),
    "no object": lambda place: _written(place, ["x"]),
    "no status": _without("status"),
    "no owner": _without("supervisor", "detached"),
    "wrong types": lambda place: _written(place, _good(place, status=5, supervisor="x", tags=7)),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.fault("F15")
async def test_a_spoilt_record_is_set_aside(neighbour: aio.Sandbox, place: Path, name: str) -> None:
    """It is not listed, not found, and kept for a human; the others are listed as before."""
    SPOILT[name](place)
    listed = [sandbox.sandbox_id for sandbox in await aio.Sandbox.list(engine="local", include_stopped=True)]
    assert place.name not in listed
    assert neighbour.sandbox_id in listed
    assert not place.exists()
    assert len(list((home() / "corrupt").glob(place.name + ".*"))) == 1
    with pytest.raises(SandboxNotFoundError):
        await aio.Sandbox.from_id(place.name, engine="local")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
async def test_a_record_of_somebody_else_is_not_read(neighbour: aio.Sandbox, place: Path) -> None:
    """Its writer could have put anything there."""
    _written(place, _good(place))
    os.chown(place / "record.json", 12345, 12345)
    assert place.name not in [sandbox.sandbox_id for sandbox in await aio.Sandbox.list(engine="local")]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.fault("F26")
async def test_a_pid_that_is_somebody_elses_is_left_alone(neighbour: aio.Sandbox, place: Path, start: int) -> None:
    """The process of a record is known by pid and start time; pids come again."""
    victim = subprocess.Popen(["sleep", "600"])
    try:
        _written(place, _good(place, init={"pid": victim.pid, "start": start}))
        lost = reaper.settle(str(home()), place.name)
        assert (lost["status"], lost["exit_reason"]) == ("failed", "lost")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


async def test_groups_that_are_another_sandboxes_are_left_alone(neighbour: aio.Sandbox, place: Path) -> None:
    """A record can end its own groups only."""
    groups = record_of(neighbour.sandbox_id)["groups"]
    _written(place, _good(place, groups=[*groups, "/sys/fs/cgroup/aviato/../x", "/etc", place.name]))
    assert reaper.settle(str(home()), place.name)["status"] == "failed"
    assert all(Path(group).is_dir() for group in groups)


@pytest.mark.fault("F14")
async def test_the_home_is_removed_below_a_running_sandbox(neighbour: aio.Sandbox) -> None:
    """Its own client goes on with it and stops it; others do not find it."""
    sandbox = aio.Sandbox.run(engine="local")
    await sandbox
    subprocess.run(["rm", "-rf", str(home() / "sandboxes" / sandbox.sandbox_id)], check=True)
    assert (await sandbox.exec(["echo", "on"])).stdout == "on\n"
    assert sandbox.sandbox_id not in [found.sandbox_id for found in await aio.Sandbox.list(engine="local")]
    await sandbox.stop(graceful_shutdown_seconds=0)
    assert sandbox.status == "terminated"


async def test_a_killed_supervisor_is_settled_once_by_many() -> None:
    """Everybody who looks at the same time comes to the same end, or sees that somebody else is at it."""
    client = Client(detached=True)
    client.kill()
    os.kill(client.supervisor, signal.SIGKILL)
    assert await becomes(lambda: not is_alive(client.init) and not is_alive(client.supervisor))
    found = await asyncio.gather(*(asyncio.to_thread(reaper.settle, str(home()), client.sandbox_id) for _ in range(20)))
    assert {one.get("exit_reason") for one in found} <= {"lost", None}
    assert reaper.settle(str(home()), client.sandbox_id)["exit_reason"] == "lost"
    assert not [path for path in groups_left() if client.sandbox_id in path]
    await aio.Sandbox.delete(client.sandbox_id, engine="local")


def test_every_status_is_one_of_a_record() -> None:
    """Records are checked where the models are not loaded, by names of their own."""
    assert set(SandboxStatus) == records.STATUSES
