"""Archives from strangers, by every way that unpacks them: none writes outside, and each refusal is an ArchiveError."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aviato.engines.local.archive import Limits
from aviato.engines.local.images import ImageStore
from aviato.engines.local.tarstream import ArchiveError
from tests.local.archives import Arena, directory, entry, pax, symlink
from tests.local.hostile_archives import REFUSED, SAFE
from tests.local.test_images import docker_archive

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "layer": lambda data: docker_archive([data]),
}
ELSEWHERE = ("/tmp/aviato-hostile", "/etc/aviato-hostile")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A place to unpack into, and a store whose images lie beside it; at the end, nothing outside may have changed."""
    made = Arena(tmp_path, "store", "archive")
    yield made
    made.check()
    assert not any(Path(path).exists() for path in ELSEWHERE)


def import_(arena: Arena, data: bytes) -> Path:
    """Import into a store, and give the root of what was unpacked."""
    archive = arena.base / "archive"
    archive.write_bytes(data)
    store = ImageStore(str(arena.base / "store"))
    store.import_("hostile:1", str(archive))
    root = store.resolve("hostile:1").root
    assert root is not None
    return Path(root)


def bound(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    """Let the disk look as big as the test needs it."""
    monkeypatch.setattr(Limits, "of", staticmethod(lambda _directory: limits))


def listed(root: Path) -> list[str]:
    """List what is below a directory, links not followed."""
    found = [Path(folder, name) for folder, names, files in os.walk(root) for name in (*names, *files)]
    return sorted(str(path.relative_to(root)) for path in found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(arena: Arena, monkeypatch: pytest.MonkeyPatch, name: str, way: str) -> None:
    """Each is an ArchiveError whatever it is wrapped in, and the store keeps nothing of it."""
    bound(monkeypatch, Limits(64 << 20))
    if way == "layer" and name == "empty":
        pytest.skip("a layer without anything is a layer")
    with pytest.raises(ArchiveError):
        import_(arena, WAYS[way](REFUSED[name]()))
    store = ImageStore(str(arena.base / "store"))
    assert store.list() == []
    assert {path.name for path in (arena.base / "store" / "images").iterdir()} <= {"lock", "names"}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_unpacker(arena: Arena, name: str) -> None:
    """The unpacker alone says the same, with a descriptor as all it has of the place."""
    with pytest.raises(ArchiveError):
        arena.unpack(REFUSED[name]())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAFE)
def test_unpacked_safely(arena: Arena, name: str, way: str) -> None:
    """What is odd but harmless comes out as expected: regular files, directories and links, without special rights."""
    make, expected = SAFE[name]
    root = import_(arena, WAYS[way](make()))
    wanted = [] if way == "layer" and ".wh.x" in expected else expected
    assert listed(root) == wanted
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert not mode & (stat.S_ISUID | stat.S_ISGID)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs_are_bounded(arena: Arena, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]) -> None:
    """A small file that would become a big one stops at the limit, in flat memory."""
    bound(monkeypatch, Limits(4 << 20))
    bomb = compress(entry("zeros", bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="fit"):
            import_(arena, bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_names_of_documents_do_not_fill_the_memory(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that looks like an image for a long time, by names of any length, is not remembered name by name."""
    bound(monkeypatch, Limits(256 << 20, entries=10))
    long_names = b"".join(pax({"path": b"n" * 900_000 + b"%d.json" % number}) + entry("x") for number in range(40))
    many_names = b"".join(entry(f"{number}.json") for number in range(50_000))
    for data in (gzip.compress(long_names), gzip.compress(many_names, 1)):
        tracemalloc.start()
        try:
            with pytest.raises(ArchiveError):
                import_(arena, data)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_implied_directories_count(arena: Arena) -> None:
    """Directories that only the paths of other entries name are entries too."""
    data = b"".join(entry(f"{number}/" + "d/" * 50 + "f") for number in range(4))
    with pytest.raises(ArchiveError, match="more than 100 entries"):
        arena.unpack(data, limits=Limits(1 << 20, entries=100))


@pytest.mark.parametrize("value", [{"Env": ["A=\ud800"]}, {"WorkingDir": "/\udfff"}, {"Cmd": ["\ud800"]}])
def test_half_characters_in_a_configuration(arena: Arena, value: dict[str, object]) -> None:
    """What no program could be started with is refused at the import, not with another error at each start."""
    with pytest.raises(ArchiveError, match="malformed"):
        import_(arena, docker_archive(config=value))


def test_layers_do_not_help_each_other(arena: Arena) -> None:
    """A link of one layer leads neither the files, nor the links, nor the whiteouts of the next astray."""
    planted = symlink("x", "../outside") + symlink("y", "/") + directory("d")
    for attack in ("x/canary", "y/tmp/aviato-hostile", "x/.wh.canary", "x/.wh..wh..opq", "d/.wh...", "d/.wh.."):
        with pytest.raises(ArchiveError):
            import_(arena, docker_archive([planted, entry(attack, b"")]))
