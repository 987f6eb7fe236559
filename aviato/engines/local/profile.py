"""The sandbox's root and bubblewrap's command line: what a sandbox sees, and what it does not."""

from __future__ import annotations

import os
from typing import Any

DIRECTORIES = {
    "/etc": 0o755, "/tmp": 0o1777, "/var": 0o755, "/var/tmp": 0o1777, "/root": 0o700, "/home": 0o755, "/run": 0o755,
    "/workspace": 0o755, "/proc": 0o755, "/dev": 0o755, "/sys": 0o755,
}  # fmt: skip
MUST_BE_REAL = frozenset({"/proc", "/sys", "/dev"})
MASKED_FILES = (
    "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "kallsyms", "kcore", "key-users", "keys", "kpagecount",
    "kpageflags", "latency_stats", "locks", "modules", "partitions", "sched_debug", "slabinfo", "sysrq-trigger",
    "timer_list", "vmallocinfo", "zoneinfo",
)  # fmt: skip
MASKED_DIRECTORIES = ("acpi", "asound", "bus", "fs", "irq", "scsi")
AGENT_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")


def command_line(job: dict[str, Any], fds: dict[str, int], root: str, shm: str) -> list[str]:
    """Build bubblewrap's arguments."""
    argv = [job["bwrap"], "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup", "--unshare-net"]
    argv += ["--hostname", "sandbox", "--new-session", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
    if job["users"]:
        for capability in AGENT_CAPABILITIES:
            argv += ["--cap-add", capability]
    if "block" in fds:
        argv += ["--block-fd", str(fds["block"])]
    argv += ["--info-fd", str(fds["info"]), "--bind", root, "/", "--proc", "/proc"]
    for name in MASKED_FILES:
        if os.path.exists(f"/proc/{name}"):
            argv += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    for name in MASKED_DIRECTORIES:
        if os.path.isdir(f"/proc/{name}"):
            place = f"/proc/{name}"
            argv += ["--size", "4096", "--perms", "0555", "--tmpfs", place, "--remount-ro", place]
    argv += ["--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--bind", shm, "/dev/shm", "--remount-ro", "/dev"]
    argv += ["--chdir", "/", "--seccomp", str(fds["seccomp"]), "--"]
    return [*argv, *job["agent_argv"]]
