"""Pulling into the image store from a registry: what comes, what is shared, what is refused, and what is left."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aviato.engines.local import pull, tarstream
from aviato.engines.local.archive import Limits
from aviato.engines.local.images import ImageInfo, ImageStore
from aviato.engines.local.tarstream import ArchiveError
from aviato.exceptions import (
    AviatoAuthenticationError,
    CapabilityError,
    EngineConnectionError,
    EngineProtocolError,
    EngineResponseError,
    ImageDigestError,
    ImageNotFoundError,
    ImagePlatformError,
    SandboxResourceExhaustedError,
)
from aviato.registry import transport
from aviato.registry.platforms import here
from aviato.registry.progress import PullProgress, PullState
from aviato.registry.retries import Retries
from tests.helpers.registry import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    FakeRegistry,
    Image,
    broken_off,
    descriptor,
    digest_of,
    index_of,
)
from tests.local.archives import Arena, entry
from tests.local.hostile_archives import REFUSED, SAFE
from tests.local.test_hostile_archives import ELSEWHERE, bound, listed
from tests.local.test_images import LAYERS, left, pack

ROOT = Path(__file__).parents[2]
QUICK = Retries(base=0.0)
HERE = {"os": "linux", "architecture": here().architecture}
BIG = os.urandom(3 << 20)


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's logins and proxies out of the tests."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return folder / "config.json"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An empty store."""
    return ImageStore(str(tmp_path / "home"))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """A registry that behaves until it is told not to."""
    async with FakeRegistry() as made:
        yield made


async def pulled(store: ImageStore, name: str, **options: Any) -> ImageInfo:
    """Pull as an asynchronous program does."""
    return await asyncio.to_thread(store.pull, name, **{"retries": QUICK, **options})


def kept(tmp_path: Path) -> list[str]:
    """List the layers that the store keeps, whole ones and beginnings."""
    folder = tmp_path / "home/images/blobs"
    return sorted(path.name for path in folder.iterdir() if path.name != "lock") if folder.exists() else []


def images_left(tmp_path: Path) -> list[str]:
    """List everything in the store but its layers."""
    return [name for name in left(tmp_path) if name != "blobs"]


async def test_an_image_is_pulled(store: ImageStore, registry: FakeRegistry) -> None:
    """Layers are applied in order with their whiteouts, and the configuration is that of the image."""
    image = Image(LAYERS, config={"Env": ["A=b"], "WorkingDir": "/etc", "Cmd": ["tool"]})
    name = registry.put(image)
    seen: list[PullProgress] = []
    info = await pulled(store, name, progress=seen.append)
    assert (info.name, info.digest, info.command) == (name, digest_of(image.config), ("tool",))
    found = store.resolve(name)
    assert (found.environment, found.working_dir) == ({"A": "b"}, "/etc")
    assert listed(Path(found.root or "")) == ["bin", "etc", "etc/b"]
    assert (Path(found.root or "") / "etc/b").read_bytes() == b"changed"
    for layer in image.layers:
        states = [step.state for step in seen if step.digest == digest_of(layer)]
        assert (states[0], states[-1]) == (PullState.DOWNLOADING, PullState.UNPACKED)
        assert PullState.DOWNLOADED in states
    assert all(0 <= step.bytes_done <= step.bytes_total for step in seen)


async def test_without_the_registry_it_still_is_there(store: ImageStore) -> None:
    """After a pull nothing is asked of the registry: it may be gone."""
    async with FakeRegistry() as registry:
        name = registry.put(Image(LAYERS))
        await pulled(store, name)
    assert store.resolve(name).root is not None
    for policy in ("missing", "never"):
        assert (await pulled(store, name, policy=policy)).name == name
    with pytest.raises(EngineConnectionError, match="no connection") as caught:
        await pulled(store, name)
    assert isinstance(caught.value, ConnectionError)
    assert not isinstance(caught.value, EngineProtocolError)


async def test_policies(store: ImageStore, registry: FakeRegistry) -> None:
    """`always` follows a tag that moved, `missing` asks only once, and `never` not at all."""
    name = registry.put(Image(LAYERS))
    with pytest.raises(ImageNotFoundError):
        await pulled(store, name, policy="never")
    assert registry.requests == []
    first = await pulled(store, name, policy="missing")
    registry.put(Image(LAYERS[:1]))
    assert await pulled(store, name, policy="missing") == first
    assert (await pulled(store, name, policy="always")).digest != first.digest
    with pytest.raises(ValueError, match="policy must be"):
        await pulled(store, name, policy="sometimes")


async def test_an_image_that_is_there_is_not_downloaded_again(store: ImageStore, registry: FakeRegistry) -> None:
    """A second pull asks for the manifest only."""
    name = registry.put(Image(LAYERS))
    first = await pulled(store, name)
    registry.requests.clear()
    assert await pulled(store, name) == first
    assert registry.asked("/blobs/") == []


async def test_layers_are_shared(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """An image's layer that another image brought is not downloaded again, and goes with the last of them."""
    first, second = Image(LAYERS), Image([LAYERS[0], pack({"new": b"n"})])
    names = registry.put(first, "first"), registry.put(second, "second")
    await pulled(store, names[0])
    seen: list[PullProgress] = []
    await pulled(store, names[1], progress=seen.append)
    assert len(registry.asked(digest_of(first.layers[0]))) == 1
    assert seen[0] == PullProgress(
        digest_of(first.layers[0]), len(first.layers[0]), len(first.layers[0]), PullState.PRESENT
    )
    assert len(kept(tmp_path)) == 3
    store.remove(names[0])
    assert kept(tmp_path) == sorted(digest_of(layer).replace(":", "-") for layer in second.layers)
    assert listed(Path(store.resolve(names[1]).root or "")) == [
        "bin",
        "etc",
        "etc/a",
        "etc/b",
        "new",
        "old",
        "old/file",
    ]
    store.remove(names[1])
    assert kept(tmp_path) == []
    assert images_left(tmp_path) == []


async def test_a_layer_that_comes_twice(store: ImageStore, registry: FakeRegistry) -> None:
    """The same layer at two places is downloaded once and applied at both."""
    again = pack({"again": b"x"})
    name = registry.put(Image([again, pack({".wh.again": b""}), again]))
    await pulled(store, name)
    assert listed(Path(store.resolve(name).root or "")) == ["again"]
    assert len(registry.asked(digest_of(gzip.compress(again, mtime=0)))) == 1


async def test_a_damaged_layer_in_the_store_is_replaced(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    """What the disk has spoilt is noticed before it is used, and downloaded anew."""
    image = Image(LAYERS)
    await pulled(store, registry.put(image, "first"))
    path = tmp_path / "home/images/blobs" / digest_of(image.layers[0]).replace(":", "-")
    path.write_bytes(b"rot")
    await pulled(store, registry.put(Image([LAYERS[0]]), "second"))
    assert path.read_bytes() == image.layers[0]


@pytest.mark.parametrize("suffix", ["", "+gzip", "+zstd"])
async def test_compressions(store: ImageStore, registry: FakeRegistry, suffix: str) -> None:
    """Layers are plain, or compressed with gzip or zstd."""
    zstd = tarstream.zstd_module()
    if suffix == "+zstd" and zstd is None:
        pytest.skip("neither compression.zstd nor backports.zstd is installed")
    compress = {"": bytes, "+gzip": gzip.compress, "+zstd": zstd.compress if zstd else bytes}[suffix]
    name = registry.put(Image(LAYERS, compress, f"{OCI_LAYER}{suffix}"))
    await pulled(store, name)
    assert (Path(store.resolve(name).root or "") / "etc/b").read_bytes() == b"changed"


async def test_zstd_without_its_module(
    store: ImageStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be unpacked is not downloaded, and the error says what to install."""
    monkeypatch.setattr(pull, "zstd_module", lambda: None)
    name = registry.put(Image(LAYERS, bytes, f"{OCI_LAYER}+zstd"))
    with pytest.raises(CapabilityError, match="zstd") as caught:
        await pulled(store, name)
    assert caught.value.hint == "pip install 'aviato[zstd]'"
    assert not any(registry.asked(digest_of(layer)) for layer in LAYERS)


async def test_by_digest(store: ImageStore, registry: FakeRegistry) -> None:
    """A name with a digest is that very manifest, and another one under it is refused."""
    image = Image(LAYERS)
    registry.put(image)
    name = f"{registry.host}/app@{digest_of(image.manifest)}"
    assert (await pulled(store, name)).name == name
    wrong = f"{registry.host}/app@{'sha256:' + '1' * 64}"
    registry.documents[f"/v2/app/manifests/sha256:{'1' * 64}"] = (image.manifest, OCI_MANIFEST)
    with pytest.raises(ImageDigestError) as caught:
        await pulled(store, wrong)
    assert (caught.value.expected, caught.value.actual) == (f"sha256:{'1' * 64}", digest_of(image.manifest))


async def test_an_index_gives_this_machines_variant(store: ImageStore, registry: FakeRegistry) -> None:
    """The variant for this machine is chosen; what is attached to it, and other machines', are passed over."""
    image, other = Image(LAYERS), Image(LAYERS[:1])
    registry.put(image)
    index = index_of(
        [
            (other, {"os": "unknown", "architecture": "unknown"}),
            (other, {"os": "linux", "architecture": "s390x"}),
            (other, {"os": "windows", "architecture": here().architecture}),
            (image, HERE),
        ]
    )
    inner = index_of([(image, HERE)])
    outer = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(inner, OCI_INDEX)]}
    ).encode()
    registry.put_document(inner, OCI_INDEX)
    for document in (index, outer):
        name = registry.put_document(document, OCI_INDEX)
        assert (await pulled(store, name)).digest == digest_of(image.config)


async def test_no_variant_for_this_machine(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """It is an error of its own that names those offered, from an index and from a single image."""
    image = Image(LAYERS)
    offered = [{"os": "linux", "architecture": "s390x"}, {"os": "linux", "architecture": "arm", "variant": "v7"}]
    name = registry.put_document(index_of((image, platform) for platform in offered), OCI_INDEX)
    with pytest.raises(ImagePlatformError, match="linux/arm/v7, linux/s390x") as caught:
        await pulled(store, name)
    assert caught.value.offered == ("linux/arm/v7", "linux/s390x")
    assert (caught.value.image, caught.value.wanted) == (name, str(here()))
    single = registry.put(Image(LAYERS, architecture="s390x"), "single")
    with pytest.raises(ImagePlatformError, match="linux/s390x"):
        await pulled(store, single)
    assert kept(tmp_path) == images_left(tmp_path) == []


async def test_unknown_images(store: ImageStore, registry: FakeRegistry) -> None:
    """What the registry does not have is ImageNotFoundError with the name and what to do."""
    with pytest.raises(ImageNotFoundError, match="is not in the registry") as caught:
        await pulled(store, f"{registry.host}/nosuch:1")
    assert caught.value.image == f"{registry.host}/nosuch:1"
    assert f"docker login {registry.host}" in (caught.value.hint or "")


def once(times: int, answer: Callable[[web.Request], Any], part: str = "/blobs/") -> Any:
    """Make a fault that happens a number of times."""
    left_over = [times]

    async def fault(request: web.Request) -> Any:
        if part in request.path and left_over[0]:
            left_over[0] -= 1
            return await answer(request)
        return None

    return fault


def big_image() -> Image:
    """Make an image whose layer is too large for one packet."""
    return Image([pack({"big": BIG})], bytes, OCI_LAYER)


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


async def _another(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data)


async def _endless(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        try:
            await response.write(b"x" * 65536)
        except ConnectionError:
            break
    return response


async def _wrong_part(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=206, body=data[5:], headers={"Content-Range": f"bytes 5-{len(data) - 1}/{len(data)}"})


WRONG: dict[str, tuple[type[Exception], Callable[[web.Request, bytes], Any]]] = {
    "other bytes": (ImageDigestError, lambda request, data: _another(request, b"x" * len(data))),
    "fewer bytes": (ImageDigestError, lambda request, data: _another(request, data[:-1])),
    "more bytes": (ImageDigestError, lambda request, data: _another(request, data + b"x")),
    "nothing": (ImageDigestError, lambda request, data: _another(request, b"")),
    "bytes without end": (ImageDigestError, _endless),
    "another part": (EngineProtocolError, _wrong_part),
}


@pytest.mark.parametrize("what", WRONG)
async def test_wrong_layers(store: ImageStore, registry: FakeRegistry, tmp_path: Path, what: str) -> None:
    """A layer that is not what was promised is refused, and neither it nor the image is kept."""
    image = Image(LAYERS[:1])
    name = registry.put(image)
    error, answer = WRONG[what]
    registry.faults.append(once(99, lambda request: answer(request, image.layers[0]), digest_of(image.layers[0])))
    with pytest.raises(error):
        await pulled(store, name)
    assert [size for file in kept(tmp_path) if (size := (tmp_path / "home/images/blobs" / file).stat().st_size)] == []
    assert images_left(tmp_path) == []
    registry.faults.clear()
    await pulled(store, name)


@pytest.mark.parametrize("what", ["other bytes", "fewer bytes", "more bytes", "bytes without end"])
async def test_wrong_configurations(store: ImageStore, registry: FakeRegistry, what: str) -> None:
    """So is a configuration."""
    image = Image(LAYERS[:1])
    name = registry.put(image)
    registry.faults.append(once(99, lambda request: WRONG[what][1](request, image.config), digest_of(image.config)))
    with pytest.raises(ImageDigestError):
        await pulled(store, name)


async def test_layers_of_another_diff_id(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """A layer that the manifest promises and the configuration does not know is refused after it is unpacked."""
    image = Image(LAYERS, rootfs={"diff_ids": [digest_of(b"other")] * 2})
    with pytest.raises(ArchiveError, match="is damaged"):
        await pulled(store, registry.put(image))
    assert images_left(tmp_path) == []


def manifest_of(**changes: Any) -> bytes:
    """Make a manifest of what no registry needs to have."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", OCI_CONFIG),
        "layers": [descriptor(b"layer", OCI_LAYER)],
    }
    return json.dumps(document | changes).encode()


LAYER = descriptor(b"layer", OCI_LAYER)
BAD_DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "huge": (b" " * (5 << 20), OCI_MANIFEST),
    "not JSON": (b"<html>", OCI_MANIFEST),
    "deep": (b"[" * 100_000, OCI_MANIFEST),
    "a list": (b"[]", OCI_MANIFEST),
    "empty": (b"{}", OCI_MANIFEST),
    "schema 1": (b'{"schemaVersion": 1, "fsLayers": []}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    "another type": (manifest_of(), "text/html"),
    "two types": (manifest_of(), OCI_INDEX),
    "both": (manifest_of(manifests=[]), OCI_MANIFEST),
    "an empty index": (b'{"schemaVersion": 2, "manifests": []}', OCI_INDEX),
    "layers that are a number": (manifest_of(layers=7), OCI_MANIFEST),
    "too many layers": (manifest_of(layers=[LAYER] * 513), OCI_MANIFEST),
    "a path for a digest": (manifest_of(layers=[LAYER | {"digest": "sha256:../../../../etc/passwd"}]), OCI_MANIFEST),
    "a negative size": (manifest_of(layers=[LAYER | {"size": -1}]), OCI_MANIFEST),
    "a size that is text": (manifest_of(layers=[LAYER | {"size": "1"}]), OCI_MANIFEST),
    "an enormous configuration": (manifest_of(config=descriptor(b"", OCI_CONFIG) | {"size": 1 << 40}), OCI_MANIFEST),
    "no configuration": (manifest_of(config=None), OCI_MANIFEST),
    "a chart": (manifest_of(config=descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")), OCI_MANIFEST),
    "a layer elsewhere": (
        manifest_of(layers=[descriptor(b"x", "application/vnd.oci.image.layer.nondistributable.v1.tar")]),
        OCI_MANIFEST,
    ),
}


@pytest.mark.parametrize("what", BAD_DOCUMENTS)
async def test_bad_documents(store: ImageStore, registry: FakeRegistry, tmp_path: Path, what: str) -> None:
    """A manifest that is malformed, hostile or of something else is EngineProtocolError, and nothing is fetched."""
    data, media_type = BAD_DOCUMENTS[what]
    name = registry.put_document(data, media_type)
    with pytest.raises(EngineProtocolError) as caught:
        await pulled(store, name)
    assert len(str(caught.value)) < 1000
    assert registry.asked("/blobs/") == []
    assert kept(tmp_path) == images_left(tmp_path) == []


async def test_an_index_of_itself(store: ImageStore, registry: FakeRegistry) -> None:
    """Indexes that only lead to indexes end."""
    document, name = b"{}", ""
    for _ in range(6):
        entries = [descriptor(document, OCI_INDEX)]
        document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        name = registry.put_document(document, OCI_INDEX)
    with pytest.raises(EngineProtocolError, match="indexes only"):
        await pulled(store, name)


async def test_a_registry_that_names_another_digest(store: ImageStore, registry: FakeRegistry) -> None:
    """The digest in the answer's header must be that of what was sent."""
    image = Image(LAYERS)
    name = registry.put(image)

    async def lie(request: web.Request) -> web.Response:
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": f"sha256:{'2' * 64}"}
        return web.Response(body=image.manifest, headers=headers)

    registry.faults.append(once(1, lie, "/manifests/"))
    with pytest.raises(ImageDigestError):
        await pulled(store, name)


async def test_redirects_do_not_carry_the_login(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """Layers may lie on another server, which does not see the Authorization of the registry."""
    login(docker_config, registry.host)
    image = Image(LAYERS)
    name = registry.put(image)
    registry.faults.append(basic)
    async with FakeRegistry() as elsewhere:
        elsewhere.put(image)

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://{elsewhere.host}{request.path}"})

        registry.faults.append(once(99, away))
        await pulled(store, name)
        assert len(elsewhere.requests) == 3
        assert not any("Authorization" in headers for _, headers in elsewhere.requests)
    assert all("Authorization" in headers for headers in registry.asked("/blobs/"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{path}", "more than 5 times"),
        ("http://192.0.2.1/x", "not an https URL"),
        ("file:///etc/passwd", "not an https URL"),
        ("https://user:secret@example.invalid/x", "not an https URL"),
        ("", "more than 5 times"),
    ],
)
async def test_redirects_that_lead_nowhere(store: ImageStore, registry: FakeRegistry, target: str, said: str) -> None:
    """Loops, and redirects to where the connection could be read or that are no HTTP, end the pull."""
    name = registry.put(Image(LAYERS))

    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target.format(path=request.path)})

    registry.faults.append(once(99, away))
    with pytest.raises(EngineProtocolError, match=said):
        await pulled(store, name)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_passing_trouble_is_waited_out(store: ImageStore, registry: FakeRegistry, status: int) -> None:
    """A rate limit and a failing server are asked again, by manifests and layers alike."""
    name = registry.put(Image(LAYERS))
    for part in ("/manifests/", "/blobs/"):

        async def busy(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Retry-After": "0"})

        registry.faults.append(once(2, busy, part))
    await pulled(store, name)


async def test_lasting_trouble_is_said(store: ImageStore, registry: FakeRegistry) -> None:
    """After some attempts the status, the code and the registry's words are in the error; a long wait is not waited."""
    name = registry.put(Image(LAYERS))
    body = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow\x1b[31m down"}]}

    async def busy(request: web.Request) -> web.Response:
        return web.json_response(body, status=429, headers={"Retry-After": "3600"})

    registry.faults.append(once(99, busy, "/manifests/"))
    with pytest.raises(EngineResponseError, match=r"status 429: slow \[31m down") as caught:
        await pulled(store, name)
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (429, "TOOMANYREQUESTS", True)
    assert "3600 s" in (caught.value.hint or "")
    assert len(registry.asked("/manifests/")) == 1
    registry.faults.clear()
    registry.faults.append(once(99, lambda request: _status(500), "/manifests/"))
    with pytest.raises(EngineResponseError, match="status 500"):
        await pulled(store, name, retries=Retries(attempts=3, base=0.0))
    assert len(registry.asked("/manifests/")) == 4


async def _status(number: int) -> web.Response:
    return web.Response(status=number)


def login(config: Path, host: str, user: str = "me", password: str = "secret", **fields: str) -> None:
    """Store a login as docker does."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {host: {"auth": auth, **fields}}}))


async def basic(request: web.Request) -> web.Response | None:
    """Want a name and a password."""
    if request.path == "/v2/":
        return None
    if request.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:secret").decode():
        return None
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="private"'})


async def test_a_login_with_a_password(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """The login that docker stored is sent once the registry asks for it; without one, or a wrong one, it is denied."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(basic)
    with pytest.raises(AviatoAuthenticationError, match="there is none") as caught:
        await pulled(store, name)
    assert f"docker login {registry.host}" in (caught.value.hint or "")
    login(docker_config, registry.host, password="wrong")
    with pytest.raises(AviatoAuthenticationError, match="as me: it does not accept"):
        await pulled(store, name)
    login(docker_config, registry.host)
    await pulled(store, name)
    assert "Authorization" not in registry.asked("/manifests/")[0]


def tokens(registry: FakeRegistry, accept: Callable[[web.Request, Any], bool]) -> Any:
    """Want a Bearer token from `/token`, which gives one to those accepted."""
    given: list[str] = []

    async def fault(request: web.Request) -> web.Response | None:
        if request.path == "/v2/":
            return None
        if request.path == "/token":
            form = await request.post()
            if not accept(request, form):
                return web.json_response({"details": "no"}, status=401)
            given.append(f"t{len(given)}")
            return web.json_response({"token": given[-1], "expires_in": 60})
        if given and request.headers.get("Authorization") == f"Bearer {given[-1]}":
            return None
        realm = f'Bearer realm="http://{registry.host}/token",service="the, service",scope="repository:app:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    return fault


async def test_tokens_for_anybody(store: ImageStore, registry: FakeRegistry) -> None:
    """Without a login a token is asked for all the same, as for public images of Docker Hub."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(tokens(registry, lambda request, form: request.query["service"] == "the, service"))
    await pulled(store, name)
    (asked,) = [request for request, _ in registry.requests if "/token" in request]
    assert asked == "GET /token?scope=repository:app:pull&service=the,+service"


async def test_tokens_for_a_login(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """A password goes to the token service alone, and the registry sees the token only."""
    login(docker_config, registry.host)
    name = registry.put(Image(LAYERS))
    password = "Basic " + base64.b64encode(b"me:secret").decode()
    registry.faults.append(tokens(registry, lambda request, form: request.headers.get("Authorization") == password))
    await pulled(store, name)
    for part in ("/manifests/", "/blobs/"):
        assert {headers.get("Authorization") for headers in registry.asked(part)} <= {None, "Bearer t0"}
    login(docker_config, registry.host, password="wrong")
    store.remove(name)
    with pytest.raises(AviatoAuthenticationError, match="token service"):
        await pulled(store, name)


async def test_identity_tokens(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """What a helper or docker stored in place of a password is exchanged by POST."""
    login(docker_config, registry.host, "", "", identitytoken="refresh-me")
    name = registry.put(Image(LAYERS))
    wanted = {"grant_type": "refresh_token", "refresh_token": "refresh-me"}
    registry.faults.append(tokens(registry, lambda request, form: wanted.items() <= dict(form).items()))
    await pulled(store, name)
    assert [request for request, _ in registry.requests if "/token" in request] == ["POST /token"]


async def test_a_token_that_expires(store: ImageStore, registry: FakeRegistry) -> None:
    """A token that is no longer accepted in the middle of a pull is replaced."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(tokens(registry, lambda request, form: True))
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'}

    async def expired(request: web.Request) -> web.Response:
        return web.Response(status=401, headers=challenge)

    registry.faults.insert(0, once(1, expired))
    await pulled(store, name)


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "file:///etc/passwd", "", "https://me@x.invalid/"])
async def test_token_services_that_are_not_used(
    store: ImageStore, registry: FakeRegistry, docker_config: Path, realm: str
) -> None:
    """A login is not sent where others could read it, whatever the registry says."""
    login(docker_config, registry.host)
    name = registry.put(Image(LAYERS))

    async def challenge(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    registry.faults.append(once(9, challenge, "/manifests/"))
    with pytest.raises(EngineProtocolError, match="token service"):
        await pulled(store, name)


@pytest.mark.parametrize("offer", ["", "Negotiate", '=,=,"', "Bearer", 'Basic realm="x' * 500])
async def test_challenges_that_cannot_be_met(store: ImageStore, registry: FakeRegistry, offer: str) -> None:
    """Odd ways to ask for a login end in an error, not in a loop."""
    name = registry.put(Image(LAYERS))

    async def challenge(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": offer} if offer else {})

    registry.faults.append(once(9, challenge, "/manifests/"))
    with pytest.raises((EngineProtocolError, AviatoAuthenticationError)):
        await pulled(store, name)


async def test_denied(store: ImageStore, registry: FakeRegistry) -> None:
    """403 is AviatoAuthenticationError with the registry's words."""
    name = registry.put(Image(LAYERS))

    async def forbid(request: web.Request) -> web.Response:
        return web.json_response({"errors": [{"code": "DENIED", "message": "not yours"}]}, status=403)

    registry.faults.append(once(9, forbid, "/manifests/"))
    with pytest.raises(AviatoAuthenticationError, match="not yours"):
        await pulled(store, name)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([openssl, "req", "-x509", *options], check=True, capture_output=True)
    return made, key


async def test_tls_trouble_is_explained(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    """A certificate that nobody vouches for is refused and says where to put its authority, which then works."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with FakeRegistry(ssl=context) as registry:
        name = registry.put(Image(LAYERS))
        with pytest.raises(EngineConnectionError, match="certificate is not valid here") as caught:
            await pulled(store, name)
        assert f"certs.d/{registry.host}/ca.crt" in (caught.value.hint or "")
        assert not caught.value.retryable
        monkeypatch.setattr(transport, "_CERTIFICATES", (tmp_path / "certs.d",))
        (tmp_path / "certs.d" / registry.host).mkdir(parents=True)
        shutil.copy(certificate[0], tmp_path / "certs.d" / registry.host / "ca.crt")
        await pulled(store, name)


async def test_two_pulls_at_once(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """The second one waits for the first one's download instead of doing it again."""
    image = Image(LAYERS[:1])
    name = registry.put(image)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> None:
        begun.set()
        await go_on.wait()

    registry.faults.append(once(9, slow, digest_of(image.layers[0])))
    loop = asyncio.get_running_loop()

    def saw(progress: PullProgress) -> None:
        if progress.state is PullState.WAITING:
            loop.call_soon_threadsafe(go_on.set)

    first = asyncio.ensure_future(pulled(store, name))
    await begun.wait()
    second = asyncio.ensure_future(pulled(ImageStore(str(tmp_path / "home")), name, progress=saw))
    assert await first == await second
    assert len(registry.asked(digest_of(image.layers[0]))) == 1
    assert len(kept(tmp_path)) == 1


async def test_nothing_is_removed_under_a_pull(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """While somebody pulls, `prune` and the removal of images leave the downloads alone."""
    image = Image(LAYERS)
    name = registry.put(image)
    store.tag("host", "other")

    def disturb(progress: PullProgress) -> None:
        if progress.state is PullState.DOWNLOADED:
            assert store.collect(downloads=True) == 0
            store.tag("host", "other")
            store.remove("other")

    await pulled(store, name, progress=disturb)
    assert len(kept(tmp_path)) == 2


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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PULLER, str(tmp_path / "home"), name, stdout=-1, stderr=-1, cwd=ROOT
    )
    assert process.stdout is not None
    partial = tmp_path / "home/images/blobs" / (digest_of(layer).replace(":", "-") + ".partial")
    while await process.stdout.readline():
        if partial.exists() and partial.stat().st_size >= 1 << 20:
            break
    else:
        pytest.fail("the pull ended early")
    process.send_signal(number)
    _, said = await process.communicate()
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


async def test_a_thread_with_a_loop_is_not_blocked(store: ImageStore) -> None:
    """Called where it would block an event loop, it says how to call it."""
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        store.pull("python:3.12")
    with pytest.raises(ValueError, match="no registry"):
        store.pull("host")


@pytest.fixture
def arena(tmp_path: Path) -> Any:
    """A store with something beside it that must not change."""
    made = Arena(tmp_path, "home", "docker", "archive")
    yield made
    made.check()
    assert not any(Path(path).exists() for path in ELSEWHERE)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "empty"])
async def test_hostile_layers(
    arena: Arena, registry: FakeRegistry, store: ImageStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Each hostile archive is refused as a layer of a registry as well, and the store keeps no image of it."""
    bound(monkeypatch, Limits(64 << 20))
    with pytest.raises(ArchiveError):
        await pulled(store, registry.put(Image([REFUSED[name]()])))
    assert store.list() == []
    assert images_left(tmp_path) == []


@pytest.mark.parametrize("name", SAFE)
async def test_odd_layers(arena: Arena, registry: FakeRegistry, store: ImageStore, name: str) -> None:
    """What is odd but harmless comes out as it does from an archive."""
    make, expected = SAFE[name]
    image = registry.put(Image([make()]))
    await pulled(store, image)
    assert listed(Path(store.resolve(image).root or "")) == ([] if ".wh.x" in expected else expected)


async def test_bombs(arena: Arena, registry: FakeRegistry, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small layer that would become a big one stops at the limit."""
    bound(monkeypatch, Limits(4 << 20))
    with pytest.raises(ArchiveError, match="fit"):
        await pulled(store, registry.put(Image([entry("zeros", bytes(64 << 20))])))
    assert threading.active_count() < 50
