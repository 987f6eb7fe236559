"""What a sandbox sees besides its own files: directories that are always there, `/proc` and `/dev`."""

from __future__ import annotations

import os

from aviato.engines.local.syscalls import (
    ATTR_NODEV,
    ATTR_NOSUID,
    ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    bind,
    mount,
    set_attributes,
)

DIRECTORIES = {
    "/etc": 0o755, "/tmp": 0o1777, "/var": 0o755, "/var/tmp": 0o1777, "/root": 0o700, "/home": 0o755, "/run": 0o755,
    "/workspace": 0o755, "/proc": 0o755, "/dev": 0o755, "/sys": 0o755,
}  # fmt: skip
MUST_BE_REAL = frozenset({"/proc", "/sys", "/dev"})
AGENT_CAPABILITIES = (5, 6, 7, 8)  # CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP
_MASKED_FILES = (
    "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "kallsyms", "kcore", "key-users", "keys", "kpagecount",
    "kpageflags", "latency_stats", "locks", "modules", "partitions", "sched_debug", "slabinfo", "sysrq-trigger",
    "timer_list", "vmallocinfo", "zoneinfo",
)  # fmt: skip
_MASKED_DIRECTORIES = ("acpi", "asound", "bus", "fs", "irq", "scsi")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "fd": "/proc/self/fd",
    "core": "/proc/kcore", "ptmx": "pts/ptmx",
}  # fmt: skip


def mount_proc(root: str) -> None:
    """Mount `/proc` of this process namespace below a root whose `/sys` is empty and read-only, and cover parts of it.

    Files that tell of the machine, or change it, become a device node that cannot be opened; directories become empty.

    Raises:
        OSError: The kernel refused something.
    """
    proc = f"{root}/proc"
    mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in _MASKED_FILES:
        if os.path.exists(f"{proc}/{name}"):
            bind("/dev/null", f"{proc}/{name}")
    for name in _MASKED_DIRECTORIES:
        if os.path.isdir(f"{proc}/{name}"):
            bind(f"{root}/sys", f"{proc}/{name}")
    bind(f"{proc}/sys", f"{proc}/sys")
    set_attributes(proc, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, below=True)
    set_attributes(proc, 0, clear=ATTR_RDONLY)  # processes write to their own


def mount_dev(root: str, shared_memory: str) -> None:
    """Make a read-only `/dev` with harmless devices, terminals of its own, and the given directory as `/dev/shm`.

    Raises:
        OSError: The kernel refused something.
    """
    dev = f"{root}/dev"
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NODEV, "size=65536,mode=0755")
    for name in _DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        bind(f"/dev/{name}", f"{dev}/{name}")
        set_attributes(f"{dev}/{name}", ATTR_NOSUID)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}", 0o755)
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    bind(shared_memory, f"{dev}/shm")
    set_attributes(dev, ATTR_RDONLY)
