"""System calls that the launcher needs and Python 3.11 does not have, through libc's `syscall`.

Numbers are from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h);
those from 424 on are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct

_NUMBERS = {
    "x86_64": {
        "mount": 165, "umount2": 166, "unshare": 272, "keyctl": 250, "prctl": 157, "setns": 308, "clone": 56,
        "pivot_root": 155, "capset": 126,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "unshare": 97, "keyctl": 219, "prctl": 167, "setns": 268, "clone": 220,
        "pivot_root": 41, "capset": 91,
    },
}  # fmt: skip
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 436, 437, 442

MACHINE = os.uname().machine
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, _CLONE_PARENT = 0x10000000, 0x20000000, 0x40000000, 0x00008000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_IDMAP = 1, 2, 4, 0x00100000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 15, 22, 24, 38
_SECCOMP_MODE_FILTER, _CAPABILITY_VERSION_3 = 2, 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SIGKILL, _SIGCHLD = 9, 17
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _MOVE_FLAGS = -100, 0x1000, 0x8000, 0x04 | 0x10
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, 0o2000000

# With PyDLL the interpreter's lock is kept during a call: none of these waits for anybody, and a clone's child must
# not come back without the lock.
_libc = ctypes.PyDLL(None, use_errno=True)
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


def clone(flags: int) -> int:
    """Fork a child of this process's own parent, in namespaces of its own; return its process id, 0 in the child.

    For processes with one thread only: neither libc nor the interpreter is told.
    """
    return _call("clone", _number("clone"), flags | _CLONE_PARENT | _SIGCHLD, 0, 0, 0, 0)


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


def bind(source: str, target: str) -> None:
    """Show a directory with all that is mounted below it, or a file, in a second place."""
    mount(source, target, flags=MS_BIND | MS_REC)


def set_attributes(target: str, attributes: int, *, clear: int = 0, below: bool = False) -> None:
    """Set and clear attributes of the mount on `target`, with those below it if `below`."""
    attr = struct.pack("QQQQ", attributes, clear, 0, 0)
    buffer = ctypes.create_string_buffer(attr, len(attr))
    flags = _AT_RECURSIVE if below else 0
    _call(f"mount_setattr {target}", _MOUNT_SETATTR, _AT_FDCWD, target.encode(), flags, buffer, len(attr))


def change_root(directory: str) -> None:
    """Make a mounted directory the root of this mount namespace and detach all else; it is the working directory too.

    The old root comes to lie on top of the new one, as pivot_root(2) describes it, and is taken off from there.
    """
    os.chdir(directory)
    _call("pivot_root", _number("pivot_root"), b".", b".")
    _call("umount the old root", _number("umount2"), b".", _MNT_DETACH)
    os.chdir("/")


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
        _call("keyctl", _number("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, b"aviato")
    except OSError as error:
        if error.errno != 38:
            raise


def _prctl(option: int, *values: int | bytes) -> None:
    _call("prctl", _number("prctl"), option, *values, *(0,) * (4 - len(values)))


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; forgotten when its user changes."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def set_name(name: str) -> None:
    """Call this process something in `ps` and `/proc/PID/comm`, 15 bytes at most."""
    _prctl(_PR_SET_NAME, name.encode())


def keep_capabilities(kept: tuple[int, ...]) -> None:
    """Drop every capability that is not named, and the way back to it, which the bounding set is."""
    number = 0
    while True:
        if number not in kept:
            try:
                _prctl(_PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == 22 and number > 0:  # the kernel knows no more
                    break
                raise
        number += 1
    low = sum(1 << item for item in kept)
    header = struct.pack("=II", _CAPABILITY_VERSION_3, 0)
    _call("capset", _number("capset"), header, struct.pack("=6I", low, low, 0, 0, 0, 0))


def filter_calls(program: bytes) -> None:
    """Give up new privileges for ever, and let a BPF program judge every system call from now on (seccomp(2))."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not named."""
    low = 0
    for fd in [*sorted(keep), 0xFFFFFFFF]:
        if fd > low:
            _call("close_range", _CLOSE_RANGE, low, min(fd - 1, 0xFFFFFFFE), 0)
        low = fd + 1
