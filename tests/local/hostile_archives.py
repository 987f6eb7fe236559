"""Archives that somebody made to escape, to fill the machine or to break the reader, as tables of named cases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable

from tests.local.archives import base256, directory, entry, hardlink, long_name, pax, symlink, with_field


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


REFUSED: dict[str, Callable[[], bytes]] = {
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
    "NUL in a name": lambda: pax({"path": b"a\0b"}) + entry("x"),
    "empty symlink": lambda: symlink("x", ""),
    "size beyond the disk": lambda: entry("x", size=1 << 60),
    "size beyond the archive": lambda: entry("x", b"short", size=4096),
    "negative size": lambda: with_field(entry("x"), 124, b"\xff" * 12),
    "enormous pax header": lambda: with_field(entry("x", kind=tarfile.XHDTYPE), 124, b"77777777777\0"),
    "malformed pax header": lambda: entry("p", b"99999 path=x\n", kind=tarfile.XHDTYPE, size=13) + entry("x"),
    "pax header without end": lambda: entry("p", b"12 path=/etcX", kind=tarfile.XHDTYPE, size=13) + entry("x"),
    "sparse": lambda: entry("x", kind=tarfile.GNUTYPE_SPARSE),
    "bad checksum": lambda: entry("a") + with_field(entry("b"), 0, b"c", fix=False),
    "not an archive": lambda: b"hello, this is text\n" * 100,
    "empty": lambda: b"",
    "cut in a header": lambda: entry("a") + entry("b")[:100],
    "root is a file": lambda: entry("./", b"", kind=tarfile.REGTYPE) + entry(".", b"x"),
    "pax path leads out": lambda: pax({"path": b"../outside/canary"}) + entry("x", b"dead"),
    "pax path is absolute": lambda: pax({"path": b"/tmp/aviato-hostile"}) + entry("x", b"dead"),
    "pax path is empty": lambda: pax({"path": b""}) + entry("x", b"dead"),
    "pax link leads out": lambda: pax({"linkpath": b"../outside/canary"}) + hardlink("x", "y"),
    "pax link with NUL": lambda: entry("y") + pax({"linkpath": b"y\0z"}) + hardlink("x", "y"),
    "symbolic link with NUL": lambda: pax({"linkpath": b"y\0z"}) + symlink("x", "y"),
    "symbolic link of a megabyte": lambda: pax({"linkpath": b"y" * 1_000_000}) + symlink("x", "y"),
    "pax path of a megabyte": lambda: pax({"path": b"d/" * 500_000}) + entry("x"),
    "pax size beyond all": lambda: pax({"size": b"9" * 20}) + entry("x"),
    "pax size with a sign": lambda: pax({"size": b"-1"}) + entry("x"),
    "pax size too long to read": lambda: pax({"size": b"9" * 5000}) + entry("x"),
    "pax size hides a member": lambda: pax({"size": b"4096"}) + entry("x", b"") + entry("../outside/canary", b"dead"),
    "pax time too long to read": lambda: pax({"mtime": b"9" * 5000}) + entry("x"),
    "pax record without end": lambda: entry("p", b"9" * 600, kind=tarfile.XHDTYPE, size=600) + entry("x"),
    "pax length 0": lambda: entry("p", b"0 a=b\n", kind=tarfile.XHDTYPE, size=6) + entry("x"),
    "sparse by pax": lambda: pax({"GNU.sparse.major": b"1", "GNU.sparse.realsize": b"9" * 15}) + entry("x", b"1\n0\n"),
    "GNU long name leads out": lambda: long_name(b"../outside/canary") + entry("x", b"dead"),
    "GNU long name twice": lambda: long_name(b"good") + long_name(b"../outside/canary") + entry("x", b"dead"),
    "GNU long link leads out": lambda: long_name(b"../outside/canary", tarfile.GNUTYPE_LONGLINK) + hardlink("x", "y"),
    "GNU long name without end": lambda: with_field(entry("L", kind=b"L"), 124, base256(1 << 40)),
    "GNU long name without a member": lambda: long_name(b"x" * 5000)[:600],
    "prefix leads out": lambda: with_field(entry("canary", b"dead"), 345, b"../outside\0"),
    "prefix is absolute": lambda: with_field(entry("aviato-hostile", b"dead"), 345, b"/tmp\0"),
    "size of 2**87": lambda: with_field(entry("x"), 124, base256(2**87)),
    "size of 2**63": lambda: with_field(entry("x"), 124, base256(2**63)),
    "size of 2**62 of nothing known": lambda: with_field(entry("x", kind=b"Z"), 124, base256(2**62)),
    "size of 2**87 of nothing known": lambda: with_field(entry("x", kind=b"Z"), 124, base256(2**87)),
    "manifest of 2**87": lambda: with_field(entry("manifest.json"), 124, base256(2**87)),
    "manifest of 2**62": lambda: with_field(entry("manifest.json"), 124, base256(2**62)),
    "chain of links": lambda: (
        b"".join(symlink(f"l{n}", f"l{n + 1}") for n in range(60))
        + symlink("l60", "../outside")
        + entry("l0/canary", b"dead")
    ),
    "hard link to a link, then through it": lambda: (
        symlink("a", "../outside") + hardlink("b", "a") + entry("b/canary", b"dead")
    ),
    "link, directory in its place, link again": lambda: (
        symlink("x", "../outside")
        + directory("x")
        + entry("x", b"")
        + symlink("x", "../outside")
        + entry("x/canary", b"dead")
    ),
    "own directory becomes a link": lambda: (
        directory("d") + entry("d/f") + symlink("d", "../outside") + entry("d/canary", b"dead")
    ),
    "file as a directory": lambda: entry("f", b"x") + entry("f/g", b"y"),
    "fifo as a directory": lambda: entry("f", kind=tarfile.FIFOTYPE) + entry("f", b"") + entry("f/g"),
    "contiguous file leads out": lambda: entry("../outside/canary", b"dead", kind=b"7", size=4),
    "unknown kind leads out": lambda: entry("../outside/new", b"dead", kind=b"Z", size=4),
    "digits that are none": lambda: with_field(entry("x"), 124, b"0x00000010\0"),
}

SAFE: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "link to the outside": (lambda: symlink("x", "../outside/canary"), ["x"]),
    "link to the root": (lambda: symlink("x", "/"), ["x"]),
    "link to itself": (lambda: symlink("x", "x"), ["x"]),
    "hard link to a link": (lambda: symlink("a", "../outside/canary") + hardlink("b", "a"), ["a", "b"]),
    "file over a link to the outside": (lambda: symlink("x", "../outside/canary") + entry("x", b"new"), ["x"]),
    "directory over a link": (
        lambda: symlink("x", "../outside") + directory("x") + entry("x/canary"),
        ["x", "x/canary"],
    ),
    "file over a directory": (lambda: entry("d/e/f") + entry("d", b"x"), ["d"]),
    "same file over and over": (lambda: entry("x", b"old") * 50 + entry("x", b"new"), ["x"]),
    "directory as often": (lambda: (directory("d", 0o500) + entry("d/f")) * 20, ["d", "d/f"]),
    "global pax path is for nobody": (
        lambda: pax({"path": b"../outside/canary"}, tarfile.XGLTYPE) + entry("x", b"dead"),
        ["x"],
    ),
    "root itself": (lambda: directory(".", 0o755) + directory("./", 0o755) + entry("x"), ["x"]),
    "slashes and dots": (lambda: entry(".//a/.//./b"), ["a", "a/b"]),
    "names that are no text": (lambda: pax({"path": b"\xff\xfe\n\x1b[2J"}) + entry("x"), ["\udcff\udcfe\n\x1b[2J"]),
    "name of a whiteout outside of layers": (lambda: entry(".wh.x"), [".wh.x"]),
    "devices, pipes and what nobody knows": (
        lambda: b"".join(entry(f"s{number}", kind=b"%d" % number) for number in (3, 4, 6)) + entry("z", kind=b"Z"),
        [],
    ),
    "device over a file": (lambda: entry("x", b"x") + entry("x", kind=tarfile.CHRTYPE), ["x"]),
    "set-user-id": (lambda: entry("x", b"x", mode=0o7777), ["x"]),
    "size of a directory": (lambda: entry("d", kind=tarfile.DIRTYPE, size=1 << 30) + entry("d/f"), ["d", "d/f"]),
    "time before all time": (lambda: with_field(entry("x"), 136, b"\xff" * 12), ["x"]),
    "time after all time": (lambda: pax({"mtime": b"9" * 20 + b".5"}) + entry("x"), ["x"]),
}
