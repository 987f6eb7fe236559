"""The files that the agent writes before anything runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import AgentProcess

if TYPE_CHECKING:
    from pathlib import Path


async def test_they_are_there_before_the_main_command(tmp_path: Path) -> None:
    """Whole, whatever bytes they hold, and for one user to read."""
    large = os.urandom(300_000)
    files = {tmp_path / "a": b"\0\xff\n", tmp_path / "b": large, tmp_path / "c": b""}
    secrets = [(os.fsencode(path), content) for path, content in files.items()]
    main = [b"sh", b"-c", b'test -s "$0" && exit 7', os.fsencode(tmp_path / "a")]
    async with AgentProcess(tmp_path, secrets=secrets, main=main) as agent:
        assert await agent.exit_code() == 7
    for path, content in files.items():
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o400
        assert path.stat().st_uid == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_they_belong_to_the_user_of_commands(tmp_path: Path) -> None:
    """Also where the agent itself may not give files away."""
    place = tmp_path / "place"
    place.mkdir(0o700)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    secrets = [(os.fsencode(place / "a"), b"x")]
    async with AgentProcess(tmp_path, secrets=secrets, user=b"1234:4321", main=[b"id", b"-u"]) as agent:
        assert await agent.exit_code() == 0
    found = (place / "a").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 4321, 0o400)


@pytest.mark.parametrize("kind", ["file", "link", "nowhere"])
async def test_a_place_that_is_taken(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing runs, nothing is written through a link, and what is said does not hold the secret."""
    place = tmp_path / "a"
    target = tmp_path / "target"
    if kind == "file":
        place.write_text("old")
    elif kind == "link":
        place.symlink_to(target)
    else:
        place = tmp_path / "missing" / "a"
    main = [b"touch", os.fsencode(tmp_path / "ran")]
    agent = AgentProcess(tmp_path, secrets=[(os.fsencode(place), b"correct horse")], main=main)
    try:
        assert await agent.line() == ""
        assert await agent.exit_code() == 70
    finally:
        await agent.__aexit__()
    assert not target.exists()
    assert not (tmp_path / "ran").exists()
    assert kind != "file" or place.read_text() == "old"
    said = capfd.readouterr().err
    assert "aviato agent: " in said
    assert "correct horse" not in said
