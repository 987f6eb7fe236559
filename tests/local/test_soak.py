"""The soak program in its short form, and that it finds what it looks for."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.local import require_local

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="aviato-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_stays(tmp_path: Path) -> None:
    """Eighty sandboxes with every fault; the seed is in the output."""
    require_local()
    file = tmp_path / "soak.json"
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--short", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["sandboxes"] == 80
    assert result["failures"] == []


def test_what_is_left_is_found(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process, a socket, a lock, a file and a directory, each by its name; what may stay is not named."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    soak = importlib.import_module("soak")
    home = short_path
    for name in ("sandboxes", "slots", "supervisors", "images/names"):
        (home / name).mkdir(parents=True)
    for name in ("slots/7", "supervisors/log", "images/lock"):
        (home / name).touch()
    traces = soak.Traces(str(home))
    assert traces.everything(set()) == []

    (home / "sandboxes/sbx-0123456789abcdef").mkdir()
    (home / "corrupt").mkdir()
    (home / "corrupt/x").touch()
    sleep = shutil.which("sleep")
    assert sleep is not None
    process = subprocess.Popen([sleep, "60"], env={"AVIATO_SOAK": str(home)})
    try:
        with (home / "slots/7").open("w") as file, contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
            fcntl.flock(file, fcntl.LOCK_EX)
            listening.bind(str(home / "supervisors/a.sock"))
            found = "\n".join(traces.everything(set()))
    finally:
        process.kill()
        process.wait()
    for said in (
        f"process {process.pid} of {home}",
        "/proc/net/unix: ",
        f"lock on {home}/slots/7 held by {os.getpid()}",
        f"file {home}/supervisors/a.sock",
        f"file {home}/corrupt/x",
        f"directory {home}/sandboxes/sbx-0123456789abcdef",
    ):
        assert said in found, said
