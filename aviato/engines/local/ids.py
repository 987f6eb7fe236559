"""User ids of sandboxes: a range of its own for each, held by a lock on a slot.

As root a sandbox's ids are shifted to a range that nothing else uses: the range of `/etc/subuid` given to `aviato` or
`root`, else ids from 1879048192, which systemd's table of uid ranges (https://systemd.io/UIDS-GIDS/) leaves unused.
"""

from __future__ import annotations

import fcntl
import functools
import os
import pwd
import shutil

FIRST_ID = 1879048192
IDS = 65536
SLOTS = 4096
MACHINE_SLOTS = "/run/aviato-slots"


def sub_ranges(path: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """Read the ranges (first id, count) that `/etc/subuid` or `/etc/subgid` gives to one of the names."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdigit() and count.isdigit():
            ranges.append((int(first), int(count)))
    return ranges


def root_ranges() -> tuple[int, int]:
    """Return the first id for sandboxes of root and the number of slots."""
    users = sub_ranges("/etc/subuid", ("aviato",)) or sub_ranges("/etc/subuid", ("root",))
    groups = sub_ranges("/etc/subgid", ("aviato",)) or sub_ranges("/etc/subgid", ("root",))
    if users and users[:1] == groups[:1] and users[0][1] >= IDS:
        return users[0][0], users[0][1] // IDS
    return FIRST_ID, SLOTS


@functools.cache
def can_shift() -> bool:
    """Tell whether sandboxes get ranges of their own: this is root, and of a user namespace that has those ids.

    Root of a container whose ids are mapped to few others is an ordinary user here.
    """
    if os.getuid() != 0:
        return False
    first, count = root_ranges()
    for kind in ("uid", "gid"):
        try:
            with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
                ranges = [tuple(map(int, line.split())) for line in file]
        except OSError:
            continue  # a kernel without user namespaces says so at the launch
        if not any(inside <= first and first + count * IDS <= inside + length for inside, _, length in ranges):
            return False
    return True


class Slot:
    """One range of ids, held until it is released or the process ends."""

    def __init__(self, fd: int, number: int, base: int) -> None:
        self.fd = fd
        self.number = number
        self.base = base

    def release(self) -> None:
        """Give it back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def subordinate() -> dict[str, str | int] | None:
    """Return an ordinary user's range of subordinate ids and the programs that map it, None where either is missing."""
    programs = {name: shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") for name in ("newuidmap", "newgidmap")}
    names = (str(os.getuid()), _user_name())
    ranges = [sub_ranges(f"/etc/sub{kind}", names) for kind in ("uid", "gid")]
    firsts = [next((first for first, count in found if count >= IDS - 1), None) for found in ranges]
    if None in firsts or None in programs.values() or os.getuid() == 0:  # the ranges of root in a container are not its
        return None
    return {"uid": firsts[0] or 0, "gid": firsts[1] or 0, **{name: path or "" for name, path in programs.items()}}


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def slot_directory(home: str) -> str:
    """Return where slots are locked: as root in one place for the whole machine, whatever the state directory is."""
    if can_shift():
        try:
            os.makedirs(MACHINE_SLOTS, mode=0o700, exist_ok=True)
        except OSError:
            return f"{home}/slots"
        return MACHINE_SLOTS
    return f"{home}/slots"


def take_slot(directory: str, hint: int) -> Slot | None:
    """Take a free slot, looking from `hint` on; None when all are taken."""
    first, count = root_ranges()
    for step in range(count):
        number = (hint + step) % count
        fd = os.open(f"{directory}/{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue
        return Slot(fd, number, first + number * IDS)
    return None
