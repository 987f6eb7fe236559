"""What /proc shows of the machine, and whether its settings can be written."""

from __future__ import annotations

import os
from typing import Callable

from tests.isolation.probes.tools import CONTEXT, Outcome, info, main, open_, probe, read, stopped

_MASKED = (
    "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "kallsyms", "kcore", "key-users", "keys", "kpagecount",
    "kpageflags", "latency_stats", "locks", "modules", "partitions", "sched_debug", "slabinfo", "timer_list",
    "vmallocinfo", "zoneinfo",
)  # fmt: skip
_EMPTIED = ("acpi", "asound", "bus", "fs", "irq", "scsi")
_SETTINGS = {
    "write-the-program-for-cores": "kernel/core_pattern",
    "write-the-program-that-loads-modules": "kernel/modprobe",
    "write-the-emergency-keys": "kernel/sysrq",
    "write-what-happens-on-a-panic": "kernel/panic",
    "write-the-host-name-setting": "kernel/hostname",
    "write-the-randomisation-of-addresses": "kernel/randomize_va_space",
    "write-who-may-read-kernel-addresses": "kernel/kptr_restrict",
    "write-the-largest-process-number": "kernel/pid_max",
    "write-the-largest-shared-memory": "kernel/shmmax",
    "write-the-overcommitment-of-memory": "vm/overcommit_memory",
    "write-the-dropping-of-caches": "vm/drop_caches",
    "write-the-swappiness": "vm/swappiness",
    "write-the-lowest-mapped-address": "vm/mmap_min_addr",
    "write-the-number-of-open-files": "fs/file-max",
    "write-the-dumping-of-setuid-programs": "fs/suid_dumpable",
    "write-the-protection-of-links": "fs/protected_symlinks",
    "write-the-forwarding-of-packets": "net/ipv4/ip_forward",
    "write-the-lowest-ordinary-port": "net/ipv4/ip_unprivileged_port_start",
    "write-the-number-of-user-namespaces": "user/max_user_namespaces",
    "write-the-number-of-inotify-instances": "user/max_inotify_instances",
}


def _masked(name: str) -> Callable[[], Outcome]:
    def function() -> Outcome:
        if os.stat("/proc/" + name).st_rdev == os.makedev(1, 3):
            return stopped("null")
        return open_("data") if read("/proc/" + name) else stopped("empty")

    return function


def _emptied(name: str) -> Callable[[], Outcome]:
    def function() -> Outcome:
        names = os.listdir("/proc/" + name)
        return open_(" ".join(names)) if names else stopped("empty")

    return function


def _setting(name: str) -> Callable[[], Outcome]:
    def function() -> Outcome:
        """Write what is there already, so that a success would harm nobody."""
        try:
            present = read("/proc/sys/" + name)
        except PermissionError:
            present = b""  # some may only be written
        fd = os.open("/proc/sys/" + name, os.O_WRONLY)
        os.write(fd, present)
        return open_("written")

    return function


for _name in _MASKED:
    probe("read-proc-" + _name.replace("_", "-").replace(".", "-"))(_masked(_name))
for _name in _EMPTIED:
    probe("list-proc-" + _name)(_emptied(_name))
for _name, _path in _SETTINGS.items():
    probe(_name)(_setting(_path))


@probe("press-an-emergency-key")
def _key() -> Outcome:
    """What lies over it is the null device, which takes everything and does nothing."""
    device = os.stat("/proc/sysrq-trigger").st_rdev
    return stopped("null") if device == os.makedev(1, 3) else open_("device %x" % device)


@probe("list-what-proc-lets-read")
def _names() -> Outcome:
    found = []
    for name in sorted(os.listdir("/proc")):
        if not name.isdigit() and os.path.isfile("/proc/" + name):
            try:
                if read("/proc/" + name):
                    found.append(name)
            except OSError:
                continue
    return info(" ".join(found))


@probe("read-the-version-of-the-kernel")
def _version() -> Outcome:
    return info(read("/proc/version").decode())


@probe("read-the-size-of-memory")
def _memory() -> Outcome:
    return info(read("/proc/meminfo").split(b"\n")[0].decode())


@probe("read-the-kind-of-processor")
def _processor() -> Outcome:
    return info("%d bytes" % len(read("/proc/cpuinfo")))


@probe("read-the-load")
def _load() -> Outcome:
    return info(read("/proc/loadavg").decode())


@probe("read-the-time-since-the-start")
def _uptime() -> Outcome:
    return info(read("/proc/uptime").decode())


@probe("read-where-the-sandbox-lies-from-its-mounts")
def _mounts() -> Outcome:
    """Neither the state directory nor the caller's home may be named."""
    text = read("/proc/self/mountinfo").decode()
    lines = [line for line in text.splitlines() if CONTEXT["python"] not in line]
    named = [line for line in lines if any(path in line for path in (CONTEXT["state"], CONTEXT["cwd"]))]
    return open_(named[0]) if named else stopped("absent")


@probe("read-the-names-of-control-groups")
def _groups() -> Outcome:
    """In a namespace of its own each group is the root."""
    paths = {line.split(":", 2)[2] for line in read("/proc/self/cgroup").decode().splitlines()}
    return stopped("own") if paths <= {"/"} else open_(" ".join(paths))


@probe("map-more-users")
def _map() -> Outcome:
    fd = os.open("/proc/self/uid_map", os.O_WRONLY)
    os.write(fd, b"0 0 4294967295")
    return open_("written")


@probe("allow-group-changes")
def _setgroups() -> Outcome:
    fd = os.open("/proc/self/setgroups", os.O_WRONLY)
    os.write(fd, b"allow")
    return info("written") if os.getgroups() in ([], [0]) else open_("written")


@probe("lower-the-own-badness-for-out-of-memory")
def _badness() -> Outcome:
    """Known: nothing keeps a process from it on kernels whose first process left a low floor."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-500")
    return info("lowered")


if __name__ == "__main__":
    main()
