"""Pulling from a registry as people run them, and sandboxes from what was pulled."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aviato import aio
from aviato.engines.local.images import ImageStore
from aviato.exceptions import AviatoAuthenticationError, ImageNotFoundError, ImagePlatformError
from aviato.models import PullProgress
from aviato.registry.platforms import here
from tests.helpers.docker_registry import docker_registry, htpasswd, push, push_document
from tests.helpers.registry import OCI_INDEX, Image, digest_of, index_of
from tests.local.test_hostile_archives import listed
from tests.local.test_images import LAYERS, pack


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry that lets everybody in."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with docker_registry(tmp_path) as found:
        yield found


@pytest.fixture
def store() -> Iterator[ImageStore]:
    """The store that sandboxes use; images that a test pulls are removed."""
    made = ImageStore(os.environ["AVIATO_HOME"])
    yield made
    for info in made.list():
        made.remove(info.name)


def busybox() -> list[bytes]:
    """Make the layers of a system of one program; the second removes and replaces files of the first."""
    program = shutil.which("busybox", path="/bin:/usr/bin")
    if program is None or "statically linked" not in _kind(program):
        pytest.skip("busybox is not installed, or not linked statically: apt-get install busybox-static")
    data = Path(program).read_bytes()
    links: dict[str, bytes | str | None] = {f"bin/{name}": "busybox" for name in ("sh", "cat", "ls", "echo")}
    system = pack({"bin": None, "bin/busybox": data, **links, "etc": None, "etc/old": b"old", "etc/motd": b"first\n"})
    return [system, pack({"etc": None, "etc/.wh.old": b"", "etc/motd": b"second\n", "data": None})]


def _kind(program: str) -> str:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return "statically linked" if "not a dynamic" in done.stdout + done.stderr else done.stdout


@pytest.mark.usefixtures("local_engine")
async def test_a_sandbox_runs_in_a_pulled_image(host: str, store: ImageStore) -> None:
    """Two layers with a whiteout become the root of a sandbox; the registry is not needed for it."""
    name = await push(host, Image(busybox()), "team/busybox", "1.0")
    info = await asyncio.to_thread(store.pull, name)
    assert info.name == f"{host}/team/busybox:1.0"
    async with aio.Sandbox.run(container_image=name, engine="local") as sandbox:
        result = await sandbox.exec(["sh", "-c", "cat /etc/motd; ls /etc/old || echo gone; ls /usr 2>&1"])
    assert result.stdout.startswith("second\ngone\n"), result.stdout + result.stderr
    assert "python" not in result.stdout


async def test_an_index_of_two_platforms(host: str, store: ImageStore) -> None:
    """This machine's variant comes out of an index; where there is none, those offered are named."""
    mine, other = Image(LAYERS), Image(LAYERS[:1], architecture="s390x")
    for image in (mine, other):
        await push(host, image, "app", f"v{len(image.layers)}")
    elsewhere = {"os": "linux", "architecture": "s390x"}
    both = index_of([(other, elsewhere), (mine, {"os": "linux", "architecture": here().architecture})])
    name = await push_document(host, both, OCI_INDEX, "app", "both")
    assert (await asyncio.to_thread(store.pull, name)).digest == digest_of(mine.config)
    assert listed(Path(store.resolve(name).root or "")) == ["bin", "etc", "etc/b"]
    by_digest = await push_document(host, both, OCI_INDEX, "app")
    assert (await asyncio.to_thread(store.pull, by_digest)).name == by_digest
    alone = await push_document(host, index_of([(other, elsewhere)]), OCI_INDEX, "app", "other")
    with pytest.raises(ImagePlatformError, match="linux/s390x"):
        await asyncio.to_thread(store.pull, alone)
    with pytest.raises(ImageNotFoundError, match="manifest unknown"):
        await asyncio.to_thread(store.pull, f"{host}/app:nosuch")
    with pytest.raises(ImageNotFoundError):
        await asyncio.to_thread(store.pull, f"{host}/nosuch")


async def test_ranges(host: str, store: ImageStore) -> None:
    """This registry resumes: a beginning in the store is completed."""
    image = Image([pack({"big": os.urandom(1 << 20)})])
    name = await push(host, image, "big")
    folder = Path(os.environ["AVIATO_HOME"]) / "images/blobs"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (digest_of(image.layers[0]).replace(":", "-") + ".partial")
    partial.write_bytes(image.layers[0][:500_000])
    seen: list[PullProgress] = []
    await asyncio.to_thread(store.pull, name, progress=seen.append)
    assert seen[0].bytes_done == 500_000
    assert min(step.bytes_done for step in seen) == 500_000


async def test_a_private_registry(tmp_path: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name and password from Docker's configuration let an image be pulled, and nothing else does."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    users = tmp_path / "users"
    users.write_text(htpasswd("me", "secret"))
    extra = f"auth:\n  htpasswd:\n    realm: private\n    path: {users}\n"
    with docker_registry(tmp_path, extra) as host:
        auth = base64.b64encode(b"me:secret").decode()
        name = await push(host, Image(LAYERS), "app", headers={"Authorization": f"Basic {auth}"})
        with pytest.raises(AviatoAuthenticationError):
            await asyncio.to_thread(store.pull, name)
        (tmp_path / "config.json").write_text(json.dumps({"auths": {f"http://{host}/v2/": {"auth": auth}}}))
        await asyncio.to_thread(store.pull, name)
