"""What is imported into a daemon, as bytes: archives as they are, and directories packed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from aviato.exceptions import EngineError

_CHUNK = 1 << 20
_PACKED = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
_BUNDLE = re.compile(r"blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(\.json)?")
"""What the first part of each name in an archive of `docker save`, or of an OCI layout, is."""


def is_bundle(path: Path) -> bool:
    """Tell an archive of images from one of files, by its names alone.

    Raises:
        EngineError: It is no tar that can be read.
    """
    seen = set()
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                first = os.path.normpath(member.name).split("/", 1)[0]
                if not _BUNDLE.fullmatch(first):
                    return False
                seen.add(first)
    except tarfile.TarError as error:
        raise EngineError(f"{path}: no tar that can be read: {error}") from error
    return bool(seen & {"manifest.json", "oci-layout"})


async def pieces(path: Path) -> AsyncIterator[bytes]:
    """Read a file."""
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece


async def tree(directory: Path, skipped: Counter[str]) -> AsyncIterator[bytes]:
    """Pack a directory while it is sent; what is left out of it is counted.

    Raises:
        OSError: Something cannot be read.
    """
    ours, theirs = os.pipe()
    packing = asyncio.ensure_future(asyncio.to_thread(_pack, directory, theirs, skipped))
    try:
        while piece := await asyncio.to_thread(os.read, ours, _CHUNK):
            yield piece
    finally:
        os.close(ours)  # who packs sees that nobody reads any more
        while not packing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([packing])
        error = packing.exception()
    if error is not None:  # the end must not be taken for that of a whole archive
        raise error


def _pack(directory: Path, descriptor: int, skipped: Counter[str]) -> None:
    with open(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        device = directory.stat().st_dev
        for place, folders, files in os.walk(directory, onerror=_give_up):
            for name in sorted((*folders, *files)):
                path = f"{place}/{name}"
                found = os.lstat(path)
                if found.st_dev != device:
                    skipped["other file system"] += 1
                    folders[:] = [folder for folder in folders if folder != name]
                elif stat.S_IFMT(found.st_mode) not in _PACKED:
                    skipped["device, pipe or socket"] += 1
                else:
                    tar.add(path, os.path.relpath(path, directory), recursive=False)


def _give_up(error: OSError) -> None:
    raise error
