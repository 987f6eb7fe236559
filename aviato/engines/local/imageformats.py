"""What an image may be imported from: a directory, a tar of a root file system, `docker save`, an OCI layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import posixpath
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from aviato.engines.local.archive import Unpacker
from aviato.engines.local.tarstream import CHUNK, ArchiveError, Kind, Source, TarStream, decompressor
from aviato.engines.local.tree import read_tree

_BUNDLE_MEMBER = re.compile(
    r"(blobs(/sha256(/[0-9a-f]{64})?)?|oci-layout|[\w.:-]+\.json|repositories|[0-9a-f]{64}(/(layer\.tar|json|VERSION))?)\Z"
)
_MAX_DOCUMENT = 8 << 20
_MAX_LAYERS = 512
_MAX_MEMBERS = 16 * _MAX_LAYERS
_MAX_NAME = 255
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters: JSON can name them, and nothing that starts a program could encode them."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class Contents:
    """What an import found, beside the files.

    Attributes:
        kind: `"directory"`, `"rootfs"` or `"image"` (layers with a configuration).
        digest: `sha256:` and hexadecimal digits: of the configuration of an image, else of the files.
    """

    kind: str
    digest: str
    environment: dict[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    command: tuple[str, ...] = ()


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
            _unpack_tar(Source(opener(file) if opener else file, limit=limit, seekable=opener is None), unpacker)
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


def _unpack_tar(source: Source, unpacker: Unpacker) -> None:
    tar = TarStream(source)
    for member in tar:
        unpacker.add(member, tar.chunks())


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
    """What the decompressors ask of a file beside `read`."""

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
        config = _mapping(_parse(raw, config_name), config_name)
        _check_machine(config)
        diff_ids = _strings(_mapping(config.get("rootfs", {}), "rootfs").get("diff_ids", []), "diff_ids")
        if len(diff_ids) != len(layers) or len(layers) > _MAX_LAYERS:
            raise ArchiveError(f"the image names {len(layers)} layers and describes {len(diff_ids)}")
        for name, diff_id in zip(layers, diff_ids, strict=True):
            unpacker.begin_layer()
            digest = hashlib.sha256()
            window = _Readable(self._file, self._blob(name))
            opener = decompressor(_Window(self._file, self._blob(name)).read(8))
            source = Source(opener(window) if opener else window, limit=self._limit, digest=digest)
            if self._blob(name).size:
                _unpack_tar(source, unpacker)
                source.drain()
            if diff_id != f"sha256:{digest.hexdigest()}":
                raise ArchiveError(
                    f"layer {name} is damaged: its SHA-256 is not the one that the image's configuration has"
                )
        run = _mapping(config.get("config") or {}, "config")
        variables = (item.partition("=") for item in _strings(run.get("Env") or [], "Env"))
        return Contents(
            "image",
            f"sha256:{hashlib.sha256(raw).hexdigest()}",
            {name: value for name, _, value in variables if name and "\0" not in name + value},
            _working_dir(run.get("WorkingDir")),
            (*_strings(run.get("Entrypoint") or [], "Entrypoint"), *_strings(run.get("Cmd") or [], "Cmd")),
        )

    def _manifest(self) -> tuple[str, list[str]]:
        if "manifest.json" in self._blobs:
            images = _parse(self._document("manifest.json"), "manifest.json")
            if not isinstance(images, list) or not images:
                raise ArchiveError("manifest.json names no image")
            if len(images) > 1:
                raise ArchiveError(
                    f"the archive holds {len(images)} images", hint="Save one: docker save -o FILE IMAGE"
                )
            image = _mapping(images[0], "manifest.json")
            return _string(image.get("Config"), "Config"), _strings(image.get("Layers") or [], "Layers")
        document = _mapping(_parse(self._document("index.json"), "index.json"), "index.json")
        for _ in range(4):  # an index may point at an index, but not for ever
            if "layers" in document:
                layers = document["layers"]
                if not isinstance(layers, list):
                    break
                config = _blob_name(_mapping(document.get("config"), "config"))
                return config, [_blob_name(_mapping(layer, "layers")) for layer in layers]
            name = self._choose(document)
            document = _mapping(_parse(self._document(name), name), name)
        raise ArchiveError("the index leads to no image")

    def _choose(self, index: dict[str, Any]) -> str:
        entries = index.get("manifests")
        if not isinstance(entries, list) or not entries:
            raise ArchiveError("the index names no image")
        manifests = [_mapping(entry, "manifests") for entry in entries]
        machine = _machine()
        fitting = [
            entry
            for entry in manifests
            if not entry.get("platform")
            or (_mapping(entry["platform"], "platform").get("architecture"), entry["platform"].get("os"))
            == (machine, "linux")
        ]
        if len(fitting) != 1:
            raise ArchiveError(f"the archive holds {len(fitting)} images for linux/{machine}; exactly one is needed")
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


def _machine() -> str:
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def _check_machine(config: dict[str, Any]) -> None:
    built_for = config.get("architecture", _machine())
    if built_for != _machine() or config.get("os", "linux") != "linux":
        raise ArchiveError(
            f"the image is for {config.get('os', 'linux')}/{built_for}, this machine is linux/{_machine()}",
            hint=f"Get the variant for this machine: docker pull --platform linux/{_machine()} IMAGE",
        )


def _working_dir(value: object) -> str | None:
    if not value:
        return None
    path = _string(value, "WorkingDir")
    if not path.startswith("/") or "\0" in path:
        raise ArchiveError(f"WorkingDir must be absolute, got {path!r}")
    return path


def _parse(data: bytes, name: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name} is not valid JSON: {error}") from error


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"the image is malformed: {name} is not an object")
    return value


def _string(value: object, name: str) -> str:
    if not isinstance(value, str) or not value or _HALVES.search(value):
        raise ArchiveError(f"the image is malformed: {name} is not a string")
    return value


def _strings(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and not _HALVES.search(item) for item in value):
        raise ArchiveError(f"the image is malformed: {name} is not a list of strings")
    return value


def _blob_name(descriptor: dict[str, Any]) -> str:
    digest = _string(descriptor.get("digest"), "digest")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ArchiveError(f"the image is malformed: {digest[:80]!r} is not a SHA-256 digest")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
