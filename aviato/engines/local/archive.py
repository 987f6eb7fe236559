"""Unpacks members into a directory so that nothing can leave it, whatever the archive says.

Every step goes from one directory descriptor to the next with `O_NOFOLLOW`; no path of the archive is ever given to the
kernel as a whole, so there is nothing to resolve: `..`, absolute paths, paths through a symbolic link and hard
links to the outside are refused, overlong paths never meet PATH_MAX, and a link planted by one member cannot
lead the next one astray.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from aviato.engines.local.tarstream import ArchiveError, Kind, Member, TooBigError

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_MAX_ID = (1 << 32) - 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESERVE = 64 << 20


@dataclass(frozen=True)
class Limits:
    """The most that an archive may bring."""

    total_bytes: int
    entries: int = 1_000_000
    depth: int = 128
    name_bytes: int = 255
    path_bytes: int = 4095

    @classmethod
    def of(cls, directory: int) -> Limits:
        """Take the free space of the file system of `directory`, less a reserve, as the limit."""
        free = os.fstatvfs(directory)
        inodes = free.f_favail if free.f_files else cls.entries
        return cls(max(0, free.f_bavail * free.f_frsize - _RESERVE), entries=min(cls.entries, inodes))


class Unpacker:
    """Writes members below one directory.

    Args:
        root: A descriptor of an empty directory that nobody else writes to.
        limits: The most to write.
        owners: Keep numeric owners; only root can.
    """

    def __init__(self, root: int, limits: Limits, *, owners: bool) -> None:
        self._root = root
        self._limits = limits
        self._owners = owners
        self._path: tuple[bytes, ...] = ()
        self._descriptors: list[int] = []
        self._directories: dict[tuple[bytes, ...], Member] = {}
        self._layer: set[tuple[bytes, ...]] | None = None
        self._hash = hashlib.sha256()
        self._implied = 0
        self.entries = 0
        self.bytes = 0
        self.skipped: dict[str, int] = {}

    @property
    def digest(self) -> str:
        """SHA-256 over what was unpacked, in the order it came: paths, kinds, modes, owners, times, links and data."""
        return f"sha256:{self._hash.hexdigest()}"

    def begin_layer(self) -> None:
        """Understand whiteouts from now on; they concern what was there before this call."""
        self._layer = set()

    def add(self, member: Member, chunks: Iterable[bytes]) -> None:
        """Unpack one member; `chunks` give a file's data and must be `member.size` bytes in all.

        Raises:
            ArchiveError: The member is not allowed, or a limit was passed.
            OSError: The file system refused.
        """
        parts = self._parts(member.path, "path")
        self.entries += 1
        self._check_entries()
        if self.bytes + member.size > self._limits.total_bytes:
            raise TooBigError(
                f"{_shown(member.path)}: {member.size} bytes do not fit, {self._limits.total_bytes} are free",
                hint="Free some disk space, or set AVIATO_HOME to a bigger file system.",
            )
        if member.kind is Kind.SPECIAL:
            self.skip(member.kind.value)
        elif not parts:
            if member.kind is not Kind.DIRECTORY:
                raise ArchiveError(f"{_shown(member.path)}: the root itself can only be a directory")
            self._directories[()] = member
        elif self._layer is not None and parts[-1].startswith(WHITEOUT):
            self._whiteout(parts)
        else:
            self._place(member, parts, chunks)
            self._record(member)
            if self._layer is not None:
                self._layer.update(parts[:end] for end in range(1, len(parts) + 1))

    def _check_entries(self) -> None:
        if self.entries + self._implied > self._limits.entries:
            raise ArchiveError(f"the archive has more than {self._limits.entries} entries")

    def skip(self, what: str) -> None:
        """Count something that is left out."""
        self.skipped[what] = self.skipped.get(what, 0) + 1

    def finish(self) -> None:
        """Give the directories their final modes, owners and times, which would have been in the way before."""
        for parts in sorted(self._directories, key=len, reverse=True):
            member = self._directories[parts]
            try:
                descriptor = self._open(parts, create=False)
            except (ArchiveError, FileNotFoundError):
                continue  # a later layer removed or replaced it
            self._attributes(descriptor, member)
        self.close()

    def close(self) -> None:
        """Release the descriptors; idempotent."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._path = ()

    def _parts(self, path: bytes, what: str) -> tuple[bytes, ...]:
        if path.startswith(b"/"):
            raise ArchiveError(f"{_shown(path)}: the {what} is absolute")
        if len(path) > self._limits.path_bytes:
            raise ArchiveError(f"{_shown(path)}: a {what} of {len(path)} bytes is too long")
        parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
        if len(parts) > self._limits.depth:
            raise ArchiveError(f"{_shown(path)}: more than {self._limits.depth} directories deep")
        for part in parts:
            if part == b"..":
                raise ArchiveError(f"{_shown(path)}: the {what} leads out of the archive with '..'")
            if len(part) > self._limits.name_bytes or b"\0" in part:
                raise ArchiveError(
                    f"{_shown(path)}: a name in it is longer than {self._limits.name_bytes} bytes or bad"
                )
        return parts

    def _open(self, parts: tuple[bytes, ...], *, create: bool) -> int:
        """Return a descriptor of a directory, which stays valid until the next call."""
        shared = 0
        while shared < min(len(parts), len(self._path)) and parts[shared] == self._path[shared]:
            shared += 1
        while len(self._descriptors) > shared:
            os.close(self._descriptors.pop())
        self._path = parts[:shared]
        for part in parts[shared:]:
            parent = self._descriptors[-1] if self._descriptors else self._root
            try:
                descriptor = os.open(part, _DIRECTORY, dir_fd=parent)
            except FileNotFoundError:
                if not create:
                    raise
                self._implied += 1  # a short archive can name many directories that it has no entries for
                self._check_entries()
                os.mkdir(part, 0o700, dir_fd=parent)
                descriptor = os.open(part, _DIRECTORY, dir_fd=parent)
                os.fchmod(descriptor, 0o755)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise ArchiveError(
                        f"{_shown(b'/'.join(parts))}: {_shown(part)} in it is not a directory; links are not followed"
                    ) from error
                raise
            self._descriptors.append(descriptor)
            self._path = (*self._path, part)
        return self._descriptors[-1] if self._descriptors else self._root

    def _place(self, member: Member, parts: tuple[bytes, ...], chunks: Iterable[bytes]) -> None:
        name = parts[-1]
        if member.kind is Kind.HARDLINK:
            self._hard_link(member, parts)
            return
        parent = self._open(parts[:-1], create=True)
        if member.kind is Kind.DIRECTORY:
            if not self._is_directory(parent, name):
                self._remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
            self._directories[parts] = member
            return
        self._remove(parent, name)
        if member.kind is Kind.SYMLINK:
            if not member.link or b"\0" in member.link or len(member.link) > self._limits.path_bytes:
                raise ArchiveError(f"{_shown(member.path)}: a symbolic link with a bad target")
            os.symlink(member.link, name, dir_fd=parent)
            if self._owners:
                os.chown(name, *_owner(member), dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            self._write(descriptor, member, chunks)
            self._attributes(descriptor, member)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, member: Member, chunks: Iterable[bytes]) -> None:
        written = 0
        content = hashlib.sha256()
        for chunk in chunks:
            written += len(chunk)
            if written > member.size:
                break
            content.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        if written != member.size:
            raise ArchiveError(f"{_shown(member.path)}: it has another size than the {member.size} bytes announced")
        self.bytes += written
        self._hash.update(content.digest())

    def _hard_link(self, member: Member, parts: tuple[bytes, ...]) -> None:
        target = self._parts(member.link, "target of a hard link")
        if not target or target == parts:
            raise ArchiveError(f"{_shown(member.path)}: a hard link to a directory or to itself")
        try:
            source = os.dup(self._open(target[:-1], create=False))
        except FileNotFoundError as error:
            raise ArchiveError(f"{_shown(member.path)}: the target of the hard link is not in the archive") from error
        try:
            try:
                mode = os.stat(target[-1], dir_fd=source, follow_symlinks=False).st_mode
            except FileNotFoundError as error:
                raise ArchiveError(
                    f"{_shown(member.path)}: the target of the hard link is not in the archive"
                ) from error
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise ArchiveError(f"{_shown(member.path)}: a hard link to something that is not a file")
            parent = self._open(parts[:-1], create=True)
            self._remove(parent, parts[-1])
            try:
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError as error:  # removing the old entry took the target with it
                raise ArchiveError(f"{_shown(member.path)}: the hard link replaces its own target") from error
        finally:
            os.close(source)

    def _whiteout(self, parts: tuple[bytes, ...]) -> None:
        directory = parts[:-1]
        if parts[-1] == OPAQUE:
            with contextlib.suppress(FileNotFoundError):
                self._clear(directory)
            return
        name = parts[-1][len(WHITEOUT) :]
        if name.startswith(WHITEOUT):
            return  # bookkeeping of an old layered file system
        if name in (b"", b".", b".."):
            raise ArchiveError(f"{_shown(b'/'.join(parts))}: a whiteout of nothing")
        if self._layer is not None and (*directory, name) in self._layer:
            return  # whiteouts concern the layers below, not this one
        with contextlib.suppress(FileNotFoundError):
            self._remove(self._open(directory, create=False), name)

    def _clear(self, directory: tuple[bytes, ...]) -> None:
        """Remove what older layers left in a directory and keep what this layer has put there."""
        layer = self._layer or set()
        descriptor = os.dup(self._open(directory, create=False))
        try:
            for entry in os.listdir(descriptor):
                name = os.fsencode(entry)
                path = (*directory, name)
                if path not in layer:
                    self._remove(descriptor, name)
                elif self._is_directory(descriptor, name):
                    self._clear(path)
        finally:
            os.close(descriptor)

    @staticmethod
    def _is_directory(parent: int, name: bytes) -> bool:
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    @staticmethod
    def _remove(parent: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=parent)  # walks by descriptors too, and follows no link

    def _attributes(self, descriptor: int, member: Member) -> None:
        directory = member.kind is Kind.DIRECTORY
        mode = member.mode & (
            0o1777 if directory else 0o777
        )  # no set-user-id, and sticky means something on directories only
        if self._owners:
            os.fchown(descriptor, *_owner(member))
        elif directory:
            mode |= 0o700  # or its owner, the user, could neither use nor remove it
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def _record(self, member: Member) -> None:
        fields = (member.path, member.link, member.kind.value.encode())
        numbers = (member.mode, member.uid, member.gid, member.mtime_ns, member.size)
        self._hash.update(b"".join(len(field).to_bytes(4, "big") + field for field in fields))
        self._hash.update(repr(numbers).encode())


def _owner(member: Member) -> tuple[int, int]:
    if member.uid > _MAX_ID or member.gid > _MAX_ID:
        raise ArchiveError(f"{_shown(member.path)}: owner {member.uid}:{member.gid} does not exist")
    return member.uid, member.gid


def _shown(path: bytes) -> str:
    text = repr(os.fsdecode(path))
    return text if len(text) <= 120 else f"{text[:100]}…{text[-1]}"
