"""What engines say about their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageInfo:
    """One name in a store: the local engine's, or that of a Docker daemon.

    Attributes:
        name: Name and tag.
        kind: `"host"` for this machine's own root, else `"image"`.
        digest: SHA-256 of an image's configuration, or of the files where there is none; empty for the host.
        size_bytes: Bytes of all files; 0 for the host.
        entries: How many files, directories and links were unpacked; 0 where that is not known.
        skipped: What was left out by an import, such as devices, and how many of each.
        source: `"directory"`, `"rootfs"`, `"image"`, or empty for the host and where it is not known.
        created: Seconds since the epoch: when it was stored, on a Docker daemon when it was made.
        command: What the image itself would start; sandboxes do not.
    """

    name: str
    kind: str
    digest: str = ""
    size_bytes: int = 0
    entries: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    created: float = 0.0
    command: tuple[str, ...] = ()
