"""What one sandbox can use up: each resource ends at its limit, and the sandbox still answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import aviato
from aviato import aio
from aviato.engines.local.cgroups import find_layout
from tests.helpers.local import init_of, require_local


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


def needs(controller: str) -> None:
    """Skip where the user may not make groups of this controller."""
    if controller not in find_layout().controllers:
        pytest.skip(f"this user has no {controller} control groups")


async def test_the_disk_ends_at_its_size_everywhere() -> None:
    """Each writable place draws on the one limit; /dev cannot be written at all."""
    async with aio.Sandbox.run(engine="local", resources={"disk": "16Mi"}) as sandbox:
        for place in ("/tmp", "/dev/shm", "/workspace", "/var/tmp", "/etc", "/root"):
            fill = f"dd if=/dev/zero of={place}/one bs=1M count=12 && dd if=/dev/zero of={place}/two bs=1M count=12"
            done = await sandbox.exec(["sh", "-c", fill])
            assert done.returncode == 1, place
            assert "No space left" in done.stderr
            await sandbox.exec(["rm", f"{place}/one", f"{place}/two"], check=True)
        assert "Read-only" in (await sandbox.exec(["touch", "/dev/fill"])).stderr


@pytest.mark.parametrize(("resources", "said"), [({"memory": "1Mi"}, "16Mi"), ({"processes": 1}, "2 or more")])
async def test_too_little_to_start_is_said(resources: dict[str, object], said: str) -> None:
    """The error names the resource and the least that works, rather than what fell over for want of it."""
    with pytest.raises(aviato.CapabilityError, match=next(iter(resources))) as caught:
        await aio.Sandbox.run(engine="local", resources=resources).wait()
    assert said in str(caught.value.hint)


async def test_files_end_at_their_count() -> None:
    """A flood of empty files ends in ENOSPC."""
    async with aio.Sandbox.run(engine="local", resources={"disk": "16Mi"}) as sandbox:
        program = (
            "import errno\n"
            "for number in range(200_000):\n"
            "    try: open(f'/tmp/{number}', 'x').close()\n"
            "    except OSError as error: print(errno.errorcode[error.errno]); break"
        )
        assert (await sandbox.exec(["python3", "-c", program], check=True)).stdout.strip() == "ENOSPC"


async def test_a_fork_bomb_ends_at_the_processes() -> None:
    """Forks fail inside, the agent goes on, and stop ends them all."""
    needs("pids")
    async with aio.Sandbox.run(engine="local", resources={"processes": 64}) as sandbox:
        program = (
            "import os, time\n"
            "count = 0\n"
            "try:\n"
            "    while True:\n"
            "        if os.fork() == 0: time.sleep(1000)\n"
            "        count += 1\n"
            "except BlockingIOError: print(count, flush=True); os._exit(0)"
        )
        done = await sandbox.exec(["python3", "-c", program], check=True)
        assert 40 <= int(done.stdout) < 64


async def test_memory_ends_at_the_limit() -> None:
    """The program that takes too much is killed, and the sandbox answers afterwards."""
    needs("memory")
    async with aio.Sandbox.run(engine="local", resources={"memory": "64Mi", "disk": "16Mi"}) as sandbox:
        done = await sandbox.exec(["python3", "-c", "b = bytearray(400 << 20); print(len(b))"])
        assert (done.returncode, done.stdout) == (137, "")
        assert (await sandbox.exec(["echo", "here"], check=True)).stdout == "here\n"


async def test_cpu_is_held_by_the_group() -> None:
    """The quota stands in the group the sandbox really is in."""
    needs("cpu")
    async with aio.Sandbox.run(engine="local", resources={"cpu": "250m"}) as sandbox:
        await sandbox
        layout = find_layout().directories["cpu"]
        group = Path(layout) / sandbox.sandbox_id
        quota = group / "cpu.cfs_quota_us"
        value = quota.read_text() if quota.exists() else (group / "cpu.max").read_text().split()[0]
        assert int(value) == 25_000
        assert str(init_of(sandbox.sandbox_id)) in (group / "cgroup.procs").read_text().split()


async def test_open_files_and_cores_are_limited() -> None:
    """The limits of each process are set before anything of the sandbox runs."""
    async with aio.Sandbox.run(engine="local") as sandbox:
        done = await sandbox.exec(["sh", "-c", "ulimit -Hn; ulimit -Hc"], check=True)
        assert done.stdout.split() == ["4096", "0"]


@pytest.mark.parametrize("asked", [{"gpu": 1}], ids=["gpu"])
async def test_what_cannot_be_given_is_refused(asked: dict[str, object]) -> None:
    """A GPU is not left out silently."""
    with pytest.raises(aviato.CapabilityError, match="GPU"):
        await aio.Sandbox.run(engine="local", resources=asked)


@pytest.mark.skipif("cpu" in find_layout().controllers, reason="this user can hold a CPU limit")
async def test_a_cpu_limit_without_groups_is_refused() -> None:
    """The error says what is missing and how to get it."""
    with pytest.raises(aviato.CapabilityError, match="control group"):
        await aio.Sandbox.run(engine="local", resources={"cpu": "250m"})


async def test_more_cpu_than_there_is_warns() -> None:
    """It runs with what the machine has, and says so."""
    needs("cpu")
    many = (os.cpu_count() or 1) + 1
    with pytest.warns(UserWarning, match="CPUs"):
        async with aio.Sandbox.run(engine="local", resources={"cpu": str(many)}) as sandbox:
            await sandbox.exec(["true"], check=True)


async def test_a_small_memory_has_a_small_disk() -> None:
    """Files lie in memory, so a disk that nobody asked for is not larger than the memory that somebody did."""
    async with aio.Sandbox.run(engine="local", resources={"memory": "64Mi"}) as sandbox:
        done = await sandbox.exec(["python3", "-c", "import os; s = os.statvfs('/'); print(s.f_blocks * s.f_frsize)"])
        assert int(done.stdout) == 64 << 20
