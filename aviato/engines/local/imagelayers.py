"""Makes a root file system from an image's layers and its configuration, wherever both come from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aviato.engines.local.archive import Unpacker
from aviato.engines.local.tarstream import ArchiveError, Source, TarStream, decompressor
from aviato.registry.platforms import here

MAX_LAYERS = 512
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters: JSON can name them, and nothing that starts a program could encode them."""


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


@dataclass(frozen=True)
class Layer:
    """One layer as it is stored, compressed or not.

    Attributes:
        name: For messages.
        open: Gives the stored bytes from their beginning, as a file.
    """

    name: str
    open: Callable[[], Any]


def unpack_layers(
    raw: bytes,
    layers: Sequence[Layer],
    unpacker: Unpacker,
    limit: int,
    done: Callable[[Layer], None] = lambda _layer: None,
) -> Contents:
    """Apply layers in order, each checked against the configuration.

    Args:
        raw: The image's configuration.
        layers: From the lowest up.
        unpacker: Where the files go.
        limit: The most bytes that may come out of a compressed layer.
        done: Is called after each layer.

    Raises:
        ArchiveError: A layer or the configuration is damaged, hostile or for another machine.
        OSError: The files cannot be written.
    """
    config = mapping(parse(raw, "the configuration"), "the configuration")
    _check_machine(config)
    diff_ids = strings(mapping(config.get("rootfs", {}), "rootfs").get("diff_ids", []), "diff_ids")
    if len(diff_ids) != len(layers) or len(layers) > MAX_LAYERS:
        raise ArchiveError(f"the image names {len(layers)} layers and describes {len(diff_ids)}")
    run = mapping(config.get("config") or {}, "config")
    variables = (item.partition("=") for item in strings(run.get("Env") or [], "Env"))
    contents = Contents(
        "image",
        f"sha256:{hashlib.sha256(raw).hexdigest()}",
        {name: value for name, _, value in variables if name and "\0" not in name + value},
        _working_dir(run.get("WorkingDir")),
        (*strings(run.get("Entrypoint") or [], "Entrypoint"), *strings(run.get("Cmd") or [], "Cmd")),
    )
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        unpacker.begin_layer()
        _unpack_layer(layer, diff_id, unpacker, limit)
        done(layer)
    return contents


def _unpack_layer(layer: Layer, diff_id: str, unpacker: Unpacker, limit: int) -> None:
    digest = hashlib.sha256()
    with layer.open() as file:
        magic = file.read(8)
    with layer.open() as file:
        opener = decompressor(magic)
        source = Source(opener(file) if opener else file, limit=limit, digest=digest)
        if magic:
            unpack_tar(source, unpacker)
            source.drain()
    if diff_id != f"sha256:{digest.hexdigest()}":
        raise ArchiveError(
            f"layer {layer.name} is damaged: its SHA-256 is not the one that the image's configuration has"
        )


def unpack_tar(source: Source, unpacker: Unpacker) -> None:
    """Unpack every member of a tar.

    Raises:
        ArchiveError: It is damaged or hostile.
        OSError: The files cannot be written.
    """
    tar = TarStream(source)
    for member in tar:
        unpacker.add(member, tar.chunks())


def _check_machine(config: dict[str, Any]) -> None:
    machine = here()
    built_for = config.get("architecture", machine.architecture)
    if built_for != machine.architecture or config.get("os", "linux") != "linux":
        raise ArchiveError(
            f"the image is for {config.get('os', 'linux')}/{built_for}, this machine is {machine}",
            hint=f"Get the variant for this machine: docker pull --platform {machine} IMAGE",
        )


def _working_dir(value: object) -> str | None:
    if not value:
        return None
    path = string(value, "WorkingDir")
    if not path.startswith("/") or "\0" in path:
        raise ArchiveError(f"WorkingDir must be absolute, got {path!r}")
    return path


def parse(data: bytes, name: str) -> object:
    """Read JSON; `ArchiveError` when it is not."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name} is not valid JSON: {error}") from error


def mapping(value: object, name: str) -> dict[str, Any]:
    """Return a JSON object; `ArchiveError` when it is something else."""
    if not isinstance(value, dict):
        raise ArchiveError(f"the image is malformed: {name} is not an object")
    return value


def string(value: object, name: str) -> str:
    """Return a string that is not empty; `ArchiveError` when it is something else."""
    if not isinstance(value, str) or not value or _HALVES.search(value):
        raise ArchiveError(f"the image is malformed: {name} is not a string")
    return value


def strings(value: object, name: str) -> list[str]:
    """Return a list of strings; `ArchiveError` when it is something else."""
    if not isinstance(value, list) or not all(isinstance(item, str) and not _HALVES.search(item) for item in value):
        raise ArchiveError(f"the image is malformed: {name} is not a list of strings")
    return value
