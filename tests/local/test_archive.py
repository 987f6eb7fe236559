"""Unpacking: what replaces what, what is left out, whiteouts, limits, and the formats that are read."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviato.engines.local.archive import Limits
from aviato.engines.local.tarstream import ArchiveError, Kind, Member, Source, TarStream
from tests.local.archives import LIMIT, Arena, directory, entry, hardlink, symlink


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A place to unpack into; at the end, nothing outside may have changed."""
    made = Arena(tmp_path)
    yield made
    made.check()


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
