"""`aviato image pull`: what it prints, on a terminal and elsewhere, and how it ends."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.conftest import ROOT
from tests.helpers.registry import FakeRegistry, Image, digest_of
from tests.local.test_images import LAYERS


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeRegistry]:
    """A registry, a store of its own, and nobody's logins."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("AVIATO_HOME", str(tmp_path / "home"))
    async with FakeRegistry() as made:
        yield made


async def run(*arguments: str, stderr: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Run the program; return its exit code, stdout and stderr."""
    command = [sys.executable, "-m", "aviato.cli", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, check=False, timeout=30
    )
    return done.returncode, done.stdout.decode(), (done.stderr or b"").decode()


async def test_lines(registry: FakeRegistry) -> None:
    """Where nobody watches, each step of each layer is a line on stderr, and the result alone is on stdout."""
    image = Image(LAYERS)
    name = registry.put(image)
    code, out, err = await run("image", "pull", name)
    assert (code, out) == (0, f"{name} {digest_of(image.config)} 14 B\n")
    for layer in image.layers:
        short = digest_of(layer).removeprefix("sha256:")[:12]
        steps = [line.split()[1] for line in err.splitlines() if line.startswith(short)]
        assert steps == ["downloading", "downloaded", "unpacked"]
    code, out, err = await run("image", "pull", "--policy", "never", name)
    assert (code, out, err) == (0, f"{name} {digest_of(image.config)} 14 B\n", "")


async def test_bars(registry: FakeRegistry) -> None:
    """A terminal shows a bar for each layer."""
    image = Image(LAYERS)
    name = registry.put(image)
    ours, theirs = pty.openpty()
    try:
        code, out, _ = await run("image", "pull", name, stderr=theirs)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (code, out) == (0, f"{name} {digest_of(image.config)} 14 B\n")
    assert digest_of(image.layers[0]).removeprefix("sha256:")[:12] in shown
    assert "unpacked" in shown


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("{host}/nosuch:1", 125, "error: image '{host}/nosuch:1' is not in the registry {host}"),
        ("127.0.0.1:1/app", 125, "error: registry 127.0.0.1:1 cannot be reached: no connection"),
        ("Bad Name", 2, "error: image must be a name"),
        ("host", 2, "error: image 'host' is this machine's own"),
    ],
)
@pytest.mark.slow
async def test_errors(registry: FakeRegistry, name: str, code: int, said: str) -> None:
    """An error is a line, a hint and an exit code."""
    done = await run("image", "pull", name.format(host=registry.host))
    assert done[:2] == (code, "")
    assert done[2].startswith(said.format(host=registry.host))


async def test_prune_removes_what_interrupted_pulls_left(registry: FakeRegistry, tmp_path: Path) -> None:
    """The beginning of a layer stays for the next pull, until `prune`."""
    image = Image(LAYERS[:1])
    name = registry.put(image)

    async def forbid(request: web.Request) -> web.Response | None:
        return web.Response(status=403) if digest_of(image.layers[0]) in request.path else None

    registry.faults.append(forbid)
    code, _, err = await run("image", "pull", name)
    assert (code, err.splitlines()[-2].split(":")[0]) == (125, "error")
    folder = tmp_path / "home/images/blobs"
    assert len(list(folder.glob("*.partial"))) == 1
    _, out, _ = await run("prune")
    assert out == "1 unused image directory or download\n"
    assert list(folder.glob("*.partial")) == []


async def test_ctrl_c(registry: FakeRegistry) -> None:
    """An interrupted pull ends at once with 130 and without a traceback."""
    image = Image(LAYERS[:1])
    name = registry.put(image)
    asked, done = asyncio.Event(), asyncio.Event()

    async def stall(request: web.Request) -> web.Response | None:
        if digest_of(image.layers[0]) in request.path:
            asked.set()
            await done.wait()
        return None

    registry.faults.append(stall)
    process = start("image", "pull", name)
    with process:
        await asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(process.communicate)
        done.set()
    assert process.returncode == 130, err
    assert b"Traceback" not in err


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the program."""
    command = [sys.executable, "-m", "aviato.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
