"""What processes may use up or leave, one attack each.

After each the machine goes on, the agent answers, and a stop leaves nothing.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest

from aviato import aio
from aviato.engines.local.cgroups import find_layout
from aviato.models import Protection
from tests.isolation.inside import LIMITS, PROCESSES, answers, python, started

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


async def test_a_fork_bomb_takes_neither_the_machine_nor_the_agent(sandbox: aio.Sandbox) -> None:
    """While it goes on the machine forks, the agent answers, and files can be read and written."""
    bomb = sandbox.exec(["python3", "-c", BOMB])
    await started(bomb)
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
    await started(process)
    mine = ctypes.CDLL(None).inotify_init1(0)
    assert mine >= 0
    os.close(mine)
    await answers(sandbox)
    process.cancel()


async def test_what_ignores_every_signal_is_gone_after_a_stop(sandbox: aio.Sandbox) -> None:
    """Double-forked, in sessions of its own, with nothing open: the fixture looks for it."""
    await started(sandbox.exec(["python3", "-c", STUBBORN]))
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
        await started(full.exec(["python3", "-c", BOMB]))
        assert (await python(free, ZOMBIES)).startswith("EAGAIN")
        await answers(free)
