"""System calls that reach into the kernel or out of a sandbox, each made with arguments that change nothing."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import Any, Callable, Tuple

from tests.isolation.probes.tools import X86, Outcome, call, main, open_, probe, stopped, syscall

_NOWHERE = ctypes.c_char_p(b"/nowhere")
_ROOT = ctypes.c_char_p(b"/")
_ZEROS = ctypes.create_string_buffer(4096)

# name: (x86_64, aarch64, arguments); -1 where an architecture has no such call
_CALLS: dict[str, Tuple[Any, ...]] = {
    "turn-on-process-accounting": (163, 89, _NOWHERE),
    "add-a-key": (248, 217, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), _ZEROS, 1, -3),
    "request-a-key": (249, 218, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"aviato-canary"), 0, -3),
    "ask-for-a-keyring": (250, 219, 0, -3, 0),
    "search-the-session-keyring": (250, 219, 10, -3, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"aviato-canary"), 0),
    "join-a-named-keyring": (250, 219, 1, ctypes.c_char_p(b"_ses")),
    "create-a-bpf-map": (321, 280, 0, _ZEROS, 64),
    "load-a-bpf-program": (321, 280, 5, _ZEROS, 64),
    "change-the-root": (161, 51, _ROOT),
    "adjust-the-clock": (305, 266, 0, _ZEROS),
    "set-the-clock": (227, 112, 99, _ZEROS),
    "set-the-time-of-day": (164, 170, 0, 0),
    "unload-a-kernel-module": (176, 106, ctypes.c_char_p(b"nosuchmodule"), 0),
    "load-a-kernel-module": (175, 105, _ZEROS, 0, ctypes.c_char_p(b"")),
    "load-a-kernel-module-from-a-file": (313, 273, -1, ctypes.c_char_p(b""), 0),
    "watch-all-files-with-fanotify": (300, 262, 0, 0),
    "get-at-io-ports": (172, -1, 3),
    "get-at-one-io-port": (173, -1, 0x80, 1, 1),
    "compare-kernel-objects": (312, 272, 1, 1, 0, 0, 0),
    "load-another-kernel": (246, 104, 0, 0, 0, 0),
    "load-another-kernel-from-a-file": (320, 294, -1, -1, 0, 0, 0),
    "move-pages-between-nodes": (256, 238, 0, 0, 0, 0),
    "move-single-pages": (279, 239, 0, 0, 0, 0, 0, 0),
    "change-the-local-descriptor-table": (154, -1, 0, _ZEROS, 16),
    "mount-a-tmpfs": (165, 40, ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"tmpfs"), 0, 0),
    "mount-a-proc": (165, 40, ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"proc"), 0, 0),
    "mount-a-sysfs": (165, 40, ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"sysfs"), 0, 0),
    "mount-the-first-cgroups": (165, 40, ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"cgroup"),
                                0, ctypes.c_char_p(b"memory")),
    "mount-the-second-cgroups": (165, 40, ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/tmp"),
                                 ctypes.c_char_p(b"cgroup2"), 0, 0),
    "remount-the-root-writable": (165, 40, 0, _ROOT, 0, 32, 0),
    "remount-usr-writable": (165, 40, 0, ctypes.c_char_p(b"/usr"), 0, 32 | 4096, 0),
    "remount-the-kernels-settings-writable": (165, 40, 0, ctypes.c_char_p(b"/proc/sys"), 0, 32 | 4096, 0),
    "remount-dev-writable": (165, 40, 0, ctypes.c_char_p(b"/dev"), 0, 32 | 4096, 0),
    "bind-a-directory": (165, 40, _ROOT, ctypes.c_char_p(b"/tmp"), 0, 4096, 0),
    "share-mounts-with-others": (165, 40, 0, _ROOT, 0, 1 << 20, 0),
    "unmount-the-mask-of-kcore": (166, 39, ctypes.c_char_p(b"/proc/kcore"), 2),
    "unmount-the-mask-of-the-settings": (166, 39, ctypes.c_char_p(b"/proc/sys"), 2),
    "unmount-the-mask-of-a-directory": (166, 39, ctypes.c_char_p(b"/proc/irq"), 2),
    "unmount-sys": (166, 39, ctypes.c_char_p(b"/sys"), 2),
    "get-a-handle-of-a-file": (303, 264, -100, _ROOT, _ZEROS, _ZEROS, 0),
    "open-a-file-by-its-handle": (304, 265, -100, _ZEROS, 0),
    "measure-with-perf-events": (298, 241, _ZEROS, 0, -1, -1, 0),
    "take-a-descriptor-from-another-process": (438, 438, -1, 0, 0),
    "exchange-the-root-mount": (155, 41, _ROOT, _ROOT),
    "write-into-another-process": (311, 271, 1, 0, 0, 0, 0, 0),
    "set-disk-quotas": (179, 60, 0, _NOWHERE, 0, 0),
    "set-disk-quotas-of-a-descriptor": (443, 443, -1, 0, 0, 0),
    "restart-the-machine": (169, 142, 0, 0, 0, 0),
    "enter-a-namespace": (308, 268, -1, 0),
    "switch-swap-off": (168, 225, _NOWHERE),
    "switch-swap-on": (167, 224, _NOWHERE, 0),
    "read-the-kernels-log": (103, 116, 3, _ZEROS, 4096),
    "clear-the-kernels-log": (103, 116, 99, 0, 0),
    "handle-page-faults-of-the-kernel": (323, 282, 0),
    "hang-up-the-terminal": (153, 58),
    "list-file-system-types": (139, -1, 3),
    "ask-for-a-devices-statistics": (136, -1, -1, _ZEROS),
    "make-a-user-namespace": (272, 97, 0x10000000),
    "make-a-mount-namespace": (272, 97, 0x00020000),
    "make-a-network-namespace": (272, 97, 0x40000000),
    "make-a-process-namespace": (272, 97, 0x20000000),
    "make-an-ipc-namespace": (272, 97, 0x08000000),
    "make-a-host-name-namespace": (272, 97, 0x04000000),
    "make-a-cgroup-namespace": (272, 97, 0x02000000),
    "make-a-clock-namespace": (272, 97, 0x00000080),
    "clone-into-namespaces-the-new-way": (435, 435, _ZEROS, 88),
    "set-up-an-io-ring": (425, 425, 1, _ZEROS),
    "enter-an-io-ring": (426, 426, -1, 0, 0, 0, 0, 0),
    "register-with-an-io-ring": (427, 427, -1, 0, 0, 0),
    "open-a-file-system-the-new-way": (430, 430, ctypes.c_char_p(b"tmpfs"), 0),
    "configure-a-file-system-the-new-way": (431, 431, -1, 0, 0, 0, 0),
    "mount-the-new-way": (432, 432, -1, 0, 0),
    "pick-a-mounted-file-system": (433, 433, -100, _ROOT, 0),
    "clone-a-mount": (428, 428, -100, _ROOT, 1),
    "move-a-mount": (429, 429, -1, _NOWHERE, -1, _NOWHERE, 0),
    "change-a-mounts-properties": (442, 442, -1, _NOWHERE, 0, _ZEROS, 32),
    "take-memory-that-even-the-kernel-cannot-see": (447, 447, 0),
    "call-a-number-beyond-the-known": (500, 500),
}  # fmt: skip


def _calling(numbers: Tuple[Any, ...]) -> Callable[[], Outcome]:
    def function() -> Outcome:
        if numbers[0 if X86 else 1] < 0:
            return stopped("absent")
        return open_("returned %d" % call(*numbers))

    return function


for _name, _numbers in _CALLS.items():
    probe(_name)(_calling(_numbers))


@probe("clone-into-a-user-namespace")
def _clone() -> Outcome:
    child = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return open_("cloned")


@probe("clone-into-a-user-namespace-with-high-bits-set")
def _clone_high() -> Outcome:
    child = call(56, 220, 0x10000000 | 17 | (1 << 40), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return open_("cloned")


@probe("call-by-the-numbers-of-x32")
def _x32() -> Outcome:
    if not X86:
        return stopped("absent")
    return open_("pid %d" % syscall(0x40000000 | 39))


@probe("call-by-the-numbers-of-i386")
def _i386() -> Outcome:
    """Call getpid by int 0x80, which a filter that knows 64-bit numbers only would let through."""
    if not X86:
        return stopped("absent")
    import mmap

    code = b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x48\x98\x5b\xc3"  # push rbx; mov eax,20; int 0x80; cdqe; pop rbx; ret
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = ctypes.CFUNCTYPE(ctypes.c_long)(address)()
    if result >= 0:
        return open_("pid %d" % result)
    raise OSError(-result, "")


def _sockets() -> None:
    kinds = {
        "open-a-socket-to-the-hypervisor": (40, socket.SOCK_STREAM),
        "open-a-socket-to-the-kernels-crypto": (38, socket.SOCK_SEQPACKET),
        "open-a-packet-socket": (17, socket.SOCK_RAW),
        "open-a-can-bus-socket": (29, socket.SOCK_RAW),
        "open-a-bluetooth-socket": (31, socket.SOCK_RAW),
        "open-a-tipc-socket": (30, socket.SOCK_RDM),
        "open-an-express-data-path-socket": (44, socket.SOCK_RAW),
        "open-an-nfc-socket": (39, socket.SOCK_RAW),
        "open-a-key-management-socket": (15, socket.SOCK_RAW),
        "open-a-raw-socket": (2, socket.SOCK_RAW),
        "open-a-raw-socket-of-version-6": (10, socket.SOCK_RAW),
    }

    def opening(family: int, kind: int) -> Callable[[], Outcome]:
        def function() -> Outcome:
            socket.socket(family, kind, 255 if family in (2, 10) else 0).close()
            return open_("opened")

        return function

    for name, (family, kind) in kinds.items():
        probe(name)(opening(family, kind))


_sockets()


@probe("open-a-socket-to-the-hypervisor-with-high-bits-set")
def _vsock_high() -> Outcome:
    """The kernel looks at 32 bits of the argument; a filter that compares 64 would be passed by."""
    return open_("descriptor %d" % call(41, 198, (1 << 40) | 40, 1, 0))


@probe("open-a-pair-of-sockets-to-the-hypervisor")
def _pair() -> Outcome:
    pair = (ctypes.c_int * 2)()
    return open_("descriptor %d" % call(53, 199, 40, 1, 0, pair))


def _netlink(protocol: int, kind: int, flags: int, payload: bytes) -> Outcome:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as link:
        link.settimeout(5)
        link.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload)
        answer = link.recv(4096)
    code = struct.unpack_from("=i", answer, 16)[0]
    if struct.unpack_from("=H", answer, 4)[0] == 2 and code < 0:
        raise OSError(-code, "")
    return open_("accepted")


@probe("add-a-network-interface")
def _interface() -> Outcome:
    """RTM_NEWLINK for a dummy interface, as a first step to the network stack's rarely used parts."""
    kind = struct.pack("=HH", 4 + 8, 18) + struct.pack("=HH", 4 + 4, 1) + b"tun\0"
    return _netlink(0, 16, 0x605, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + kind)


@probe("add-a-firewall-table")
def _firewall() -> Outcome:
    """NFT_MSG_NEWTABLE within a batch: the door of many kernel holes of late."""
    generic = struct.pack("=BBH", 0, 0, 10 << 8)
    return _netlink(12, 16, 0x5, generic)


@probe("talk-to-the-audit-system")
def _audit() -> Outcome:
    return _netlink(9, 1000, 0x5, b"")


if __name__ == "__main__":
    main()
