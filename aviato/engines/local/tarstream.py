"""A tar reader that trusts nothing: headers are bounded before they are read, and nothing is written here.

The standard library's reader allocates what a header asks for and its extraction filters have been escaped from more
than once, so archives from strangers are parsed here and unpacked by `archive`. Formats: V7, ustar, GNU long
names and pax. Sparse members are refused, because their stated size says nothing about what is to be written.
"""

from __future__ import annotations

import bz2
import enum
import gzip
import importlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aviato.exceptions import CapabilityError, EngineError, SandboxResourceExhaustedError

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 512
CHUNK = 1 << 18
MAX_EXTENDED_HEADER = 1 << 20
_TIME_LIMIT = 1 << 34


class ArchiveError(EngineError, ValueError):
    """An archive is damaged, hostile, too big or of a kind that is not read; nothing of it was kept."""

    is_infrastructure = False


class TooBigError(ArchiveError, SandboxResourceExhaustedError):
    """An archive brings more than the disk has room for, or pretends to."""


class CompressionError(ArchiveError, CapabilityError):
    """An archive is compressed in a way that this Python cannot read."""


class Kind(enum.Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    SPECIAL = "device, pipe or socket"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry; `path` and `link` are bytes exactly as they were given."""

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    link: bytes = b""


class Readable(Protocol):
    """The part of a file object that is needed."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, `b""` at the end."""
        ...


class Source:
    """Bytes in order, counted, bounded and optionally hashed."""

    def __init__(self, file: Any, *, limit: int, seekable: bool = False, digest: _Hash | None = None) -> None:
        self._file = file
        self._limit = limit
        self._seekable = seekable and digest is None
        self._digest = digest
        self.position = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes.

        Raises:
            ArchiveError: The compressed data is damaged, or more came out of it than fits.
        """
        try:
            data: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ArchiveError(f"the archive cannot be read: {error}") from error
        self.position += len(data)
        if self.position > self._limit:
            raise self._too_big()
        if self._digest is not None:
            self._digest.update(data)
        return data

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; `ArchiveError` when there are fewer."""
        pieces = []
        missing = size
        while missing:
            piece = self.read(min(missing, CHUNK))
            if not piece:
                raise ArchiveError("the archive ends in the middle of a member: it is incomplete")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; `ArchiveError` when that is more than fits."""
        if self._seekable:
            if self.position + size > self._limit:
                raise self._too_big()
            self._file.seek(size, os.SEEK_CUR)
            self.position += size
            return
        while size:
            size -= len(self.exactly(min(size, CHUNK)))

    def _too_big(self) -> TooBigError:
        return TooBigError(
            f"the archive is bigger than the {self._limit} bytes that fit here", hint="Free some disk space."
        )

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK):
            pass


def decompressor(magic: bytes) -> Callable[[Any], Any] | None:
    """Return what opens a file beginning with `magic`, or None when it is not compressed.

    Raises:
        CompressionError: It is compressed in a way that this Python cannot read.
    """
    if magic.startswith(b"\x1f\x8b"):
        return lambda file: gzip.GzipFile(fileobj=file)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile
    if magic.startswith(b"BZh"):
        return bz2.BZ2File
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        zstd = zstd_module()
        if zstd is None:
            raise CompressionError(
                "the archive is compressed with zstd, which this Python cannot read before version 3.14",
                hint="pip install 'aviato[zstd]'   (or decompress it first: zstd -d FILE)",
            )
        return lambda file: _ZstdFile(zstd, file)
    return None


def zstd_module() -> Any:
    """Return the module that reads zstd: Python's own, or its backport for older ones; None when neither is there."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


class _ZstdFile:
    """Makes the error of damaged data one that every decompressor may raise."""

    def __init__(self, zstd: Any, file: Any) -> None:
        self._file = zstd.ZstdFile(file)
        self._error: type[Exception] = zstd.ZstdError

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        try:
            data: bytes = self._file.read(size)
        except self._error as error:
            raise EOFError(str(error)) from error
        return data


class TarStream:
    """Iterates over the members of a tar; a member's data is read with `chunks` before the next one is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the members in order.

        Raises:
            ArchiveError: The archive is damaged.
        """
        extended: dict[str, bytes] = {}
        begun = False
        while True:
            header = self._header(begun=begun)
            if header is None:
                return
            begun = True
            kind = header[156:157]
            size = _number(header[124:136], "size")
            if kind in b"xgXLK" and kind:
                data = self._extended(size)
                if kind in b"xX":
                    extended |= _pax(data)
                elif kind == b"L":
                    extended["path"] = data.rstrip(b"\0")
                elif kind == b"K":
                    extended["linkpath"] = data.rstrip(b"\0")
                continue
            member = _member(header, kind, size, extended)
            extended = {}
            stored = size if member.kind is Kind.SPECIAL and kind not in b"346" else member.size
            self._left, self._padding = stored, -stored % BLOCK
            yield member
            self._source.skip(self._left + self._padding)
            self._left = self._padding = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the current member's data."""
        while self._left:
            data = self._source.exactly(min(self._left, CHUNK))
            self._left -= len(data)
            yield data

    def _header(self, *, begun: bool) -> bytes | None:
        first = self._source.read(BLOCK)
        if not first:
            if begun:
                return None
            raise ArchiveError("the archive is empty")
        block = first + (self._source.exactly(BLOCK - len(first)) if len(first) < BLOCK else b"")
        if not block.strip(b"\0"):
            return None
        stated = _number(block[148:156], "checksum")
        if stated != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise ArchiveError("this is not a tar archive" if not begun else "the archive is damaged: a bad checksum")
        return block

    def _extended(self, size: int) -> bytes:
        if size > MAX_EXTENDED_HEADER:
            raise ArchiveError(f"a name or pax header of {size} bytes is more than the {MAX_EXTENDED_HEADER} allowed")
        data = self._source.exactly(size)
        self._source.skip(-size % BLOCK)
        return data


def _member(header: bytes, kind: bytes, size: int, extended: dict[str, bytes]) -> Member:
    if kind == b"S" or any(key.startswith("GNU.sparse") for key in extended):
        raise ArchiveError("the archive has sparse members, which are not read", hint="Pack it without --sparse.")
    path = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        path = prefix + b"/" + path if prefix else path
    path = extended.get("path", path)
    if "size" in extended:
        size = _decimal(extended["size"], "size")
    what = {
        b"0": Kind.FILE,
        b"\0": Kind.FILE,
        b"7": Kind.FILE,
        b"1": Kind.HARDLINK,
        b"2": Kind.SYMLINK,
        b"5": Kind.DIRECTORY,
    }.get(kind, Kind.SPECIAL)
    if what is Kind.FILE and path.endswith(b"/"):
        what = Kind.DIRECTORY
    mtime = extended.get("mtime")
    seconds = _number(header[136:148], "mtime") * 10**9 if mtime is None else _nanoseconds(mtime)
    return Member(
        path,
        what,
        _number(header[100:108], "mode") & 0o7777,
        _decimal(extended["uid"], "uid") if "uid" in extended else _number(header[108:116], "uid"),
        _decimal(extended["gid"], "gid") if "gid" in extended else _number(header[116:124], "gid"),
        min(max(seconds, 0), _TIME_LIMIT * 10**9),
        size if what is Kind.FILE else 0,
        extended.get("linkpath", header[157:257].split(b"\0", 1)[0]),
    )


def _number(field: bytes, name: str) -> int:
    if field[0] & 0x80:  # GNU's base 256; a leading 0xff means negative
        value = int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else int.from_bytes(field[1:], "big")
        if value < 0 and name != "mtime":
            raise ArchiveError(f"the archive is damaged: {name} is negative")
        return value
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not all(0x30 <= digit <= 0x37 for digit in text):
        raise ArchiveError(f"the archive is damaged, or is no tar archive: {name} is {text!r}")
    return int(text, 8)


def _decimal(value: bytes, name: str) -> int:
    if not value.isdigit() or len(value) > 20:
        raise ArchiveError(f"the archive is damaged: {name} is {value[:40]!r}")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    whole, _, fraction = value.partition(b".")
    if whole.startswith(b"-"):
        return 0
    return _decimal(whole, "mtime") * 10**9 + (_decimal(fraction[:9].ljust(9, b"0"), "mtime") if fraction else 0)


def _pax(data: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    place = 0
    while place < len(data) and data[place]:
        space = data.find(b" ", place, place + 12)
        length = _decimal(data[place:space], "a pax header's length") if space > place else 0
        end = place + length
        if space < 0 or end <= space + 1 or end > len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveError("the archive is damaged: a malformed pax header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise ArchiveError("the archive is damaged: a malformed pax header")
        records[key.decode("utf-8", "replace")] = value
        place = end
    return records
