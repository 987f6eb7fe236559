"""mypy and pyright see exact types on both faces, and find the mistakes that they should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD = [str(HERE / "sync_api.py"), str(HERE / "async_api.py")]
BAD = HERE / "negative.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed beside this interpreter")
    return found


def _wrong() -> list[int]:
    lines = BAD.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]


def _mypy(*files: str) -> tuple[int, str]:
    options = ["--strict", "--no-error-summary", "--hide-error-context", "--follow-imports=silent"]
    command = [_tool("mypy"), *options, *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def _pyright(*files: str) -> list[tuple[str, int, str]]:
    # Without it pyright asks whichever python is first on PATH for the packages.
    command = [_tool("pyright"), "--pythonpath", sys.executable, "--outputjson", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        (item["file"], item["range"]["start"]["line"] + 1, item["message"])
        for item in found
        if item["severity"] == "error"
    ]


def test_exact_types_under_mypy() -> None:
    """Every `assert_type` holds under `mypy --strict`."""
    code, output = _mypy(*GOOD)
    assert [line for line in output.splitlines() if line.startswith("tests/typing/")] == []
    assert code == 0, output


def test_exact_types_under_pyright() -> None:
    """Every `assert_type` holds under pyright."""
    assert _pyright(*GOOD) == []


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """The file of mistakes without the line that hides them."""
    path = tmp_path / "negative.py"
    path.write_text("#" + BAD.read_text().removeprefix("# type: ignore"))
    return str(path)


def test_mistakes_are_found_by_mypy(bad: str) -> None:
    """Of the mistakes mypy finds each, one a line, and no others."""
    _, output = _mypy(bad)
    found = [int(match) for match in re.findall(r"negative\.py:(\d+): error", output)]
    assert found == _wrong(), output
    assert len(found) == 18


def test_mistakes_are_found_by_pyright(bad: str) -> None:
    """Of the mistakes pyright finds each."""
    found = sorted({line for _, line, _ in _pyright(bad)})
    assert found == _wrong()
    assert len(found) == 18
