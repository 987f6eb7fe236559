"""Archives from strangers: none writes outside, none fills the machine, and each says why it is refused."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviato.engines.local.archive import Limits, Unpacker
from aviato.engines.local.tarstream import ArchiveError, Kind, Member, Source, TarStream

LIMIT = 10 << 20


class Arena:
    """A directory to unpack into, in a directory with something to lose."""

    def __init__(self, base: Path) -> None:
        self.outside = base / "outside"
        self.root = base / "root"
        self.outside.mkdir()
        self.root.mkdir()
        (self.outside / "canary").write_text("alive")
        (self.outside / "program").write_text("#!/bin/sh\n")

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

    def check(self) -> None:
        """Fail when something outside has changed."""
        assert sorted(entry.name for entry in self.outside.parent.iterdir()) == ["outside", "root"]
        assert sorted(entry.name for entry in self.outside.iterdir()) == ["canary", "program"]
        assert (self.outside / "canary").read_text() == "alive"
        assert (self.outside / "canary").stat().st_nlink == 1
        assert (self.outside / "program").read_text() == "#!/bin/sh\n"

    def names(self) -> list[str]:
        """Return everything below the root."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A place to unpack into; at the end, nothing outside may have changed."""
    made = Arena(tmp_path)
    yield made
    made.check()


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


def path_max_trick() -> bytes:
    """Build the archive that leads `realpath` astray: so long a path through links that it is no longer resolved."""
    long_name = "d" * 247
    parts, path = [], ""
    for step in "abcdefghijklmnop":
        parts += [directory(f"{path}{long_name}"), symlink(f"{path}{step}", long_name)]
        path += f"{long_name}/"
    short = "/".join("abcdefghijklmnop")
    parts += [symlink(f"{short}/{'l' * 254}", "../" * 16), symlink("escape", f"{short}/{'l' * 254}/../outside")]
    return b"".join([*parts, entry("escape/canary", b"dead"), hardlink("escape/stolen", "escape/canary")])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "dot-dot": lambda: entry("../outside/canary", b"dead"),
    "dot-dot in the middle": lambda: directory("a") + entry("a/../../outside/canary", b"dead"),
    "absolute": lambda: entry("/tmp/aviato-hostile", b"dead"),
    "absolute with dots": lambda: entry("/../../outside/canary", b"dead"),
    "symlink then write": lambda: symlink("x", "../outside") + entry("x/canary", b"dead"),
    "absolute symlink then write": lambda: symlink("x", "/etc") + entry("x/aviato-hostile", b"dead"),
    "symlink to a symlink": lambda: symlink("y", "../outside") + symlink("x", "y") + entry("x/canary", b"dead"),
    "symlink of the root": lambda: symlink(".", "../outside") + entry("canary", b"dead"),
    "directory through a symlink": lambda: symlink("x", "../outside") + directory("x/new"),
    "symlink through a symlink": lambda: symlink("x", "../outside") + symlink("x/new", "/etc"),
    "hard link outside": lambda: hardlink("x", "../outside/canary") + entry("x", b"dead"),
    "hard link absolute": lambda: hardlink("x", "/etc/passwd"),
    "hard link through a symlink": lambda: symlink("d", "../outside") + hardlink("x", "d/canary"),
    "hard link into a symlink": lambda: entry("f") + symlink("d", "../outside") + hardlink("d/new", "f"),
    "hard link to a directory": lambda: directory("d") + hardlink("x", "d"),
    "hard link to itself": lambda: entry("x") + hardlink("x", "x"),
    "hard link to nothing": lambda: hardlink("x", "y"),
    "path too long": lambda: entry("/".join(["d" * 200] * 30) + "/f"),
    "name too long": lambda: entry("n" * 256),
    "too deep": lambda: entry("d/" * 200 + "f"),
    "PATH_MAX trick": path_max_trick,
    "NUL in a name": lambda: _pax_name(b"a\0b"),
    "empty symlink": lambda: symlink("x", ""),
    "size beyond the disk": lambda: entry("x", size=1 << 60),
    "size beyond the archive": lambda: entry("x", b"short", size=4096),
    "negative size": lambda: _with_field(entry("x"), 124, b"\xff" * 12),
    "enormous pax header": lambda: _with_field(entry("x", kind=tarfile.XHDTYPE), 124, b"77777777777\0"),
    "malformed pax header": lambda: entry("p", b"99999 path=x\n", kind=tarfile.XHDTYPE, size=13) + entry("x"),
    "pax header without end": lambda: entry("p", b"12 path=/etcX", kind=tarfile.XHDTYPE, size=13) + entry("x"),
    "sparse": lambda: entry("x", kind=tarfile.GNUTYPE_SPARSE),
    "bad checksum": lambda: entry("a") + _with_field(entry("b"), 0, b"c", fix=False),
    "not an archive": lambda: b"hello, this is text\n" * 100,
    "empty": lambda: b"",
    "cut in a header": lambda: entry("a") + entry("b")[:100],
    "root is a file": lambda: entry("./", b"", kind=tarfile.REGTYPE) + entry(".", b"x"),
}


def _with_field(member: bytes, offset: int, value: bytes, *, fix: bool = True) -> bytes:
    header = bytearray(member[:512])
    header[offset : offset + len(value)] = value
    if fix:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + member[512:]


def _pax_name(name: bytes) -> bytes:
    body = b"path=" + name + b"\n"
    record = b"%d %s" % (len(body) + 3, body)
    return entry("p", record, kind=tarfile.XHDTYPE, size=len(record)) + entry("x")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(arena: Arena, name: str) -> None:
    """Each hostile archive is an ArchiveError, and nothing outside was touched."""
    with pytest.raises(ArchiveError):
        arena.unpack(HOSTILE[name]())
    assert not Path("/tmp/aviato-hostile").exists()
    assert not Path("/etc/aviato-hostile").exists()


def test_symlink_replaced_by_a_directory_is_not_followed(arena: Arena) -> None:
    """A directory takes the place of a link; what follows goes into the directory."""
    arena.unpack(symlink("x", "../outside") + directory("x") + entry("x/canary", b"inside"))
    assert (arena.root / "x" / "canary").read_bytes() == b"inside"
    assert not (arena.root / "x").is_symlink()


def test_file_takes_the_place_of_a_symlink(arena: Arena) -> None:
    """A file with the name of a link replaces it and is not written through it."""
    arena.unpack(symlink("x", "../outside/canary") + entry("x", b"new"))
    assert not (arena.root / "x").is_symlink()
    assert (arena.root / "x").read_bytes() == b"new"


def test_replacing_a_hard_link_leaves_the_other_name(arena: Arena) -> None:
    """Writing to one name of a file does not change the other."""
    arena.unpack(entry("a", b"one") + hardlink("b", "a") + entry("b", b"two"))
    assert (arena.root / "a").read_bytes() == b"one"
    assert (arena.root / "b").read_bytes() == b"two"


def test_set_user_id_and_devices_are_left_out(arena: Arena) -> None:
    """Modes lose set-user-id and set-group-id, directories keep sticky, and special files are counted."""
    special = b"".join(entry(f"s{kind!r}", kind=kind) for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))
    unpacker = arena.unpack(entry("su", b"x", mode=0o6755) + directory("tmp", 0o1777) + special)
    assert stat.S_IMODE((arena.root / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((arena.root / "tmp").stat().st_mode) == 0o1777
    assert unpacker.skipped == {Kind.SPECIAL.value: 3}
    assert arena.names() == ["su", "tmp"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners_are_kept_as_root(arena: Arena) -> None:
    """Numeric owners are those of the archive, links and directories included."""
    arena.unpack(
        directory("d") + entry("d/f", b"x", uid=1234, gid=4321) + entry("l", link="d", kind=b"2", uid=7, gid=8)
    )
    found = (arena.root / "d" / "f").stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert (arena.root / "l").lstat().st_uid == 7


def test_unwritable_directories_are_filled_first(arena: Arena) -> None:
    """A directory of mode 0500 does not keep its own files out, and gets its mode at the end."""
    arena.unpack(directory("d", 0o500) + entry("d/f", b"x"))
    assert stat.S_IMODE((arena.root / "d").stat().st_mode) & 0o577 == 0o500
    (arena.root / "d").chmod(0o700)


def test_times_are_kept(arena: Arena) -> None:
    """Modification times are those of the archive: compiled Python depends on them."""
    arena.unpack(directory("d") + entry("d/f", b"x", mtime=1_000_000_000))
    assert (arena.root / "d" / "f").stat().st_mtime == 1_000_000_000


def test_more_entries_than_allowed(arena: Arena) -> None:
    """The number of entries is bounded."""
    data = b"".join(directory(f"d{number}") for number in range(20))
    with pytest.raises(ArchiveError, match="more than 10 entries"):
        arena.unpack(data, limits=Limits(LIMIT, entries=10))


def test_more_bytes_than_allowed(arena: Arena) -> None:
    """The sum of all sizes is bounded, not only each of them."""
    data = b"".join(entry(f"f{number}", b"x" * 1000) for number in range(20))
    with pytest.raises(ArchiveError, match="do not fit"):
        arena.unpack(data, limits=Limits(10_000))


def test_compressed_data_is_bounded() -> None:
    """What comes out of a stream is counted, also when it is no member's data."""
    source = Source(io.BytesIO(b"\0" * 4096), limit=1024)
    with pytest.raises(ArchiveError, match="bigger"):
        source.exactly(4096)


def test_whiteouts_remove_what_lower_layers_left(arena: Arena) -> None:
    """A whiteout removes a file or a whole directory of the layers below."""
    base = directory("d") + entry("d/f", b"x") + directory("e") + entry("e/g", b"x") + entry("keep")
    arena.unpack(base, entry("d/.wh.f") + entry(".wh.e"), layers=True)
    assert arena.names() == ["d", "keep"]


def test_opaque_directories_keep_their_own_layer(arena: Arena) -> None:
    """An opaque mark removes the older content only, wherever in the layer it stands."""
    base = directory("d") + entry("d/old") + directory("d/s") + entry("d/s/old")
    arena.unpack(base, directory("d") + entry("d/new") + entry("d/s/new") + entry("d/.wh..wh..opq"), layers=True)
    assert arena.names() == ["d", "d/new", "d/s", "d/s/new"]


def test_whiteouts_do_not_concern_their_own_layer(arena: Arena) -> None:
    """A file and its whiteout in one layer: the file stays."""
    arena.unpack(entry("f", b"old"), entry("f", b"new") + entry(".wh.f"), layers=True)
    assert (arena.root / "f").read_bytes() == b"new"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_whiteouts_of_nothing_are_refused(arena: Arena, name: str) -> None:
    """A whiteout that would name the directory itself or the one above is refused."""
    with pytest.raises(ArchiveError):
        arena.unpack(directory("d") + entry(f"d/{name}"), layers=True)


@pytest.mark.parametrize("victim", ["x/.wh.canary", "x/.wh..wh..opq"])
def test_whiteouts_do_not_follow_links(arena: Arena, victim: str) -> None:
    """A whiteout through a link of a lower layer removes nothing outside."""
    with pytest.raises(ArchiveError):
        arena.unpack(symlink("x", "../outside"), entry(victim), layers=True)


def test_whiteout_of_a_link_leaves_its_target(arena: Arena) -> None:
    """Removing a link removes the link."""
    arena.unpack(symlink("x", "../outside"), entry(".wh.x"), layers=True)
    assert arena.names() == []


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_are_read(arena: Arena, format_: int) -> None:
    """Long names, big numbers and odd characters come through in each format."""
    buffer = io.BytesIO()
    names = ["plain", "ü-ñ-名", "d/" * 30 + "deep"]
    if format_ != tarfile.USTAR_FORMAT:
        names.append("n" * 200)
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "d/" * 40 + "deep"
        tar.addfile(info)
    arena.unpack(buffer.getvalue())
    for name in names:
        assert (arena.root / name).read_bytes() == b"abc"
    assert (arena.root / "link").readlink() == Path("d/" * 40 + "deep")


@given(st.binary(max_size=2048), st.integers(0, 2047), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_members_or_an_archive_error(junk: bytes, place: int, source: random.Random) -> None:
    """Whatever the bytes are, reading them gives members or ArchiveError, and no other exception."""
    good = bytearray(directory("d") + entry("d/f", b"x" * 700) + symlink("l", "d") + b"\0" * 1024)
    for number, byte in enumerate(junk[:64]):
        good[(place + number * source.randrange(1, 9)) % len(good)] = byte
    for data in (junk, bytes(good)):
        tar = TarStream(Source(io.BytesIO(data), limit=LIMIT))
        try:
            for member in tar:
                assert isinstance(member, Member)
                assert sum(map(len, tar.chunks())) == member.size
        except ArchiveError:
            pass
