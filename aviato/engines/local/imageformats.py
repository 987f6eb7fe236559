"""What an image may be imported from: a directory, a tar of a root file system, `docker save`, an OCI layout."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import posixpath
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from aviato.engines.local.archive import Unpacker
from aviato.engines.local.imagelayers import (
    MAX_LAYERS,
    Contents,
    Layer,
    mapping,
    parse,
    string,
    strings,
    unpack_layers,
    unpack_tar,
)
from aviato.engines.local.tarstream import CHUNK, ArchiveError, Kind, Source, TarStream, decompressor
from aviato.engines.local.tree import read_tree
from aviato.registry.platforms import here

_BUNDLE_MEMBER = re.compile(
    r"(blobs(/sha256(/[0-9a-f]{64})?)?|oci-layout|[\w.:-]+\.json|repositories|[0-9a-f]{64}(/(layer\.tar|json|VERSION))?)\Z"
)
_MAX_DOCUMENT = 8 << 20
_MAX_MEMBERS = 16 * MAX_LAYERS
_MAX_NAME = 255


def unpack(source: str, unpacker: Unpacker, staging: str, limit: int) -> Contents:
    """Unpack a source, whatever it is.

    Args:
        source: Path of a directory or a file.
        unpacker: Where the files go.
        staging: A directory for temporary files.
        limit: The most bytes that may come out of a compressed file.

    Raises:
        ArchiveError: The source is not one of those known, damaged, hostile or for another machine.
        OSError: It cannot be read, or the files cannot be written.
    """
    if Path(source).is_dir():
        root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for member, chunks in read_tree(root, unpacker.skip):
                unpacker.add(member, chunks)
        finally:
            os.close(root)
        unpacker.finish()
        return Contents("directory", unpacker.digest)
    if not Path(source).is_file():
        raise ArchiveError(f"{source}: neither a directory nor a file")
    with Path(source).open("rb") as file:
        opener = decompressor(file.read(8))
        file.seek(0)
        bundle = _index(Source(opener(file) if opener else file, limit=limit, seekable=opener is None))
        file.seek(0)
        if bundle is None:
            unpack_tar(Source(opener(file) if opener else file, limit=limit, seekable=opener is None), unpacker)
            unpacker.finish()
            return Contents("rootfs", unpacker.digest)
        with contextlib.ExitStack() as stack:
            plain: BinaryIO = file
            if opener is not None:
                plain = stack.enter_context(tempfile.TemporaryFile(dir=staging))
                expanded = Source(opener(file), limit=limit)
                while chunk := expanded.read(CHUNK):
                    plain.write(chunk)
            contents = _Bundle(plain, bundle, limit).unpack(unpacker)
        unpacker.finish()
        return contents


@dataclass(frozen=True)
class _Blob:
    offset: int = 0
    size: int = 0
    link: str | None = None


def _index(source: Source) -> dict[str, _Blob] | None:
    """Find the members of a bundle of layers; None when it is something else, which the first strange name tells."""
    found: dict[str, _Blob] = {}
    for member in TarStream(source):
        name = posixpath.normpath(os.fsdecode(member.path))
        if name == ".":
            continue
        if max(len(name), len(member.link)) > _MAX_NAME or len(found) > _MAX_MEMBERS or not _BUNDLE_MEMBER.match(name):
            return None  # the limits are for what would only fill the memory
        if member.kind is Kind.FILE:
            found[name] = _Blob(source.position, member.size)
        elif member.kind in (Kind.SYMLINK, Kind.HARDLINK):
            base = posixpath.dirname(name) if member.kind is Kind.SYMLINK else ""
            found[name] = _Blob(link=posixpath.normpath(posixpath.join(base, os.fsdecode(member.link))))
    return found if "manifest.json" in found or {"index.json", "oci-layout"} <= found.keys() else None


class _Window:
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, blob: _Blob) -> None:
        self._file = file
        self._place = blob.offset
        self._left = blob.size

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all that is left when negative."""
        size = self._left if size < 0 else min(size, self._left)
        data = os.pread(self._file.fileno(), size, self._place)
        self._place += len(data)
        self._left -= len(data)
        return data


class _Readable(_Window):
    """What the decompressors, and who opens a layer, ask of a file beside `read`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the file open: the next layer is in it as well."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _Bundle:
    """Layers and documents in a tar that can be read at any place."""

    def __init__(self, file: BinaryIO, blobs: dict[str, _Blob], limit: int) -> None:
        self._file = file
        self._blobs = blobs
        self._limit = limit
        file.flush()

    def unpack(self, unpacker: Unpacker) -> Contents:
        """Apply the layers in order, each checked against the configuration."""
        config_name, layers = self._manifest()
        raw = self._document(config_name)
        stored = [Layer(name, functools.partial(_Readable, self._file, self._blob(name))) for name in layers]
        return unpack_layers(raw, stored, unpacker, self._limit)

    def _manifest(self) -> tuple[str, list[str]]:
        if "manifest.json" in self._blobs:
            images = parse(self._document("manifest.json"), "manifest.json")
            if not isinstance(images, list) or not images:
                raise ArchiveError("manifest.json names no image")
            if len(images) > 1:
                raise ArchiveError(
                    f"the archive holds {len(images)} images", hint="Save one: docker save -o FILE IMAGE"
                )
            image = mapping(images[0], "manifest.json")
            return string(image.get("Config"), "Config"), strings(image.get("Layers") or [], "Layers")
        document = mapping(parse(self._document("index.json"), "index.json"), "index.json")
        for _ in range(4):  # an index may point at an index, but not for ever
            if "layers" in document:
                layers = document["layers"]
                if not isinstance(layers, list):
                    break
                config = _blob_name(mapping(document.get("config"), "config"))
                return config, [_blob_name(mapping(layer, "layers")) for layer in layers]
            name = self._choose(document)
            document = mapping(parse(self._document(name), name), name)
        raise ArchiveError("the index leads to no image")

    def _choose(self, index: dict[str, Any]) -> str:
        entries = index.get("manifests")
        if not isinstance(entries, list) or not entries:
            raise ArchiveError("the index names no image")
        manifests = [mapping(entry, "manifests") for entry in entries]
        machine = here()
        fitting = [
            entry
            for entry in manifests
            if not entry.get("platform")
            or (mapping(entry["platform"], "platform").get("architecture"), entry["platform"].get("os"))
            == (machine.architecture, machine.os)
        ]
        if len(fitting) != 1:
            raise ArchiveError(f"the archive holds {len(fitting)} images for {machine}; exactly one is needed")
        return _blob_name(fitting[0])

    def _blob(self, name: str) -> _Blob:
        wanted = posixpath.normpath(name)
        for _ in range(8):  # old archives store a layer once and link to it
            blob = self._blobs.get(wanted)
            if blob is None:
                break
            if blob.link is None:
                return blob
            wanted = blob.link
        raise ArchiveError(f"the archive is incomplete: {name} is missing")

    def _document(self, name: str) -> bytes:
        blob = self._blob(name)
        if blob.size > _MAX_DOCUMENT:
            raise ArchiveError(f"{name} has {blob.size} bytes, more than the {_MAX_DOCUMENT} allowed")
        data = _Window(self._file, blob).read()
        stated = posixpath.basename(posixpath.normpath(name)).removesuffix(".json")
        if re.fullmatch(r"[0-9a-f]{64}", stated) and hashlib.sha256(data).hexdigest() != stated:
            raise ArchiveError(f"{name} is damaged: its SHA-256 is not its name")
        return data


def _blob_name(descriptor: dict[str, Any]) -> str:
    digest = string(descriptor.get("digest"), "digest")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ArchiveError(f"the image is malformed: {digest[:80]!r} is not a SHA-256 digest")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
