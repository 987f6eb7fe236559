"""Pulling from a registry that is broken or hostile: each trouble has its error, and nothing bad is kept."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aviato.engines.local.archive import Limits
from aviato.engines.local.images import ImageStore
from aviato.engines.local.tarstream import ArchiveError
from aviato.exceptions import (
    EngineConnectionError,
    EngineError,
    EngineProtocolError,
    EngineResponseError,
    ImageDigestError,
)
from aviato.registry import transport
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
from tests.local.pulling import HERE, QUICK, answered_with, images_left, kept, once, pulled
from tests.local.test_hostile_archives import ELSEWHERE, bound, listed
from tests.local.test_images import LAYERS

pytestmark = pytest.mark.usefixtures("docker_config")


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


async def test_documents_that_break_off(store: ImageStore, registry: FakeRegistry) -> None:
    """A manifest and a configuration that break off are asked for again, and not for ever."""
    image = Image(LAYERS)
    name = registry.put(image)
    for data, part in ((image.manifest, "/manifests/"), (image.config, digest_of(image.config))):

        async def cut(request: web.Request, data: bytes = data) -> web.StreamResponse:
            return await broken_off(request, data[:9], len(data))

        registry.faults.append(once(2, cut, part))
    await pulled(store, name)
    registry.faults[:] = [once(99, cut, "/manifests/")]
    registry.requests.clear()
    with pytest.raises(EngineConnectionError, match="broke in the middle"):
        await pulled(store, name)
    assert len(registry.asked("/manifests/")) == QUICK.attempts


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 999 \r\n\r\n",
    ],
    ids=["nothing", "text", "a long header", "a negative length", "a bad chunk", "an odd status"],
)
async def test_what_is_not_http(store: ImageStore, rubbish: bytes) -> None:
    """A server that speaks otherwise is an error of ours, whatever it says."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        greeting = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(greeting if request.startswith(b"GET /v2/ ") else rubbish)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EngineError) as caught:
            await pulled(store, f"127.0.0.1:{port}/app")
    assert len(str(caught.value)) < 1000


async def test_an_index_of_itself(store: ImageStore, registry: FakeRegistry) -> None:
    """Indexes that only lead to indexes end."""
    document, name = b"{}", ""
    for _ in range(6):
        entries = [descriptor(document, OCI_INDEX)]
        document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        name = registry.put_document(document, OCI_INDEX)
    with pytest.raises(EngineProtocolError, match="indexes only"):
        await pulled(store, name)


async def test_a_variant_of_another_digest(store: ImageStore, registry: FakeRegistry) -> None:
    """What an index promises is what must come, in bytes and in length."""
    image, other = Image(LAYERS), Image(LAYERS[:1])
    registry.put(other)
    name = registry.put_document(index_of([(image, HERE)]), OCI_INDEX)
    for wrong in (other.manifest, image.manifest + b" "):
        registry.documents[f"/v2/app/manifests/{digest_of(image.manifest)}"] = (wrong, OCI_MANIFEST)
        with pytest.raises(ImageDigestError) as caught:
            await pulled(store, name)
        assert caught.value.expected == digest_of(image.manifest)


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


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{path}", "more than 5 times"),
        ("http://192.0.2.1/x", "not an https URL"),
        ("file:///etc/passwd", "not an https URL"),
        ("https://user:secret@example.invalid/x", "not an https URL"),
        ("", "more than 5 times"),
        ("/v2/a b", "not an https URL"),
        ("/v2/\u00e9", "not an https URL"),
        ("//[::1", "not an https URL"),
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
    registry.faults.append(once(99, lambda request: answered_with(500), "/manifests/"))
    with pytest.raises(EngineResponseError, match="status 500"):
        await pulled(store, name, retries=Retries(attempts=3, base=0.0))
    assert len(registry.asked("/manifests/")) == 4


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
