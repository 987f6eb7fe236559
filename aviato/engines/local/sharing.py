"""Lets images that have layers in common share the files on the disk: equal files become hard links of one another.

Roots are never written to after they are made, so nobody can change a file under another image. Only whole files at the
same path, with the same content, owner, mode and time are shared, and none twice within one image: two names of a
sandbox's system must not become one file, which `rename` for one would treat otherwise.
"""

from __future__ import annotations

import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 1 << 20
_SMALLEST = 4096
"""Bytes below which a file costs no more than its inode, or little."""


def share(new: int, old: int, spare: str) -> int:
    """Replace files of a root by those of another one that are equal.

    Args:
        new: A descriptor of a root that nobody uses yet.
        old: A descriptor of the root to share with, which is kept from being removed.
        spare: A path on the same file system where nothing is.

    Returns:
        How many bytes that saved.

    Raises:
        OSError: The new root cannot be written.
    """
    saved = 0
    taken: set[int] = set()
    for path, _, names, folder in os.fwalk(".", dir_fd=new, follow_symlinks=False):
        other = _open(old, path)
        if other is None:
            continue
        try:
            before = os.fstat(folder)
            found = [size for name in names if (size := _share_file(name, folder, other, spare, taken))]
            if found:
                os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
                saved += sum(found)
        finally:
            os.close(other)
    return saved


def _open(root: int, path: str) -> int | None:
    """Open the directory of a path below a root, step by step, or give None where there is none."""
    descriptor = os.dup(root)
    for part in path.split("/"):
        above = descriptor
        try:
            descriptor = os.open(part, _DIRECTORY, dir_fd=above)
        except OSError:
            return None
        finally:
            os.close(above)
    return descriptor


def _share_file(name: str, folder: int, other: int, spare: str, taken: set[int]) -> int:
    mine = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(mine.st_mode) or mine.st_nlink != 1 or mine.st_size < _SMALLEST:
        return 0
    try:
        theirs = os.stat(name, dir_fd=other, follow_symlinks=False)
        if _facts(mine) != _facts(theirs) or theirs.st_ino in taken or not _is_equal(name, folder, other):
            return 0
        os.link(name, spare, src_dir_fd=other, follow_symlinks=False)
    except OSError:
        return 0  # it is not there, cannot be read, or has as many links as a file can have
    os.rename(spare, name, dst_dir_fd=folder)
    taken.add(theirs.st_ino)
    return mine.st_size


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)


def _is_equal(name: str, one: int, two: int) -> bool:
    with (
        open(os.open(name, _FILE, dir_fd=one), "rb", buffering=0) as first,
        open(os.open(name, _FILE, dir_fd=two), "rb", buffering=0) as second,
    ):
        while True:
            chunk = first.read(_CHUNK)
            if chunk != second.read(_CHUNK):
                return False
            if not chunk:
                return True
