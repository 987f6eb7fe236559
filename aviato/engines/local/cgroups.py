"""Control groups: one per sandbox, on v1, hybrid and v2 machines, as far as the rights go.

Only what exists and may be written is used; what is missing is reported, and a limit that was asked for by name and
cannot be held is
the caller's to refuse. See Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst in the kernel's tree.
"""

from __future__ import annotations

import contextlib
import os
import time

ROOT = "/sys/fs/cgroup"
FAMILY = "aviato"
CONTROLLERS = ("memory", "pids", "cpu")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def _usable(directory: str) -> bool:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


class Layout:
    """Where groups can be made on this machine: a directory for each controller, and one that can kill."""

    def __init__(self, directories: dict[str, str], killer: str | None) -> None:
        self.directories = directories
        self.killer = killer

    @property
    def controllers(self) -> frozenset[str]:
        """Controllers that can be used."""
        return frozenset(self.directories)


def find_layout() -> Layout:
    """Look at what there is and may be used; makes the family's own directories."""
    if os.path.exists(f"{ROOT}/cgroup.controllers"):
        return _find_v2()
    directories = {}
    for controller in CONTROLLERS:
        for name in (FAMILY, f"{FAMILY}-{os.getuid()}"):
            directory = f"{ROOT}/{controller}/{name}"
            if os.path.isdir(f"{ROOT}/{controller}") and _usable(directory):
                directories[controller] = directory
                break
    killer = f"{ROOT}/unified/{FAMILY}"
    usable = os.path.exists(f"{ROOT}/unified/cgroup.controllers") and _usable(killer)
    return Layout(directories, killer if usable else None)


def _find_v2() -> Layout:
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    parents = [ROOT] if os.getuid() == 0 else []
    parents.append(ROOT + os.path.dirname(own.rstrip("/")))
    for parent in parents:
        directory = f"{parent.rstrip('/')}/{FAMILY}"
        if not _usable(directory):
            continue
        for place in (parent, directory):
            for controller in CONTROLLERS:
                with contextlib.suppress(OSError):
                    _write(f"{place}/cgroup.subtree_control", f"+{controller}")
        enabled = _read(f"{directory}/cgroup.subtree_control").split()
        return Layout({name: directory for name in CONTROLLERS if name in enabled}, directory)
    return Layout({}, None)


class Group:
    """The groups of one sandbox."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name
        places = [*layout.directories.values(), *([layout.killer] if layout.killer else [])]
        self.paths = [f"{place}/{name}" for place in dict.fromkeys(places)]

    def make(self, *, memory: int, processes: int, cpu_millicores: int | None) -> None:
        """Make them and set their limits.

        Raises:
            OSError: One could not be made or set; what was made is removed.
        """
        try:
            for path in self.paths:
                os.mkdir(path)
            self._limit_memory(memory)
            if "pids" in self.layout.directories:
                _write(self._path("pids", "pids.max"), str(processes))
            if cpu_millicores is not None and "cpu" in self.layout.directories:
                self._limit_cpu(cpu_millicores)
        except OSError:
            self.remove(0.0)
            raise

    def _path(self, controller: str, name: str) -> str:
        return f"{self.layout.directories[controller]}/{self.name}/{name}"

    def _limit_memory(self, limit: int) -> None:
        if "memory" not in self.layout.directories:
            return
        if os.path.exists(self._path("memory", "memory.max")):
            _write(self._path("memory", "memory.max"), str(limit))
            with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
                _write(self._path("memory", "memory.swap.max"), "0")
            return
        _write(self._path("memory", "memory.limit_in_bytes"), str(limit))
        with contextlib.suppress(OSError):  # likewise
            _write(self._path("memory", "memory.memsw.limit_in_bytes"), str(limit))

    def _limit_cpu(self, millicores: int) -> None:
        quota = max(1000, millicores * 100)
        if os.path.exists(self._path("cpu", "cpu.max")):
            _write(self._path("cpu", "cpu.max"), f"{quota} 100000")
        else:
            _write(self._path("cpu", "cpu.cfs_period_us"), "100000")
            _write(self._path("cpu", "cpu.cfs_quota_us"), str(quota))

    def add(self, pid: int) -> None:
        """Move a process into all of them."""
        for path in self.paths:
            _write(f"{path}/cgroup.procs", str(pid))

    def kill(self) -> None:
        """Kill whatever is inside, at once where the kernel can (cgroup.kill, Linux 5.14), else one by one."""
        for path in self.paths:
            try:
                _write(f"{path}/cgroup.kill", "1")
                return
            except OSError:
                continue
        for path in self.paths[:1]:
            for pid in _read(f"{path}/cgroup.procs").split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), 9)

    def oom_kills(self) -> int:
        """Count the processes that were killed because the memory was used up."""
        if "memory" not in self.layout.directories:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(self._path("memory", name)).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def remove(self, patience: float = 2.0) -> bool:
        """Remove them; dying processes hold a group for a moment, so it is tried again for `patience` seconds."""
        deadline = time.monotonic() + patience
        left = list(self.paths)
        while True:
            for path in list(left):
                try:
                    os.rmdir(path)
                    left.remove(path)
                except FileNotFoundError:
                    left.remove(path)
                except OSError:
                    continue
            if not left or time.monotonic() >= deadline:
                return not left
            time.sleep(0.002)
