"""What a sandbox may use up, one attack each; after it the machine goes on, the agent answers, and a stop leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aviato import aio
from aviato.engines.local.cgroups import find_layout
from aviato.models import Protection
from tests.helpers.local import groups_left, require_local
from tests.isolation.inside import python
from tests.local.support import becomes, init_of, is_alive

PROCESSES = 48
LIMITS = {"memory": "96Mi", "disk": "16Mi", "processes": PROCESSES}
BOMB = """
import os, time
print("started", flush=True)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        time.sleep(0.01)
"""
ZOMBIES = """
import errno, os
count = 0
try:
    while count < 5000:
        if os.fork() == 0:
            os._exit(0)
        count += 1
    print("open", count)
except OSError as error:
    print(errno.errorcode[error.errno], count)
"""
TOGETHER = """
import os, signal
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        kept = bytearray(os.urandom(1)) * (40 << 20)
        signal.pause()
    children.append(pid)
print(os.WTERMSIG(os.wait()[1]), flush=True)
for pid in children:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
"""
STUBBORN = """
import os, signal, sys, time
for _ in range(12):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        os.close(0); os.close(1); os.close(2)
        time.sleep(10000)
for _ in range(12):
    os.wait()
print("up", flush=True)
"""


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.fixture
async def sandbox() -> AsyncIterator[aio.Sandbox]:
    """A small sandbox; afterwards the machine can still fork, and all of it is gone within two seconds and the grace."""
    made = await aio.Sandbox.run(engine="local", resources=LIMITS)
    init = init_of(made.sandbox_id)
    namespace = await _namespace_of(made)
    assert namespace != os.readlink("/proc/self/ns/pid")
    yield made
    assert subprocess.run(["true"], check=False, timeout=20).returncode == 0
    began = time.monotonic()
    await made.stop(graceful_shutdown_seconds=0.2)
    assert time.monotonic() - began < 2.2
    assert await becomes(lambda: not is_alive(init))
    assert _processes_in(namespace) == []
    assert not [path for path in groups_left() if made.sandbox_id in path]


async def _namespace_of(sandbox: aio.Sandbox) -> str:
    """Name its process namespace, which inside has the same name as outside."""
    return await python(sandbox, "import os; print(os.readlink('/proc/self/ns/pid'))")


def _processes_in(namespace: str) -> list[str]:
    """List what runs in a process namespace, as far as this user may see."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == namespace:
                    found.append(entry.name)
    return found


async def answers(sandbox: aio.Sandbox) -> None:
    """The agent still starts commands."""
    assert (await sandbox.exec(["echo", "here"], check=True, timeout_seconds=30)).stdout == "here\n"


async def _started(process: aio.Process) -> None:
    async for line in process.stdout:
        assert line.strip() in {"started", "up"}
        return


async def test_a_fork_bomb_takes_neither_the_machine_nor_the_agent(sandbox: aio.Sandbox) -> None:
    """While it goes on the machine forks, the agent answers, and files can be read and written."""
    bomb = sandbox.exec(["python3", "-c", BOMB])
    await _started(bomb)
    for _ in range(10):
        assert subprocess.run(["true"], check=False, timeout=20).returncode == 0
    await sandbox.write_file("/workspace/file", "content")
    assert await sandbox.read_file("/workspace/file") == b"content"
    bomb.cancel()


async def test_zombies_end_at_the_number_of_processes(sandbox: aio.Sandbox) -> None:
    """Nobody waits for them, so each counts until its parent ends."""
    reason, count = (await python(sandbox, ZOMBIES)).split()
    assert reason == "EAGAIN"
    assert int(count) < PROCESSES
    await answers(sandbox)


async def test_one_program_cannot_take_more_memory_than_there_is(sandbox: aio.Sandbox) -> None:
    """It is killed, or without groups refused the address space; the agent goes on."""
    done = await sandbox.exec(
        ["python3", "-c", "kept = bytearray(1 << 30); kept[::4096] = b'x' * (1 << 18); print('open')"]
    )
    assert "open" not in done.stdout
    assert done.returncode == 137 or "MemoryError" in done.stderr
    await answers(sandbox)


async def test_many_programs_cannot_take_more_memory_together(sandbox: aio.Sandbox) -> None:
    """Each within the limit and all beyond it: the group, or the agent's watch, kills some."""
    done = await sandbox.exec(["python3", "-c", TOGETHER], timeout_seconds=50)
    assert done.stdout == "9\n" or done.returncode == 137, done
    await answers(sandbox)


async def test_shared_memory_counts_as_disk(sandbox: aio.Sandbox) -> None:
    """What is neither in a process nor in a file that a program sees, is in one or the other limit."""
    program = """
import os
try:
    with open("/dev/shm/fill", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20)); file.flush()
    print("open")
except OSError as error:
    print(error.errno)
"""
    assert await python(sandbox, program) in {"28", "27"}
    await answers(sandbox)


@pytest.mark.parametrize(
    "place", ["/tmp", "/var/tmp", "/workspace", "/etc", "/root", "/home", "/run", "/dev/shm", "/usr"]
)
async def test_each_writable_place_ends_at_the_disks_size(place: str, sandbox: aio.Sandbox) -> None:
    """And the machine's own disk and memory file system are as free as they were."""
    before = shutil.disk_usage("/dev/shm").used
    program = f"""
import errno
total = 0
try:
    for number in range(6):
        with open("{place}/fill-%d" % number, "wb") as file:
            for _ in range(8):
                file.write(bytes(1 << 20)); file.flush(); total += 1
    print("open", total)
except OSError as error:
    print(errno.errorcode[error.errno], total)
"""
    reason, megabytes = (await python(sandbox, program)).split()
    assert reason == "ENOSPC" or (place == "/usr" and reason == "EACCES")
    assert int(megabytes) <= 16
    assert shutil.disk_usage("/dev/shm").used - before < 1 << 20
    await answers(sandbox)


async def test_a_file_cannot_be_reserved_beyond_the_disk(sandbox: aio.Sandbox) -> None:
    """fallocate, and a sparse file that is then filled from behind (Piston's exploit)."""
    program = """
import errno, os
fd = os.open("/workspace/big", os.O_RDWR | os.O_CREAT)
for attempt in (lambda: os.posix_fallocate(fd, 0, 1 << 30), lambda: os.ftruncate(fd, 1 << 40)):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    done = await sandbox.exec(
        ["python3", "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + program]
    )
    assert set(done.stdout.split()) <= {"ENOSPC", "EFBIG"}
    assert done.stdout
    await answers(sandbox)


async def test_files_end_at_their_number_with_links_and_folders(sandbox: aio.Sandbox) -> None:
    """Each kind of entry takes one."""
    program = """
import errno, os
for make in (lambda n: os.mkdir(n), lambda n: os.symlink("x", n), lambda n: os.mkfifo(n), lambda n: open(n, "x").close()):
    os.makedirs("/workspace/many", exist_ok=True)
    try:
        for number in range(300_000):
            make("/workspace/many/%s%d" % (id(make), number))
        print("open")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert (await python(sandbox, program)).split() == ["ENOSPC"] * 4
    await answers(sandbox)


async def test_watching_files_leaves_the_machine_its_own_watches(sandbox: aio.Sandbox) -> None:
    """With all instances of a sandbox in use the machine still makes one."""
    program = """
import ctypes, time
libc = ctypes.CDLL(None)
kept = 0
while libc.inotify_init1(0) >= 0:
    kept += 1
print("started", flush=True)
time.sleep(10000)
"""
    process = sandbox.exec(["python3", "-c", program])
    await _started(process)
    mine = ctypes.CDLL(None).inotify_init1(0)
    assert mine >= 0
    os.close(mine)
    await answers(sandbox)
    process.cancel()


async def test_what_ignores_every_signal_is_gone_after_a_stop(sandbox: aio.Sandbox) -> None:
    """Double-forked, in sessions of its own, with nothing open: the fixture looks for it."""
    await _started(sandbox.exec(["python3", "-c", STUBBORN]))
    await answers(sandbox)


async def test_a_child_that_keeps_the_output_open_does_not_keep_the_command(sandbox: aio.Sandbox) -> None:
    """The command has ended when its first process has."""
    done = await sandbox.exec(["sh", "-c", "(trap '' HUP TERM; sleep 1000) & echo hi"], timeout_seconds=30, check=True)
    assert done.stdout == "hi\n"


async def test_a_flood_of_output_is_held_back(sandbox: aio.Sandbox) -> None:
    """A program that nobody reads waits; the agent still answers others."""
    flood = sandbox.exec(["sh", "-c", "echo started; exec cat /dev/zero"])
    await answers(sandbox)
    flood.cancel()


async def test_the_report_says_how_firmly_each_limit_holds(sandbox: aio.Sandbox) -> None:
    """Hard where there are control groups; without them best effort, and no CPU limit at all."""
    isolation = sandbox.isolation
    assert isolation is not None
    groups = find_layout().controllers
    for name, controller in (("memory", "memory"), ("pids", "pids")):
        wanted = Protection.HARD if controller in groups else Protection.BEST_EFFORT
        assert getattr(isolation, name) is wanted
    assert isolation.cpu is Protection.NONE


@pytest.mark.skipif("pids" in find_layout().controllers, reason="this user has control groups")
async def test_without_groups_processes_are_limited_for_each_sandbox_alone() -> None:
    """The fallback's limit counts within the sandbox's own users, so a full one leaves another free."""
    async with (
        aio.Sandbox.run(engine="local", resources=LIMITS) as full,
        aio.Sandbox.run(engine="local", resources=LIMITS) as free,
    ):
        await _started(full.exec(["python3", "-c", BOMB]))
        assert (await python(free, ZOMBIES)).startswith("EAGAIN")
        await answers(free)
