"""System calls that the launcher needs and Python 3.11 does not have, through libc's `syscall`.

Numbers are from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h);
those from 424 on are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NUMBERS = {
    "x86_64": {"mount": 165, "umount2": 166, "unshare": 272, "keyctl": 250, "prctl": 157, "setns": 308},
    "aarch64": {"mount": 40, "umount2": 39, "unshare": 97, "keyctl": 219, "prctl": 167, "setns": 268},
}
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 436, 437, 442

MACHINE = platform.machine()
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_IDMAP = 1, 2, 4, 0x00100000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
KEYCTL_JOIN_SESSION_KEYRING = 1
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_AT_FDCWD, _AT_EMPTY_PATH, _MOVE_FLAGS, _OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = -100, 0x1000, 0x04 | 0x10, 1, 0o2000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(name: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    converted = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _number(name: str) -> int:
    try:
        return _NUMBERS[MACHINE][name]
    except KeyError:
        raise OSError(38, f"{name}: this machine ({MACHINE}) is not one of {', '.join(_NUMBERS)}") from None


def unshare(flags: int) -> None:
    """Leave the shared namespaces named by `flags`."""
    _call("unshare", _number("unshare"), flags)


def setns(fd: int, kind: int) -> None:
    """Enter a namespace of the given kind."""
    _call("setns", _number("setns"), fd, kind)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system to a directory."""
    _call(
        f"mount {kind or 'bind'} on {target}",
        _number("mount"),
        source.encode(),
        target.encode(),
        kind.encode() or None,
        flags,
        data.encode() or None,
    )


def clone_mount(source: str, target: str, attributes: int, userns_fd: int = -1) -> None:
    """Put a private copy of the mount at `source` on `target`, with attributes and a user namespace's id map."""
    fd = _call("open_tree", _OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)
    try:
        if userns_fd >= 0:
            attributes |= ATTR_IDMAP
        attr = struct.pack("QQQQ", attributes, 0, 0, max(userns_fd, 0))
        buffer = ctypes.create_string_buffer(attr, len(attr))
        _call("mount_setattr", _MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, buffer, len(attr))
        _call("move_mount", _MOVE_MOUNT, fd, b"", _AT_FDCWD, target.encode(), _MOVE_FLAGS)
    finally:
        os.close(fd)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open a path as if the directory were the root of everything, links in it included (openat2, Linux 5.6)."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    buffer = ctypes.create_string_buffer(how, len(how))
    return _call(f"open {path}", _OPENAT2, root_fd, path.encode("utf-8", "surrogateescape"), buffer, len(how))


def join_new_keyring() -> None:
    """Leave the session keyring for a new, empty one; a kernel without keyrings has none to leave."""
    try:
        _call("keyctl", _number("keyctl"), KEYCTL_JOIN_SESSION_KEYRING, b"aviato")
    except OSError as error:
        if error.errno != 38:
            raise


def prctl(option: int, value: int) -> None:
    """Call prctl with one argument."""
    _call("prctl", _number("prctl"), option, value, 0, 0, 0)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not named."""
    low = 0
    for fd in [*sorted(keep), 0xFFFFFFFF]:
        if fd > low:
            _call("close_range", _CLOSE_RANGE, low, min(fd - 1, 0xFFFFFFFE), 0)
        low = fd + 1
