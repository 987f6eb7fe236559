"""`aviato cp` with paths that a sandbox has prepared, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Program
from tests.helpers.shapes import SECRET, SHAPES, Canary

Make = Callable[..., str]


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A file of this machine that nobody may touch."""
    made = Canary(tmp_path)
    yield made
    made.check()


def test_shapes(program: Program, detached: Make, canary: Canary, tmp_path: Path) -> None:
    """Each is one line on stderr, or a copy of a file of the sandbox; here appears only what was asked for."""
    sandbox_id = detached("sleep", "600")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"from here")
    for prepare, path in SHAPES.values():
        program("exec", sandbox_id, "sh", "-c", "rm -rf /tmp/*; " + canary.fill(prepare))
        remote = f"{sandbox_id}:{canary.fill(path)}"
        for arguments in ((remote, str(target)), (str(source), remote)):
            done = program("cp", *arguments)
            assert done.returncode in {0, 125}, (path, done)
            assert done.returncode == 0 or done.stderr.startswith(b"error: "), (path, done)
            assert b"Traceback" not in done.stderr
            assert not target.exists() or SECRET not in target.read_bytes()
            canary.check()
        target.unlink(missing_ok=True)
        assert {entry.name for entry in tmp_path.iterdir()} <= {"source", "canary-folder"}


@pytest.mark.parametrize("name", ["..", ".", "x/..", "link"])
def test_name_of_the_copy(program: Program, detached: Make, canary: Canary, tmp_path: Path, name: str) -> None:
    """A copy into a folder goes there under the file's own name: not above it, and through no link that is there."""
    sandbox_id = detached("sleep", "600")
    program("exec", sandbox_id, "sh", "-c", "mkdir -p /tmp/d/x; echo inside > /tmp/d/link")
    target = tmp_path / "target"
    target.mkdir()
    (target / "link").symlink_to(canary.file)
    done = program("cp", f"{sandbox_id}:/tmp/d/{name}", str(target))
    canary.check()
    assert {entry.name for entry in tmp_path.iterdir()} == {"target", "canary-folder"}
    assert {entry.name for entry in target.iterdir()} == {"link"}
    assert done.returncode == (0 if name == "link" else 125), done
    assert (target / "link").is_symlink() is (name != "link")
