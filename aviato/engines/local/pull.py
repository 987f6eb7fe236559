"""Brings an image from a registry into the store: what it consists of, its layers, then its root file system."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from aviato.engines.local.archive import Unpacker
from aviato.engines.local.blobs import BlobStore, Report
from aviato.engines.local.imagelayers import Contents, Layer, unpack_layers
from aviato.engines.local.tarstream import zstd_module
from aviato.exceptions import CapabilityError
from aviato.models import PullProgress, PullState
from aviato.registry.client import RegistryClient
from aviato.registry.manifests import Descriptor, Manifest, mapping, parse, read_platform, wrong_platform
from aviato.registry.names import Reference
from aviato.registry.platforms import here, rank
from aviato.registry.retries import Retries

_STEP = 1 << 20


@dataclass(frozen=True)
class Described:
    """An image as its registry describes it; its layers may still be there only.

    Attributes:
        digest: Digest of its configuration, by which the store knows it.
        found_digest: Digest of what its name means in the registry: an index or a manifest.
        config: The configuration itself, verified.
        layers: From the lowest up.
    """

    digest: str
    found_digest: str
    config: bytes
    layers: tuple[Descriptor, ...]


async def bring(
    name: str, blobs: BlobStore, adopt: Callable[[str], bool], report: Report, retries: Retries | None
) -> Described | None:
    """Ask the registry what an image is, and bring its layers into the store.

    Args:
        name: The image.
        blobs: Where its layers go.
        adopt: Is given the image's digest; true ends the pull, because the store has the image.
        report: As in `BlobStore.fetch`.
        retries: As in `RegistryClient`.

    Returns:
        The image, whose layers are all there; None when it was adopted.

    Raises:
        ImageNotFoundError: The registry does not have it.
        ImagePlatformError: It is not for this machine.
        CapabilityError: It has layers that this Python cannot decompress.
        AviatoError: As `RegistryClient.find` and `BlobStore.fetch`.
        OSError: The layers cannot be written.
    """
    async with RegistryClient(name, Reference.parse(name), retries=retries) as client:
        found = await client.find()
        manifest = found.manifest
        if adopt(manifest.config.digest):
            return None
        config = await client.document(manifest.config)
        _check_platform(name, config)
        _check_compression(name, manifest)
        await blobs.fetch(client, manifest.layers, report)
    return Described(manifest.config.digest, found.digest, config, manifest.layers)


def unpack(image: Described, blobs: BlobStore, unpacker: Unpacker, limit: int, report: Report) -> Contents:
    """Make the root file system from layers that are all there.

    Raises:
        EngineError: A layer is damaged or hostile.
        OSError: The files cannot be written.
    """
    sizes = {layer.digest: layer.size for layer in image.layers}

    def done(layer: Layer) -> None:
        report(PullProgress(layer.name, sizes[layer.name], sizes[layer.name], PullState.UNPACKED))

    stored = [
        Layer(layer.digest, functools.partial(_Reported, blobs.path(layer.digest), layer, report))
        for layer in image.layers
    ]
    contents = unpack_layers(image.config, stored, unpacker, limit, done)
    unpacker.finish()
    return contents


class _Reported:
    """A layer as a file that tells how far it has been read."""

    def __init__(self, path: str, layer: Descriptor, report: Report) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - it is one itself
        self._layer = layer
        self._report = report
        self._done = self._said = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all that is left when negative."""
        data = self._file.read(size)
        self._done += len(data)
        if self._done - self._said >= _STEP:
            self._said = self._done
            self._report(PullProgress(self._layer.digest, self._done, self._layer.size, PullState.UNPACKING))
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _check_platform(name: str, config: bytes) -> None:
    """An image without an index says only in its configuration what it runs on."""
    document = mapping(parse(config, name), "the configuration", name)
    if document.get("architecture") or document.get("os"):
        built_for = read_platform(document, name)
        if rank(built_for, here()) is None:
            raise wrong_platform(name, [built_for])


def _check_compression(name: str, manifest: Manifest) -> None:
    if zstd_module() is None and any(layer.media_type.endswith("zstd") for layer in manifest.layers):
        raise CapabilityError(
            f"image {name!r} has layers compressed with zstd, which this Python cannot read before version 3.14",
            hint="pip install 'aviato[zstd]'",
        )
