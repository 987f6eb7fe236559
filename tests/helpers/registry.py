"""Registries to pull from: one in this process that misbehaves on demand, and images to put into them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from aviato.registry.platforms import here

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    """Return the SHA-256 digest of something."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Point at something."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


class Image:
    """An image as a registry stores it.

    Args:
        layers: Tars, from the lowest up.
        compress: How they are stored.
        layer_type: Media type of a layer.
        changes: Fields of the configuration; `manifest` replaces fields of the manifest.
    """

    def __init__(
        self,
        layers: Sequence[bytes],
        compress: Callable[[bytes], bytes] = lambda data: gzip.compress(data, mtime=0),
        layer_type: str = f"{OCI_LAYER}+gzip",
        manifest: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        config = {
            "architecture": here().architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin:/usr/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
        self.layers = [compress(layer) for layer in layers]
        self.config = json.dumps(config | changes).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(self.config, OCI_CONFIG),
            "layers": [descriptor(layer, layer_type) for layer in self.layers],
        }
        self.manifest = json.dumps(document | (manifest or {})).encode()
        self.media_type = OCI_MANIFEST

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything but the manifest, by digest."""
        return {digest_of(data): data for data in (self.config, *self.layers)}


def index_of(images: Iterable[tuple[Image, dict[str, str]]]) -> bytes:
    """Make an index of images, each with its platform."""
    entries = [descriptor(image.manifest, OCI_MANIFEST, platform=platform) for image, platform in images]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


class FakeRegistry:
    """A registry on a free port of this machine; use it with `async with`.

    Attributes:
        requests: What was asked, as `METHOD path`, with the headers.
        raw: The paths exactly as they were sent.
        faults: Asked in order before each answer; the first that returns one decides.
    """

    def __init__(self, ssl: Any = None) -> None:
        self.documents: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.raw: list[str] = []
        self.faults: list[Answer] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")
        self._ssl = ssl

    async def __aenter__(self) -> Self:
        """Start to listen."""
        await self._server.start_server(ssl=self._ssl)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self._server.close()

    @property
    def host(self) -> str:
        """Name and port."""
        return f"127.0.0.1:{self._server.port}"

    def put(self, image: Image, name: str = "app", tag: str = "latest") -> str:
        """Store an image and return its name."""
        self.blobs |= image.blobs
        self.put_document(image.manifest, image.media_type, name, tag)
        return f"{self.host}/{name}:{tag}"

    def put_document(self, data: bytes, media_type: str, name: str = "app", tag: str = "latest") -> str:
        """Store a manifest or an index and return the name."""
        for version in (tag, digest_of(data)):
            self.documents[f"/v2/{name}/manifests/{version}"] = (data, media_type)
        return f"{self.host}/{name}:{tag}"

    def asked(self, part: str) -> list[dict[str, str]]:
        """Return the headers of the requests whose path has a part."""
        return [headers for request, headers in self.requests if part in request]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.raw.append(request.raw_path)
        self.requests.append((f"{request.method} {request.path_qs}", dict(request.headers)))
        for fault in self.faults:
            answer = await fault(request)
            if answer is not None:
                return answer
        return self.serve(request)

    def serve(self, request: web.Request) -> web.Response:
        """Answer as a registry does."""
        if request.path == "/v2/":
            return web.json_response({})
        if request.path in self.documents:
            data, media_type = self.documents[request.path]
            headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
            return web.Response(body=data, headers=headers)
        data = self.blobs.get(request.path.rpartition("/")[2], b"")
        if "/blobs/" not in request.path or not data:
            code = "BLOB_UNKNOWN" if "/blobs/" in request.path else "MANIFEST_UNKNOWN"
            return web.json_response({"errors": [{"code": code, "message": "unknown"}]}, status=404)
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if not begin:
            return web.Response(body=data)
        if begin >= len(data):
            return web.Response(status=416)
        headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        return web.Response(status=206, body=data[begin:], headers=headers)


async def broken_off(request: web.Request, data: bytes, length: int) -> web.StreamResponse:
    """Announce `length` bytes, send `data`, and cut the connection."""
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    await response.prepare(request)
    await response.write(data)
    assert request.transport is not None
    request.transport.close()
    return response
