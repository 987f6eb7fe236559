"""Running the program, in this process and as one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.local import require_local

ROOT = Path(__file__).parents[2]


class Program:
    """The program `aviato` as real processes with pipes."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL, **extra: str) -> subprocess.Popen[bytes]:
        """Start it; what still runs at the end of the test is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "aviato.cli", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **extra},
        )
        self._running.append(process)
        return process

    def __call__(self, *arguments: str, data: bytes | None = None, **extra: str) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        process = self.start(*arguments, stdin=subprocess.DEVNULL if data is None else subprocess.PIPE, **extra)
        out, err = process.communicate(data, timeout=30)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def close(self) -> None:
        """Kill what still runs, and close the pipes."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


@pytest.fixture
def program() -> Iterator[Program]:
    """The program, on this machine's local engine."""
    require_local()
    made = Program()
    yield made
    made.close()


@pytest.fixture
def detached(program: Program) -> Iterator[Callable[..., str]]:
    """Make detached sandboxes, which are removed at the end."""
    ids: list[str] = []

    def make(*arguments: str) -> str:
        done = program("run", "--detach", *arguments)
        assert done.returncode == 0, done.stderr
        ids.append(done.stdout.decode().strip())
        return ids[-1]

    yield make
    for sandbox_id in ids:
        program("rm", sandbox_id)
