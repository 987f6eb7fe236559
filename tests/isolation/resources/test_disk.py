"""Files, space and shared memory end at the disk that was asked for, wherever they are made."""

from __future__ import annotations

import shutil

import pytest

from aviato import aio
from tests.isolation.inside import answers, python


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
for make in (os.mkdir, lambda n: os.symlink("x", n), os.mkfifo, lambda n: open(n, "x").close()):
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
