"""What sandboxes leave on the machine, for the soak: found, and told from everybody else's."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

SLOTS = Path("/run/aviato-slots")
GROUPS = Path("/sys/fs/cgroup")


def _target(link: Path | str) -> str:
    return str(Path(link).readlink())


@attrs.define
class Traces:
    """What sandboxes of one state directory can leave, and how to tell theirs from everybody else's."""

    home: str
    namespaces: dict[str, str] = attrs.field(factory=dict)
    pinned: list[int] = attrs.field(factory=list)

    def watch(self) -> None:
        """Note the process namespaces of the sandboxes that are running."""
        for record in Path(self.home).glob("sandboxes/sbx-*/record.json"):
            if record.parent.name in self.namespaces.values():
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                pid = json.loads(record.read_text())["record"]["init"]["pid"]
                descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)  # kept, so that nobody else gets the number
                self.pinned.append(descriptor)
                space = _target(f"/proc/self/fd/{descriptor}")
                if space != _target("/proc/self/ns/pid"):
                    self.namespaces[space] = record.parent.name

    def directories(self) -> set[str]:
        """Return the ids that have a directory."""
        return {path.name for path in Path(self.home).glob("sandboxes/*")}

    def live(self) -> int:
        """Count the sandboxes that run."""
        return len(list(Path(self.home).glob("sandboxes/*/agent.sock")))

    def groups(self) -> set[str]:
        """Return the ids that have control groups of any state directory."""
        found = [*GROUPS.glob("*/aviato*/sbx-*"), *GROUPS.glob("aviato*/sbx-*")]
        found += [*GROUPS.glob("*/*/*/*/*/aviato*/sbx-*")]  # below a delegated group of systemd
        return {path.name for path in found}

    def processes(self, ids: set[str] | None = None) -> Iterator[str]:
        """Name processes that belong to sandboxes (of these ids only) or hold something of the state directory."""
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) == os.getpid():
                continue
            owner = self._owner(folder)
            if owner is None or (ids is not None and owner not in ids):
                continue
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:80].decode(errors="replace")
                if line:  # else it has ended and waits to be reaped
                    yield f"process {folder.name} of {owner}: {line!r}"

    def _owner(self, folder: Path) -> str | None:
        with contextlib.suppress(OSError):
            space = _target(folder / "ns/pid")
            if space in self.namespaces:
                return self.namespaces[space]
        marker = self.home.encode()
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if marker in (folder / name).read_bytes():
                    return self.home
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if _target(link).startswith(self.home + "/"):
                        return self.home
        return None

    def everything(self, ids: set[str]) -> list[str]:
        """List all that is left when nothing may be."""
        left = list(self.processes())
        left += [f"control group of {name}" for name in sorted(self.groups() & ids)]
        for file in ("/proc/self/mountinfo", "/proc/net/unix"):
            lines = Path(file).read_text().splitlines()
            left += [f"{file}: {line}" for line in lines if self.home in line or any(name in line for name in ids)]
        left += self._locks()
        home = Path(self.home)
        allowed = {home / "images/lock", home / "supervisors/log"}
        for path in sorted(home.rglob("*")):
            kept = path in allowed or (path.parent == home / "slots" and path.stat().st_size == 0)
            if not kept and not (path.is_dir() and not path.is_symlink() and len(path.relative_to(home).parts) <= 2):
                left.append(f"file {path}")
        left += [
            f"directory {path}" for path in sorted(home.glob("sandboxes/*")) + sorted(home.glob("supervisors/etc-*"))
        ]
        return list(dict.fromkeys(left))

    def _locks(self) -> list[str]:
        """List locks in the state directory, and locked id ranges of the machine that no living process explains."""
        own: dict[tuple[int, int], Path] = {}
        for path in Path(self.home).rglob("*"):
            with contextlib.suppress(OSError):
                own[path.stat().st_dev, path.stat().st_ino] = path
        slots: dict[tuple[int, int], Path] = {}
        with contextlib.suppress(OSError):
            slots = {(path.stat().st_dev, path.stat().st_ino): path for path in SLOTS.iterdir()}
        left = []
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            at = next(number for number, word in enumerate(fields) if word in {"READ", "WRITE"})
            pid, place = fields[at + 1], fields[at + 2]
            major, minor, inode = place.split(":")
            key = os.makedev(int(major, 16), int(minor, 16)), int(inode)
            if key in own:
                left.append(f"lock on {own[key]} held by {pid}")
            elif key in slots and not Path(f"/proc/{pid}").exists():
                left.append(f"lock on {slots[key]} held by {pid}, which is gone")
        return left
