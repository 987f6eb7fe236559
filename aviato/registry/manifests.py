"""Manifests and indexes of a registry, read without trusting them."""

from __future__ import annotations

import json
from typing import Any

import attrs

from aviato.exceptions import EngineProtocolError, ImagePlatformError, Outcome
from aviato.registry.names import DIGEST
from aviato.registry.platforms import Platform, here, rank

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYER_TYPES = tuple(
    f"application/vnd.oci.image.layer.v1.tar{compression}" for compression in ("", "+gzip", "+zstd")
) + tuple(f"application/vnd.docker.image.rootfs.diff.tar{compression}" for compression in ("", ".gzip", ".zstd"))
_OLD = "application/vnd.docker.distribution.manifest.v1"
LARGEST_DOCUMENT = 4 << 20
_MOST_LAYERS = 512
_MOST_VARIANTS = 1024
_LARGEST_BLOB = 1 << 44


@attrs.frozen
class Descriptor:
    """Points at something in the registry.

    Attributes:
        digest: `sha256:` and hexadecimal digits.
        size: Bytes.
        media_type: What it is.
        platform: What it runs on, where that is said.
    """

    digest: str
    size: int
    media_type: str
    platform: Platform | None = None


@attrs.frozen
class Manifest:
    """One image: its configuration, and its layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@attrs.frozen
class Index:
    """Several images under one name, one for each platform."""

    variants: tuple[Descriptor, ...]

    def choose(self, image: str) -> Descriptor:
        """Return the variant for this machine.

        Raises:
            ImagePlatformError: There is none; the error has those that there are.
        """
        machine = here()
        fitting = [
            (rank(variant.platform or machine, machine), place, variant) for place, variant in enumerate(self.variants)
        ]
        good = [(badness, place, variant) for badness, place, variant in fitting if badness is not None]
        if not good:
            raise wrong_platform(image, [variant.platform for variant in self.variants if variant.platform])
        return min(good, key=lambda found: found[:2])[2]


def wrong_platform(image: str, offered: list[Platform]) -> ImagePlatformError:
    """Make the error for an image that does not run on this machine."""
    names = tuple(sorted({str(platform) for platform in offered if platform.os != "unknown"}))
    return ImagePlatformError(
        f"image {image!r} is not for this machine, which is {here()}; it is offered for: {', '.join(names) or 'none'}",
        image=image,
        wanted=str(here()),
        offered=names,
        hint="Choose an image, or a tag, that is built for this machine.",
    )


def read(data: bytes, media_type: str, image: str) -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        data: The document, its digest already verified.
        media_type: What the registry calls it.
        image: Name of the image, for messages.

    Raises:
        EngineProtocolError: It is neither, or malformed.
    """
    media_type = media_type.partition(";")[0].strip()
    document = mapping(parse(data, image), "the manifest", image)
    stated = document.get("mediaType", media_type)
    if str(stated).startswith(_OLD) or document.get("schemaVersion") == 1:
        raise broken(image, "its manifest is of schema 1, which is no longer read; push it again with a newer tool")
    # A document that could be read both ways would let two programs run two images under one digest.
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    if is_index == is_manifest or stated != media_type:
        raise broken(image, f"what was sent as {media_type[:100]!r} is not one manifest, and not one index")
    if media_type not in (INDEX_TYPES if is_index else MANIFEST_TYPES):
        raise broken(image, f"its manifest is of the unknown type {media_type[:100]!r}")
    return _index(document, image) if is_index else _manifest(document, image)


def _index(document: dict[str, Any], image: str) -> Index:
    entries = document["manifests"]
    if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_VARIANTS:
        raise broken(image, f"its index must name between 1 and {_MOST_VARIANTS} manifests")
    return Index(tuple(_descriptor(entry, image, LARGEST_DOCUMENT) for entry in entries))


def _manifest(document: dict[str, Any], image: str) -> Manifest:
    config = _descriptor(document.get("config"), image, LARGEST_DOCUMENT)
    if config.media_type not in _CONFIG_TYPES:
        raise broken(image, f"it is no container image but of the type {config.media_type[:100]!r}")
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > _MOST_LAYERS:
        raise broken(image, f"its manifest must have at most {_MOST_LAYERS} layers")
    found = tuple(_descriptor(layer, image, _LARGEST_BLOB) for layer in layers)
    for layer in found:
        if layer.media_type not in _LAYER_TYPES:
            raise broken(image, f"it has a layer of the type {layer.media_type[:100]!r}, which is not read")
    return Manifest(config, found)


def _descriptor(value: object, image: str, largest: int) -> Descriptor:
    entry = mapping(value, "a descriptor", image)
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType", "")
    if not isinstance(digest, str) or not DIGEST.match(digest):
        raise broken(image, f"{str(digest)[:100]!r} is not a SHA-256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= largest:
        raise broken(image, f"the size of {digest} must be between 0 and {largest} bytes, got {str(size)[:40]}")
    platform = entry.get("platform")
    return Descriptor(digest, size, str(media_type), None if platform is None else read_platform(platform, image))


def read_platform(value: object, image: str) -> Platform:
    """Read what an image was built for, from an index or a configuration.

    Raises:
        EngineProtocolError: It is malformed.
    """
    entry = mapping(value, "a platform", image)
    parts = [entry.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and len(part) <= 32 and part.isascii() and part.isprintable() for part in parts):  # noqa: PLR2004 - far more than any has
        raise broken(image, f"{str(parts)[:100]} is not a platform")
    return Platform(parts[0] or "linux", *parts[1:])


def parse(data: bytes, image: str) -> object:
    """Read JSON.

    Raises:
        EngineProtocolError: It is not.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise broken(image, f"the registry sent something that is not JSON: {str(error)[:100]}") from error


def mapping(value: object, what: str, image: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        EngineProtocolError: It is something else.
    """
    if not isinstance(value, dict):
        raise broken(image, f"{what} is not a JSON object")
    return value


def broken(image: str, why: str) -> EngineProtocolError:
    """Make the error for an image whose documents cannot be used."""
    return EngineProtocolError(f"image {image!r} cannot be used: {why}", outcome=Outcome.NOT_APPLIED)
