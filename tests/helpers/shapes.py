"""Paths that a sandbox prepares so that whoever reads or writes them from outside would touch this machine's files."""

from __future__ import annotations

from pathlib import Path

SECRET = b"a secret of this machine"

LOOP = "ln -s two /tmp/one; ln -s one /tmp/two"
CHAIN = "cd /tmp; ln -s {canary} l30; for i in $(seq 29 -1 0); do ln -s l$((i+1)) l$i; done"
SOCKET = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/tmp/socket\")'"
RACE = """
import os
os.chdir("/tmp")
os.makedirs("honest{folder}", exist_ok=True)
open("honest{canary}", "w").write("inside")
os.symlink("honest{folder}", "race")
print("on", flush=True)
while True:
    for target in "{folder}", "honest{folder}":
        os.symlink(target, "next")
        os.rename("next", "race")
"""
"""A program that lets `/tmp/race` lead to the canary's folder and to another of that name in the sandbox, by turns."""

SHAPES: dict[str, tuple[str, str]] = {
    "link to a file": ("ln -s {canary} /tmp/link", "/tmp/link"),
    "link to a folder": ("ln -s {folder} /tmp/link", "/tmp/link/canary"),
    "link by dots": ("ln -s ../../../../../../..{canary} /tmp/link", "/tmp/link"),
    "chain of links": (CHAIN, "/tmp/l0"),
    "links in a circle": (LOOP, "/tmp/one"),
    "dots": ("true", "/tmp/../../../../../..{canary}"),
    "root of the own process": ("true", "/proc/self/root{canary}"),
    "root of the first process": ("true", "/proc/1/root{canary}"),
    "folder of the first process": ("true", "/proc/1/cwd/../../..{canary}"),
    "link into proc": ("ln -s /proc/1/root /tmp/link", "/tmp/link{canary}"),
    "folder of the parent": ("ln -s /proc/self/cwd/../.. /tmp/link", "/tmp/link{canary}"),
    "descriptor": ("true", "/proc/self/fd/3"),
    "pipe": ("mkfifo /tmp/pipe", "/tmp/pipe"),
    "socket": (SOCKET, "/tmp/socket"),
    "device": ("ln -s /dev/zero /tmp/device", "/tmp/device"),
    "terminal": ("ln -s /dev/tty /tmp/terminal", "/tmp/terminal"),
    "folder": ("mkdir -p /tmp/folder", "/tmp/folder"),
    "long name": ("true", "/tmp/" + "n" * 300),
    "long path": ("true", "/tmp" + "/d" * 3000),
    "memory of the first process": ("true", "/proc/1/mem"),
}
"""What prepares it in the sandbox, and the path; both may name the canary."""


class Canary:
    """A file of this machine, in a folder that should stay as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "canary-folder"
        self.folder.mkdir()
        self.file = self.folder / "canary"
        self.file.write_bytes(SECRET)
        self.folder.chmod(0o777)  # nothing but the sandbox's walls shall keep anybody from writing here
        self.file.chmod(0o666)
        self._before = self._state()

    def fill(self, text: str) -> str:
        """Put the canary's paths into a shape."""
        return text.replace("{canary}", str(self.file)).replace("{folder}", str(self.folder))

    def _state(self) -> tuple[object, ...]:
        status = self.file.stat()
        names = sorted(path.name for path in self.folder.iterdir())
        return names, self.file.read_bytes(), status.st_ino, status.st_mtime_ns, status.st_mode, status.st_nlink

    def check(self) -> None:
        """Fail when it was touched."""
        assert self._state() == self._before
