"""Run all probes in one sandbox for each root file system, once, and keep what they said."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aviato import aio
from tests.helpers.local import home
from tests.isolation import images
from tests.isolation.world import Victim, world

PROBES = Path(__file__).with_name("probes")
GROUPS = ("calls", "files", "first", "proc", "processes", "rights", "network")
ROOTS = ("host", "image")
PACKAGE = "tests.isolation.probes"
INSIDE = "/workspace/tests/isolation/probes"


@dataclass(frozen=True)
class Answer:
    """What one probe said."""

    verdict: str
    detail: str


@dataclass(frozen=True)
class Told:
    """What a run told."""

    answers: dict[str, Answer]
    said: dict[str, str]
    context: dict[str, Any]
    reached_victim: str
    changed: list[str]


@dataclass(frozen=True)
class Root:
    """A root file system to run in."""

    image: str
    files: Path | None

    @property
    def shell(self) -> str:
        """A static or small shell, by its path inside."""
        if self.files is None:
            return os.path.realpath("/bin/sh")
        return "/bin/busybox" if (self.files / "bin/busybox").exists() else "/bin/sh"

    @property
    def locked(self) -> tuple[str, Path]:
        """A program of it, by its path inside and on this machine."""
        return (
            ("/usr/bin/env", Path("/usr/bin/env")) if self.files is None else (self.shell, self.files / self.shell[1:])
        )


@contextlib.contextmanager
def root(name: str) -> Iterator[Root]:
    """Give a root file system by its name; the image is imported for this time only."""
    if name == "host":
        yield Root("host", None)
        return
    with tempfile.TemporaryDirectory(prefix="aviato-tree-") as folder:
        image, files = images.imported(str(home()), Path(folder))
        try:
            yield Root(image, files)
        finally:
            images.removed(str(home()))


def parse(text: str) -> dict[str, Answer]:
    """Read the lines of a probe program."""
    found = {}
    for line in text.splitlines():
        name, verdict, *detail = line.split(" ", 2)
        found[name] = Answer(verdict, detail[0] if detail else "")
    return found


async def send(sandbox: aio.Sandbox, context: dict[str, Any]) -> None:
    """Put the probe programs into a sandbox."""
    for path in sorted(PROBES.glob("*.py")):
        await sandbox.write_file(f"{INSIDE}/{path.name}", path.read_bytes())
    await sandbox.write_file(f"{INSIDE}/context.json", json.dumps(context))


def copied(folder: Path) -> Path:
    """Put the probe programs below a folder of this machine, for the controls, and give where they are."""
    place = folder / "tests/isolation/probes"
    shutil.copytree(PROBES, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def _collect(place: Root, context: dict[str, Any], victim: Victim) -> Told:
    said, answers = {}, {}
    inside, outside = place.locked
    watched = [outside, Path(context["python_file"]), Path("/etc/passwd")]
    before = [_digest(path) for path in watched]
    with outside.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with aio.Sandbox.run(engine="local") as other, _sandbox(place) as sandbox:
            await other
            await sandbox
            records = home() / "sandboxes"
            supervisors = sorted(str(path) for path in (home() / "supervisors").glob("*.sock"))
            given = {
                **context,
                "locked": inside,
                "shell_inside": place.shell,
                "other": str(records / other.sandbox_id),
                "own": str(records / sandbox.sandbox_id),
                "supervisor": supervisors[0],
            }
            await send(sandbox, given)
            for group in GROUPS:
                done = await sandbox.exec(
                    ["python3", "-m", f"{PACKAGE}.{group}"], cwd="/workspace", timeout_seconds=120
                )
                assert done.returncode == 0, f"{group} ended with {done.returncode}: {done.stderr}"
                said[group] = done.stdout
                answers.update(parse(done.stdout))
    changed = [str(path) for path, digest in zip(watched, before, strict=True) if _digest(path) != digest]
    return Told(answers, said, given, victim.end(), changed)


def _sandbox(place: Root) -> aio.Sandbox:
    return aio.Sandbox.run(engine="local", container_image=place.image)


@functools.cache
def told(name: str) -> Told:
    """Run all probes on a root file system."""
    with root(name) as place, world() as (context, victim):
        return asyncio.run(_collect(place, context, victim))
