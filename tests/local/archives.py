"""Archives member by member, and a place to unpack them where an escape would be seen."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from aviato.engines.local.archive import Limits, Unpacker
from aviato.engines.local.tarstream import Source, TarStream

LIMIT = 10 << 20


class Arena:
    """A directory to unpack into, in a directory with something to lose.

    Args:
        base: Where both are made.
        ours: Names beside them that may change.
    """

    def __init__(self, base: Path, *ours: str) -> None:
        self.base = base
        self.ours = ours
        self.outside = base / "outside"
        self.root = base / "root"
        self.outside.mkdir()
        self.root.mkdir()
        (self.outside / "canary").write_text("alive")
        (self.outside / "program").write_text("#!/bin/sh\n")
        self._before = self._around()

    def unpack(self, *archives: bytes, limits: Limits | None = None, layers: bool = False) -> Unpacker:
        """Unpack archives, as layers if asked for."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        unpacker = Unpacker(descriptor, limits or Limits(LIMIT), owners=os.geteuid() == 0)
        try:
            for data in archives:
                if layers:
                    unpacker.begin_layer()
                tar = TarStream(Source(io.BytesIO(data), limit=LIMIT))
                for member in tar:
                    unpacker.add(member, tar.chunks())
            unpacker.finish()
        finally:
            unpacker.close()
            os.close(descriptor)
        return unpacker

    def _around(self) -> list[tuple[object, ...]]:
        """Describe everything beside the root: what is there, what it says, and what its inode says."""
        apart = {self.root, *(self.base / name for name in self.ours)}
        found: list[tuple[object, ...]] = []
        for path in sorted(self.base.rglob("*")):
            if apart & {path, *path.parents}:
                continue
            status = path.lstat()
            text = path.read_bytes() if path.is_file() else b""
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino)
            found.append((path, *facts, status.st_mtime_ns, status.st_ctime_ns, text))
        return found

    def check(self) -> None:
        """Fail when something outside has changed."""
        assert self._around() == self._before

    def names(self) -> list[str]:
        """Return everything below the root."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


def entry(
    name: str, data: bytes | None = b"", *, link: str = "", kind: bytes = tarfile.REGTYPE, **fields: int
) -> bytes:
    """Make one member; concatenated members are an archive without its end."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    data = data or b""
    if kind == tarfile.REGTYPE and "size" not in fields:
        info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT) + data + b"\0" * (-len(data) % 512)


def directory(name: str, mode: int = 0o755) -> bytes:
    """Make a directory."""
    return entry(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> bytes:
    """Make a symbolic link."""
    return entry(name, link=target, kind=tarfile.SYMTYPE)


def hardlink(name: str, target: str) -> bytes:
    """Make a hard link."""
    return entry(name, link=target, kind=tarfile.LNKTYPE)


def with_field(member: bytes, offset: int, value: bytes, *, fix: bool = True) -> bytes:
    """Overwrite a part of a member's header, with the right checksum if not told otherwise."""
    header = bytearray(member[:512])
    header[offset : offset + len(value)] = value
    if fix:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + member[512:]


def base256(number: int) -> bytes:
    """Write a number as GNU tar does when it has too many digits."""
    return b"\x80" + number.to_bytes(11, "big")


def pax(values: dict[str, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Make a pax header for the member that follows."""
    body = b""
    for key, value in values.items():
        record = b" %s=%s\n" % (key.encode(), value)
        length = len(record)
        while length != len(str(length)) + len(record):
            length = len(str(length)) + len(record)
        body += str(length).encode() + record
    return entry("p", body, kind=kind, size=len(body))


def long_name(name: bytes, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    """Make the header with which GNU tar gives a long name, or a long link, to the member that follows."""
    return entry("././@LongLink", name + b"\0", kind=kind, size=len(name) + 1)
