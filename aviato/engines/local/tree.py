"""Reads a directory of this machine as if it were an archive, by descriptors and without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from aviato.engines.local.tarstream import CHUNK, Kind, Member

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFREG: Kind.FILE}


def read_tree(root: int, skip: Callable[[str], None]) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Iterate over the files below a directory as members, sorted; other file systems are left out.

    Args:
        root: A descriptor of the directory.
        skip: Called with a word for each thing that is left out.

    Raises:
        OSError: Something cannot be read.
    """
    seen: dict[tuple[int, int], bytes] = {}
    top = os.fstat(root)
    yield _member(b".", top, Kind.DIRECTORY), iter(())
    pending = [(b"", os.dup(root))]
    try:
        while pending:
            prefix, directory = pending.pop()
            try:
                below = []
                for entry in sorted(os.listdir(directory)):
                    name = os.fsencode(entry)
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if found.st_dev != top.st_dev:
                        skip("other file system")
                        continue
                    if stat.S_ISDIR(found.st_mode):
                        below.append(name)
                    yield _describe(prefix + name, found, directory, name, seen), _chunks(directory, name)
                for name in reversed(below):
                    pending += [(prefix + name + b"/", os.open(name, _DIRECTORY, dir_fd=directory))]
            finally:
                os.close(directory)
    finally:
        for _, directory in pending:
            os.close(directory)


def _describe(
    path: bytes, found: os.stat_result, directory: int, name: bytes, seen: dict[tuple[int, int], bytes]
) -> Member:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), Kind.SPECIAL)
    if kind is Kind.SYMLINK:
        return _member(path, found, kind, os.readlink(name, dir_fd=directory))
    if kind is Kind.FILE and found.st_nlink > 1:
        first = seen.setdefault((found.st_dev, found.st_ino), path)
        if first != path:
            return _member(path, found, Kind.HARDLINK, first)
    return _member(path, found, kind)


def _member(path: bytes, found: os.stat_result, kind: Kind, link: bytes = b"") -> Member:
    size = found.st_size if kind is Kind.FILE else 0
    mode = stat.S_IMODE(found.st_mode)
    return Member(path, kind, mode, found.st_uid, found.st_gid, max(0, found.st_mtime_ns), size, link)


def _chunks(directory: int, name: bytes) -> Iterator[bytes]:
    """Read a file, when the first piece is asked for."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    try:
        while chunk := os.read(descriptor, CHUNK):
            yield chunk
    finally:
        os.close(descriptor)
