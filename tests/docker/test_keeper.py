"""The script that keeps an image without Python, as the first process of a namespace; no daemon is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aviato.engines.docker.keeper import KEEP
from aviato.engines.docker.stage import TOKEN_VARIABLE

pytestmark = pytest.mark.skipif(not shutil.which("unshare"), reason="unshare of util-linux makes the namespace")
STORM = "(i=0; while [ $i -lt 15000 ]; do kill -USR1 1; kill -CHLD 1; kill -USR1 1; i=$((i + 1)); done; {}) &"
LONG = 100_000  # hundredths of a second: no limit ends a test


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A shell under the name that images give it."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    path = tmp_path / "sh"
    path.symlink_to(found)
    return path


@contextmanager
def keeping(shell: Path, main: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Give the keeping shell, which the output of its main command has told of, and its number out here."""
    ours = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    isolated = ["unshare", *ours, "--pid", "--fork", "--kill-child", "--mount-proc"]
    limits_and_pace = [*[str(LONG)] * 3, "1"]
    keeper = subprocess.Popen(
        [*isolated, str(shell), "-c", KEEP, str(shell), *limits_and_pace, str(shell), "-c", main],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, TOKEN_VARIABLE: "token"},
    )
    with keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == b"on\n"
            children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text()
            yield keeper, int(children.split()[0])
        finally:
            keeper.kill()


def words(keeper: subprocess.Popen[bytes]) -> str:
    """Wait for its end, and return its last words; before them a command's shell may tell what was terminated."""
    assert keeper.stderr is not None
    return keeper.stderr.read().decode().splitlines()[-1]


def test_a_storm_of_signals_does_not_end_it(shell: Path) -> None:
    """Traps that interrupt traps leave it as it is, and it is stopped as ever, the grace of its command included."""
    calm = "trap 'echo told; exit 5' TERM; echo on; " + STORM.format("echo over") * 3
    calm += " wait; echo calm; while :; do sleep 0.01; done"
    with keeping(shell, calm) as (keeper, pid):
        assert keeper.stdout is not None
        assert [keeper.stdout.readline() for _ in range(4)] == [b"over\n"] * 3 + [b"calm\n"]
        os.kill(pid, signal.SIGTERM)
        assert words(keeper) == "token 2 5"
        assert keeper.stdout.read() == b"told\n"


def test_a_stop_in_a_storm_has_its_grace(shell: Path) -> None:
    """SIGTERM among a thousand other signals is one request to stop, not two."""
    stubborn = "trap 'echo told; sleep 0.1; exit 5' TERM; echo on; " + STORM.format(":") * 3 + " while :; do wait; done"
    with keeping(shell, stubborn) as (keeper, pid):
        assert keeper.stdout is not None
        os.kill(pid, signal.SIGTERM)
        assert words(keeper) == "token 2 5"
        assert keeper.stdout.read() == b"told\n"


def test_a_storm_does_not_change_the_code_of_the_main_command(shell: Path) -> None:
    """Whenever it ends, it is the command's own."""
    with keeping(shell, "echo on; " + STORM.format(":") * 3 + " sleep 0.2; exit 7") as (keeper, _):
        assert words(keeper) == "token 1 7"
        assert keeper.wait() == 7
