"""Starts that pull their image from a registry: when one is asked, and what is told of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aviato
from aviato import aio
from aviato.models import PullProgress, PullState
from tests.helpers.docker import ask, require_docker, root_with_python
from tests.helpers.registry import OCI_LAYER, FakeRegistry, Image
from tests.local.test_images import pack

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """An image that is in a registry only; afterwards the daemon does not have it either."""
    require_docker()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    async with FakeRegistry() as registry:
        fresh = pack({"srv": None, "srv/random": os.urandom(2 << 20)})
        layers = [await asyncio.to_thread(root_with_python), fresh]
        name = registry.put(Image(layers, compress=bytes, layer_type=OCI_LAYER))
        yield name
        await asyncio.to_thread(ask, "DELETE", f"/images/{name}", params={"force": "1"})


async def test_a_pull_is_told_of(image: str) -> None:
    """Each layer to its end, on another thread than the loop's; the next start tells nothing and pulls nothing."""
    seen: list[PullProgress] = []
    threads = set()

    def saw(progress: PullProgress) -> None:
        seen.append(progress)
        threads.add(threading.current_thread().name)
        raise RuntimeError("a callback that fails")

    async with aio.Session({"container_image": image, "on_pull_progress": saw}, engine="docker") as session:
        assert (await session.sandbox().exec(["echo", "pulled"])).stdout == "pulled\n"
        assert seen[-1].state is PullState.UNPACKED
        assert seen[-1].bytes_done == seen[-1].bytes_total > 1 << 20
        assert threads == {"aviato-report"}
        seen.clear()
        assert (await session.sandbox(pull_policy="never").exec(["echo", "there"])).stdout == "there\n"
        assert not seen


async def test_an_image_that_may_not_be_pulled(image: str) -> None:
    """Is not there, and the error says by which command it would be."""
    async with aio.Session(engine="docker") as session:
        with pytest.raises(aviato.ImageNotFoundError, match="pull_policy") as caught:
            await session.sandbox(container_image=image, pull_policy="never")
        assert caught.value.image == image
        await session.sandbox(container_image=image, pull_policy="always")


async def test_the_program_shows_a_pull(image: str) -> None:
    """On stderr, before what the command writes."""
    command = [sys.executable, "-m", "aviato.cli", "run", "--engine", "docker", "--image", image]
    words = [*command, "--pull", "missing", "--", "sh", "-c", "echo out; echo err >&2"]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "out\n")
    lines = done.stderr.splitlines()
    assert [line.split()[1] for line in lines[-2:-1]] == ["unpacked"]
    assert lines[-1] == "err"
