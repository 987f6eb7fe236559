"""The system call filter, as raw BPF for seccomp(2).

A deny list in the tradition of flatpak (common/flatpak-run.c) and Docker's default profile: what reaches deep into
the kernel or out of
the sandbox is refused, the rest is allowed, so that compilers, debuggers and interpreters work. New
mount calls, clone3 and io_uring answer ENOSYS, so that programs fall back (CVE-2021-41133 shows why they must not be
left out);
others answer EPERM. It is assembled here because libseccomp would have to be installed on every machine for 150
instructions. Numbers are from the kernel's tables, as in `syscalls`.
"""

from __future__ import annotations

import errno
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_X32_BIT = 0x40000000
_HIGHEST_KNOWN = 470
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); None where the architecture has no such call
_REFUSED = {
    "_sysctl": (156, None), "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "create_module": (174, None), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "get_kernel_syms": (177, None), "init_module": (175, 105),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219), "lookup_dcookie": (212, 18), "migrate_pages": (256, 238), "modify_ldt": (154, None),
    "mount": (165, 40), "move_pages": (279, 239), "name_to_handle_at": (303, 264), "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_vm_writev": (311, 271), "query_module": (178, None), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "setns": (308, 268), "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224), "sysfs": (139, None), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None), "vhangup": (153, 58),
}  # fmt: skip
_MISSING = {
    "clone3": 435, "fsconfig": 431, "fsmount": 432, "fsopen": 430, "fspick": 433, "io_uring_enter": 426,
    "io_uring_register": 427, "io_uring_setup": 425, "memfd_secret": 447, "mount_setattr": 442, "move_mount": 429,
    "open_tree": 428, "open_tree_attr": 467,
}  # fmt: skip
_CALLS = {"x86_64": {"socket": 41, "ioctl": 16, "clone": 56}, "aarch64": {"socket": 198, "ioctl": 29, "clone": 220}}
_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x04000000 | 0x08000000 | 0x02000000 | 0x00000080

_Instruction = tuple[int, int, int, int]


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def build(machine: str) -> bytes:
    """Assemble the filter for a machine as `uname -m` names it.

    Raises:
        KeyError: There is no table for this machine.
    """
    column = list(ARCHITECTURES).index(machine)
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, ARCHITECTURES[machine]),
        _refuse(errno.ENOSYS),
        (_LOAD, 0, 0, _NR),
        (_AT_LEAST, 0, 1, _X32_BIT),
        _refuse(errno.ENOSYS),
        (_AT_LEAST, 0, 1, _HIGHEST_KNOWN),
        _refuse(errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        if numbers[column] is not None:
            code += [(_EQUAL, 0, 1, numbers[column] or 0), _refuse(errno.EPERM)]
    for number in _MISSING.values():
        code += [(_EQUAL, 0, 1, number), _refuse(errno.ENOSYS)]
    calls = _CALLS[machine]
    families: list[_Instruction] = [(_LOAD, 0, 0, _ARG0)]
    families += [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
    families += [_refuse(errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, len(families), calls["socket"]), *families]
    injection: list[_Instruction] = [
        (_LOAD, 0, 0, _ARG1),
        (_EQUAL, 2, 0, _TERMINAL_INJECTION[0]),
        (_EQUAL, 1, 0, _TERMINAL_INJECTION[1]),
        (_RETURN, 0, 0, _ALLOW),
        _refuse(errno.EPERM),
    ]
    code += [(_EQUAL, 0, len(injection), calls["ioctl"]), *injection]
    namespaces: list[_Instruction] = [
        (_LOAD, 0, 0, _ARG0),
        (_ANY_BIT, 0, 1, _NAMESPACES),
        _refuse(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code += [(_EQUAL, 0, len(namespaces), calls["clone"]), *namespaces, (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", operation, yes, no, value) for operation, yes, no, value in code)
