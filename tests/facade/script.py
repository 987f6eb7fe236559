"""Programs in interpreters of their own, with bounded waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30
FORKING = ("-W", "ignore:This process:DeprecationWarning")
"""Python 3.12 warns of every fork beside a thread, which is what some of these programs are about."""


class Script:
    """A running program."""

    def __init__(self, text: str, *options: str, **environment: str) -> None:
        search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        self.process = subprocess.Popen(
            [sys.executable, "-u", *options, *FORKING, "-c", textwrap.dedent(text)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": search, **environment},
        )

    def line(self) -> str:
        """Read the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: return code, the rest of the output, errors."""
        output, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, output, errors


@contextlib.contextmanager
def running(text: str, *options: str, **environment: str) -> Iterator[Script]:
    """Run a program, and kill it if it is still there at the end."""
    script = Script(text, *options, **environment)
    try:
        yield script
    finally:
        if script.process.poll() is None:
            script.process.kill()
        script.process.communicate(timeout=SECONDS)


def run(text: str, *options: str, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end."""
    with running(text, *options, **environment) as script:
        return script.end()
