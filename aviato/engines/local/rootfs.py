"""The sandbox's root file system: an allow-list on one limited tmpfs, over this machine's directories or an image.

An image's content is not trusted: a link in it must not lead a mount or a write of ours out of the root. Every place is
therefore looked up below the root's descriptor with openat2(2) and RESOLVE_IN_ROOT, and used through `/proc/self/fd`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from aviato.engines.local import profile
from aviato.engines.local.syscalls import (
    ATTR_NODEV,
    ATTR_NOSUID,
    ATTR_RDONLY,
    MS_NODEV,
    MS_NOSUID,
    clone_mount,
    mount,
    open_in_root,
)

STAGE = "/tmp"
ROOT = f"{STAGE}/root"
SHARED_MEMORY = f"{STAGE}/shm"
_LENT = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV


def build(job: dict[str, Any], sources: dict[str, str], content: int, owner: int | None, namespace: int) -> None:
    """Build it.

    Args:
        job: What to make, as `supervisor` describes it.
        sources: Where to find what is lent, by its path on this machine.
        content: Descriptor of the content of mounted files, one after the other.
        owner: User id on this machine that is root inside, None when it is our own.
        namespace: Descriptor of the user namespace whose id map lower layers get; -1 as an ordinary user.

    Raises:
        OSError: The kernel refused something, or the image has a link where a directory must be.
    """
    size = f"size={job['disk_bytes']},nr_inodes={job['inodes']},mode=0755"
    mount("aviato", STAGE, "tmpfs", MS_NODEV | MS_NOSUID, size)
    for name in ("upper", "work", "lower", "mounted"):
        os.mkdir(f"{STAGE}/{name}", 0o755)
    _make(ROOT, 0o755, owner)
    _make(SHARED_MEMORY, 0o1777, owner)
    for number, (place, layer) in enumerate(job["layers"].items()):
        if place != "/":
            _make(ROOT + place, 0o755, owner)
        _overlay(ROOT + place.rstrip("/"), str(number), sources[layer], owner, namespace, _python_folder(job, place))
    root = _Root(owner)
    try:
        for path, mode in {**profile.DIRECTORIES, **job["directories"]}.items():
            root.real_directory(path, mode)
        mount("aviato", root.directory("/sys"), "tmpfs", MS_NODEV | MS_NOSUID | 1, "size=4096,mode=0555")
        for path, target in job["links"].items():
            with contextlib.suppress(FileExistsError):
                os.symlink(target, ROOT + path)
        for place, source in job["lent"].items():
            clone_mount(sources[source], root.directory(place), _LENT)
        for path, text in job["files"].items():
            root.write(path, text.encode())
        _mount_files(job["mounted"], content, root)
    finally:
        root.close()


def _make(path: str, mode: int, owner: int | None) -> None:
    os.mkdir(path)
    os.chmod(path, mode)
    if owner is not None:
        os.chown(path, owner, owner)


def _python_folder(job: dict[str, Any], place: str) -> tuple[str, str] | None:
    """Say in which layer, and where in it, `python` is named; the host's `/usr` is the only one."""
    return ("local/bin", job["named_python"]) if place == "/usr" and job["named_python"] else None


def _overlay(
    place: str, name: str, lower: str, owner: int | None, namespace: int, python: tuple[str, str] | None
) -> None:
    upper, work = f"{STAGE}/upper/{name}", f"{STAGE}/work/{name}"
    _make(upper, 0o755, owner)
    _make(work, 0o755, owner)
    if python is not None:
        _name_python(upper, *python, owner)
    options = f"upperdir={upper},workdir={work}"
    if namespace >= 0:
        cloned = f"{STAGE}/lower/{name}"
        os.mkdir(cloned)
        try:
            clone_mount(lower, cloned, _LENT, namespace)
            lower = cloned
        except OSError:
            # A file system without id-mapped mounts: what is lent belongs to nobody inside, and cannot be changed.
            os.rmdir(cloned)
    else:
        options += ",userxattr"
    mount("overlay", place, "overlay", MS_NODEV | MS_NOSUID, f"lowerdir={lower},{options}")


def _name_python(upper: str, folder: str, python: str, owner: int | None) -> None:
    """Let `python` and `python3` be the interpreter that runs aviato."""
    at = upper
    for part in folder.split("/"):
        at = f"{at}/{part}"
        _make(at, 0o755, owner)
    for name in ("python", "python3"):
        os.symlink(python, f"{at}/{name}")
        if owner is not None:
            os.lchown(f"{at}/{name}", owner, owner)


class _Root:
    """Places below the root, whatever links there are in it."""

    def __init__(self, owner: int | None) -> None:
        self.fd = os.open(ROOT, os.O_PATH | os.O_DIRECTORY)
        self.owner = owner
        self._opened: list[int] = []

    def close(self) -> None:
        """Let everything go."""
        for fd in (*self._opened, self.fd):
            os.close(fd)

    def _open(self, path: str) -> int:
        fd = open_in_root(self.fd, path.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
        self._opened.append(fd)
        return fd

    def _folder(self, path: str, mode: int = 0o755) -> int:
        """Open a directory, making it and those above it where they are missing."""
        try:
            return self._open(path)
        except FileNotFoundError:
            parent = self._folder(os.path.dirname(path.rstrip("/")) or "/")
        name = os.path.basename(path.rstrip("/"))
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            raise OSError(errno.ENOTDIR, f"the image has a link to nowhere, or a file, at {path}") from None
        fd = self._open(path)
        os.chmod(f"/proc/self/fd/{fd}", mode)
        if self.owner is not None:
            os.chown(f"/proc/self/fd/{fd}", self.owner, self.owner)
        return fd

    def directory(self, path: str) -> str:
        """Return a name for a directory, made where it is missing."""
        return f"/proc/self/fd/{self._folder(path)}"

    def real_directory(self, path: str, mode: int) -> None:
        """Make sure that there is a directory of this very name.

        Raises:
            OSError: There is a link or a file.
        """
        parent = self._folder(os.path.dirname(path) or "/")
        name = os.path.basename(path)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            self._folder(path, mode)
            return
        if found.st_mode & 0o170000 != 0o040000 and path in profile.MUST_BE_REAL:
            raise OSError(errno.ENOTDIR, f"the image has something else than a directory at {path}")

    def place_for_file(self, path: str) -> tuple[int, str]:
        """Return the directory of a file, and its name, without whatever is there of that name that is no file."""
        parent = self._folder(os.path.dirname(path) or "/")
        name = os.path.basename(path)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if found.st_mode & 0o170000 != 0o100000:
                os.unlink(name, dir_fd=parent)
        return parent, name

    def write(self, path: str, data: bytes) -> None:
        """Write a small file."""
        parent, name = self.place_for_file(path)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=parent)
        try:
            os.write(fd, data)
            if self.owner is not None:
                os.fchown(fd, self.owner, self.owner)
        finally:
            os.close(fd)


def _mount_files(mounted: list[tuple[str, int, int]], content: int, root: _Root) -> None:
    """Put the mounted files on the tmpfs and bind them read-only to their places."""
    for number, (path, start, length) in enumerate(mounted):
        stored = f"{STAGE}/mounted/{number}"
        fd = os.open(stored, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            os.fchmod(fd, 0o444)
            sent = 0
            while sent < length:
                piece = os.pread(content, min(1 << 20, length - sent), start + sent)
                sent += os.write(fd, piece)
            if root.owner is not None:
                os.fchown(fd, root.owner, root.owner)
        finally:
            os.close(fd)
        parent, name = root.place_for_file(path)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o444, dir_fd=parent))
        clone_mount(stored, f"/proc/self/fd/{parent}/{name}", _LENT)
