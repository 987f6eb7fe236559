"""Pulls that break off, are interrupted or killed, or fill the disk: the next one goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aviato.engines.local.archive import Limits
from aviato.engines.local.images import ImageStore
from aviato.exceptions import (
    EngineConnectionError,
    SandboxResourceExhaustedError,
)
from aviato.models import PullProgress, PullState
from aviato.registry.retries import Retries
from tests.helpers.registry import (
    FakeRegistry,
    Image,
    broken_off,
    digest_of,
)
from tests.local.pulling import BIG, ROOT, big_image, images_left, kept, once, pulled
from tests.local.test_hostile_archives import bound
from tests.local.test_images import LAYERS, pack

pytestmark = pytest.mark.usefixtures("docker_config")


class Interruption(BaseException):
    """Like KeyboardInterrupt, without its special paths in test runners."""


@pytest.mark.parametrize("state", [PullState.DOWNLOADING, PullState.DOWNLOADED, PullState.UNPACKED])
async def test_interruptions_at_any_step(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path, state: PullState
) -> None:
    """After each interrupted step the store has no image, the next pull succeeds, and nothing is left over."""
    image = Image([*LAYERS, pack({"more": b"m"})])
    name = registry.put(image)
    for number in range(1, 4):
        count = [0]

        def interrupt(progress: PullProgress, count: list[int] = count, number: int = number) -> None:
            count[0] += progress.state is state
            if count[0] == number:
                raise Interruption

        with pytest.raises(Interruption):
            await pulled(store, name, progress=interrupt)
        assert store.list() == []
        assert images_left(tmp_path) == []
        await pulled(store, name)
        assert len(kept(tmp_path)) == 3
        store.remove(name)
        assert kept(tmp_path) == images_left(tmp_path) == []


PULLER = """
import os, sys
from aviato.engines.local.images import ImageStore

def show(progress):
    print(progress.state, flush=True)

ImageStore(sys.argv[1]).pull(sys.argv[2], progress=show)
"""


def start_pulling(home: Path, name: str) -> subprocess.Popen[bytes]:
    """Pull in a process of its own, which writes a line for each step."""
    command = [sys.executable, "-c", PULLER, str(home), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_a_pull_that_is_ended(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path, number: signal.Signals
) -> None:
    """Whatever ends the process in the middle of a layer, the next pull goes on from there."""
    image = big_image()
    layer = image.layers[0]
    name = registry.put(image)
    ended = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(layer))})
        await response.prepare(request)
        await response.write(layer[: 2 << 20])
        await ended.wait()
        return response

    registry.faults.append(once(1, stall, digest_of(layer)))
    process = start_pulling(tmp_path / "home", name)
    with process:
        assert process.stdout is not None
        partial = tmp_path / "home/images/blobs" / (digest_of(layer).replace(":", "-") + ".partial")
        while await asyncio.to_thread(process.stdout.readline):
            if partial.exists() and partial.stat().st_size >= 1 << 20:
                break
        else:
            pytest.fail("the pull ended early")
        process.send_signal(number)
        said = await asyncio.to_thread(process.stdout.read)
    ended.set()
    assert process.returncode != 0, said
    assert store.list() == []
    assert partial.stat().st_size >= 1 << 20
    await pulled(store, name)
    assert "Range" in registry.asked(digest_of(layer))[-1]
    store.remove(name)
    assert kept(tmp_path) == images_left(tmp_path) == []


async def test_a_full_disk_while_downloading(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no longer fits ends the pull with the right error, and a later one goes on."""
    image = big_image()
    name = registry.put(image)
    real = os.pwrite

    def full(descriptor: int, data: Any, place: int) -> int:
        if place > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SandboxResourceExhaustedError, match="full"):
        await pulled(store, name)
    monkeypatch.undo()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (partial,) = kept(tmp_path)
    assert partial.endswith(".partial")
    await pulled(store, name)
    assert "Range" in registry.asked(digest_of(image.layers[0]))[-1]


async def test_what_cannot_fit_is_not_begun(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer larger than the disk is refused before it is downloaded, and one that unpacks too large after it."""
    image = big_image()
    name = registry.put(image)
    usage = shutil.disk_usage(tmp_path)._replace(free=65 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(SandboxResourceExhaustedError, match="are to be downloaded"):
        await pulled(store, name)
    assert registry.asked(digest_of(image.layers[0])) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 40))
    bound(monkeypatch, Limits(1 << 20))
    with pytest.raises(SandboxResourceExhaustedError, match="do not fit"):
        await pulled(store, name)
    assert images_left(tmp_path) == []


async def test_a_download_that_breaks_off_goes_on(store: ImageStore, registry: FakeRegistry) -> None:
    """The rest is asked for with a range, and only the rest."""
    image = big_image()
    layer = image.layers[0]
    name = registry.put(image)

    async def cut(request: web.Request) -> Any:
        return await broken_off(request, layer[: 2 << 20], len(layer)) if digest_of(layer) in request.path else None

    registry.faults.append(once(2, cut, digest_of(layer)))

    await pulled(store, name)
    ranges = [headers.get("Range") for headers in registry.asked(digest_of(layer))]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert (Path(store.resolve(name).root or "") / "big").read_bytes() == BIG


async def test_a_later_pull_goes_on(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """What came before the registry gave out stays in the store, and `collect` removes it when asked to."""
    image = big_image()
    layer = image.layers[0]
    name = registry.put(image)
    registry.faults.append(once(1, lambda request: broken_off(request, layer[: 2 << 20], len(layer)), digest_of(layer)))
    with pytest.raises(EngineConnectionError, match="broke in the middle"):
        await pulled(store, name, retries=Retries(attempts=1))
    (partial,) = kept(tmp_path)
    assert partial.endswith(".partial")
    assert store.list() == []
    await pulled(store, name)
    (_, second) = registry.asked(digest_of(layer))
    begun = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < begun < len(layer)
    assert kept(tmp_path) == [digest_of(layer).replace(":", "-")]


@pytest.mark.parametrize("begun", [b"", b"damaged", BIG * 2])
@pytest.mark.parametrize("resumes", [True, False])
async def test_any_beginning_leads_to_the_right_end(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path, begun: bytes, resumes: bool
) -> None:
    """A beginning that is damaged or too long, and a server that cannot resume, cost a new start and nothing else."""
    image = big_image()
    name = registry.put(image)
    folder = tmp_path / "home/images/blobs"
    folder.mkdir(parents=True)
    (folder / (digest_of(image.layers[0]).replace(":", "-") + ".partial")).write_bytes(begun)
    if not resumes:

        async def whole(request: web.Request) -> web.Response:
            return web.Response(body=image.layers[0])

        registry.faults.append(once(99, whole, digest_of(image.layers[0])))
    await pulled(store, name)
    assert (Path(store.resolve(name).root or "") / "big").read_bytes() == BIG
