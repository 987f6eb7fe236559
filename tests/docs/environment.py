"""The surroundings in which documentation is run: its own state directory, and `aviato` on the path."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import aviato

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-W", "error"]


def page_environment(directory: Path, *, engine: str | None = None) -> dict[str, str]:
    """Return the environment for a fresh interpreter that uses the `aviato` which is being tested.

    Args:
        directory: An empty directory for the state and the helpers.
        engine: Engine to use where a program names none; `"fake"` is `FakeEngine`, found as an installed package's
            engine would be.
    """
    programs, packages, state = directory / "bin", directory / "site", directory / "state"
    for path in (programs, packages, state):
        path.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    program = programs / "aviato"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aviato.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    distribution = packages / "aviato_fake_engine-1.0.dist-info"
    distribution.mkdir(exist_ok=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: aviato-fake-engine\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[aviato.engines]\nfake = aviato.testing:FakeEngine\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AVIATO_", "PYTHON", "COV"))}
    environment = {
        **inherited,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": f"{packages}:{Path(aviato.__file__).resolve().parents[1]}",
        "AVIATO_HOME": str(state),
        "HOME": str(directory),
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    if engine is not None:
        environment["AVIATO_ENGINE"] = engine
    return environment
