"""What the environment can do to the local engine, and the errors that say cause and cure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.local import require_local

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from aviato import aio
from aviato.exceptions import AviatoError

async def main():
    try:
        async with aio.Sandbox.run(engine="local") as sandbox:
            print((await sandbox.exec(["echo", "ran"])).stdout, end="")
    except AviatoError as error:
        print(type(error).__name__, getattr(error, "step", ""), error.outcome, str(error), sep="|")

asyncio.run(main())
"""
FILLING = """
import asyncio, os, sys
from pathlib import Path
from aviato import aio
from aviato.exceptions import AviatoError

async def main():
    fill = Path(os.environ["AVIATO_HOME"]).parent / "fill"
    async with aio.Session(engine="local") as session:
        first = session.sandbox()
        await first
        try:
            fill.write_bytes(bytes(1 << 24))
        except OSError as error:
            print(error.strerror)
        second = session.sandbox()
        try:
            await second
            print("started")  # its record still found room
        except AviatoError as error:
            print("refused", type(error).__name__, error.outcome)
        print((await first.exec(["echo", "goes on"])).stdout, end="")
        print(len(await session.list()) >= 1)
        fill.unlink()
        third = session.sandbox()
        print((await third.exec(["echo", "again"])).stdout, end="")

asyncio.run(main())
print(sorted(os.listdir(os.environ["AVIATO_HOME"] + "/sandboxes")))
"""


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


def run(home: Path, *before: str, shell: str = "", program: str = PROGRAM) -> str:
    """Run a program below other programs, after some words of shell."""
    done = subprocess.run(
        [*before, "sh", "-c", f'{shell}\nexec "$0" -c "$1"', sys.executable, program],
        env={**os.environ, "AVIATO_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    """The variable, its value and what it should be are named, and nothing was started."""
    (tmp_path / "file").touch()
    said = run(tmp_path / "file")
    assert said.startswith("ConfigurationError||not applied|AVIATO_HOME")
    assert str(tmp_path / "file") in said
    assert "hint: Set AVIATO_HOME" in said


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """As above."""
    (tmp_path / "closed").mkdir(mode=0o555)
    assert run(tmp_path / "closed" / "home").startswith("ConfigurationError||not applied|AVIATO_HOME")


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user cannot give a directory away")
def test_a_home_of_somebody_else(tmp_path: Path) -> None:
    """Its owner could put records there that are not ours."""
    os.chown(tmp_path, 12345, 12345)
    said = run(tmp_path)
    os.chown(tmp_path, 0, 0)
    assert "belongs to another user" in said


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("options", ["ro", "size=64k", "nr_inodes=8"])
@pytest.mark.fault("F14")
def test_a_disk_that_is_full_or_read_only(tmp_path: Path, options: str) -> None:
    """The reason is the system's, there is one of it, and nothing is left on the disk that was full."""
    said = run(
        tmp_path / "disk" / "home",
        "unshare",
        "--mount",
        shell=f"mkdir -p {tmp_path}/disk && mount -t tmpfs -o {options} tmpfs {tmp_path}/disk",
    )
    assert said.startswith("ConfigurationError||not applied|AVIATO_HOME"), said
    assert "Read-only file system" in said or "No space left on device" in said
    assert len(said) < 600


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.fault("F14")
def test_a_disk_that_fills_up_later(tmp_path: Path) -> None:
    """Creating is refused, what runs goes on, and when there is space again all is well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    said = run(disk / "home", "unshare", "--mount", shell=f"mount -t tmpfs -o size=4m tmpfs {disk}", program=FILLING)
    lines = said.splitlines()
    assert lines[0] == "No space left on device", said
    assert lines[1].split()[0] in {"refused", "started"}
    assert lines[2:] == ["goes on", "True", "again", "[]"], said


@pytest.mark.fault("F11")
def test_too_few_descriptors(tmp_path: Path) -> None:
    """The machine, or its limit, is exhausted: an error of that kind, and nothing hangs."""
    said = run(tmp_path / "home", shell="ulimit -n 20")
    assert said.startswith("SandboxResourceExhaustedError||not applied|"), said


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare of util-linux makes the namespace")
def test_user_namespaces_that_are_forbidden(tmp_path: Path) -> None:
    """The step is named, and the remedy; nothing weaker is started instead."""
    said = run(
        tmp_path / "home",
        "unshare",
        "--user",
        "--map-root-user",
        shell="echo 0 > /proc/sys/user/max_user_namespaces",
    )
    assert said.startswith("IsolationUnavailableError|user namespace|not applied|"), said
    assert "user.max_user_namespaces" in said
    assert "hint: " in said


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare of util-linux makes the namespace")
def test_root_of_a_container_is_an_ordinary_user(tmp_path: Path) -> None:
    """Where there are no ids to shift to, a sandbox is made as an ordinary user makes it."""
    assert run(tmp_path / "home", "unshare", "--user", "--map-root-user") == "ran\n"
