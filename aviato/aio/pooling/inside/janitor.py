"""Runs inside a pool's sandbox and undoes what its user left there; standard library only, Python 3.8 and later.

It is started before the first user, remembers what runs and what lies on every writable file system, and answers one
line of JSON to each line that it is sent.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time

_NOT_FILES = frozenset(("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "tracefs", "bpf"))
_KILL_SECONDS = 5.0
_SHOWN = 5
_MAKING_SECONDS = 60


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def processes():
    """Map each pid to the time of its start and its parent's pid, or return None where there is no /proc."""
    found = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return None
    for name in names:
        if not name.isdigit():
            continue
        fields = read("/proc/%s/stat" % name).rpartition(")")[2].split()
        if len(fields) > 19 and fields[0] not in "ZX":
            found[int(name)] = (fields[19], int(fields[1]))
    return found if found else None


def space(path):
    """Return what a file system has altogether, and what is free of it."""
    try:
        info = os.statvfs(path)
    except (OSError, AttributeError):
        return None
    return (info.f_bsize, info.f_blocks, info.f_files, info.f_bfree, info.f_ffree)


def mounts():
    """Return every mount point, those that can be written, and the kinds of these."""
    every, writable = set(), {}
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        path = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape") if "\\" in fields[4] else fields[4]
        every.add(path)
        options = fields[5].split(",") + (rest[2].split(",") if len(rest) > 2 else [])
        if "ro" not in options and rest[0] not in _NOT_FILES:
            writable[path] = rest[0]
    if not every:
        return {"/"}, {"/": ""}
    return every, writable


def described(info):
    """Return what differs once a file was changed or replaced; of a directory or device, once it was replaced."""
    mode = info.st_mode
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return (mode, info.st_uid, info.st_gid, info.st_ino, info.st_size, info.st_mtime, info.st_ctime_ns)
    return (mode, info.st_uid, info.st_gid, info.st_ino)


def names_in(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


def byte_code(folder, name):
    """Tell whether it is what an interpreter writes beside the modules that it imports."""
    return name == "__pycache__" or (folder.endswith("/__pycache__") and name.endswith(".pyc"))


def join(folder, name):
    return folder + name if folder.endswith("/") else folder + "/" + name


class Janitor:
    def __init__(self, empty, ignored):
        self.ignored = frozenset(ignored)
        self.empty = [path for path in dict.fromkeys(empty) if path != "/"]
        self.table = read("/proc/self/mountinfo")
        self.ipc = self.shared()
        self.every, self.writable = mounts()
        self.known = {}
        self.apart = {}
        # What an overlay over a tmpfs is given takes up room there, so that it need not be walked through.
        bases = [space(path) for path, kind in self.writable.items() if kind == "tmpfs"]
        overlays = [path for path, kind in self.writable.items() if kind == "overlay" and space(path) in bases]
        for path in overlays:
            del self.writable[path]
        for root in self.writable:
            if root not in self.ignored:
                self.remember(root)
        self.programs(overlays)
        self.counted = {path: space(path) for path in overlays}
        self.running = processes()

    def shared(self):
        """Return the tables of System V objects, which outlive those who made them."""
        return [read("/proc/sysvipc/" + name) for name in ("shm", "msg", "sem")]

    def programs(self, overlays):
        """Note the programs that lie in overlays since the sandbox was made: to replace one takes no more room."""
        made = os.lstat("/").st_ctime - _MAKING_SECONDS
        for folder in dict.fromkeys(os.environ.get("PATH", "").split(":")):
            if not any(folder.startswith(path + "/") for path in overlays):
                continue
            for name in names_in(folder):
                path = join(folder, name)
                info = os.lstat(path)
                if info.st_ctime >= made:
                    self.apart[path] = described(info)

    def remember(self, root):
        """Note what lies on a file system, without going into others."""
        stack = [root]
        while stack:
            folder = stack.pop()
            for name in names_in(folder):
                path = join(folder, name)
                try:
                    info = os.lstat(path)
                except OSError:
                    continue
                self.known[path] = described(info)
                if stat.S_ISDIR(info.st_mode) and path not in self.every and path not in self.ignored:
                    stack.append(path)

    def kill(self, spare):
        """Kill what was not there at first, but those to spare and their children; return how many do not die."""
        if self.running is None:
            return 0
        mine = os.getpid()
        deadline = time.monotonic() + _KILL_SECONDS
        while True:
            others = [
                pid
                for pid, (since, parent) in (processes() or {}).items()
                if pid != mine and not spare & {pid, parent} and self.running.get(pid, ("",))[0] != since
            ]
            if not others or time.monotonic() > deadline:
                return len(others)
            for number in (signal.SIGSTOP, signal.SIGKILL):  # what is stopped starts no others meanwhile
                for pid in others:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
            time.sleep(0.0005)

    def sweep(self, spared):
        """Empty the places that are emptied, compare all others; return what changed and how much was still there."""
        changed, seen = [], 0
        for root in self.writable:
            if root in self.ignored:
                continue
            inside = any(root == place or root.startswith(place + "/") for place in self.empty)
            stack = [(root, inside)]
            while stack:
                folder, emptied = stack.pop()
                for name in names_in(folder):
                    path = join(folder, name)
                    if path in spared:
                        continue
                    try:
                        info = os.lstat(path)
                    except OSError:
                        continue
                    known = self.known.get(path)
                    if known is not None:
                        seen += 1
                        if known != described(info):
                            changed.append(path)
                    elif emptied or byte_code(folder, name):
                        self.remove(path, info, changed)
                        continue
                    else:
                        changed.append(path)
                        continue
                    if stat.S_ISDIR(info.st_mode) and path not in self.every and path not in self.ignored:
                        stack.append((path, emptied or path in self.empty))
        return changed, seen

    def remove(self, path, info, changed):
        """Remove a file or a whole tree, without following a link; what does not go is a change."""
        stack = [(path, stat.S_ISDIR(info.st_mode), False)]
        while stack:
            path, directory, done = stack.pop()
            try:
                if not directory:
                    os.unlink(path)
                elif done:
                    os.rmdir(path)
                else:
                    os.chmod(path, 0o700)
                    stack.append((path, True, True))
                    for name in os.listdir(path):
                        inner = join(path, name)
                        stack.append((inner, stat.S_ISDIR(os.lstat(inner).st_mode), False))
            except OSError:
                changed.append(path)

    def without(self, room, spared):
        """Return what should be free of a file system, given that some files were spared."""
        size, blocks, files, free_blocks, free_files = room
        for path in spared:
            stack = [path] if (space(path) or ())[:3] == room[:3] else []  # else they lie elsewhere
            while stack:
                path = stack.pop()
                try:
                    info = os.lstat(path)
                    if stat.S_ISDIR(info.st_mode):
                        stack += [join(path, name) for name in os.listdir(path)]
                except OSError:
                    continue
                free_files -= 1
                free_blocks -= -(-info.st_blocks * 512 // size)
        return (size, blocks, files, free_blocks, free_files)

    def reset(self, spare, spared):
        alive = self.kill(frozenset(spare))
        changed, seen = self.sweep(frozenset(spared))
        if seen < len(self.known):
            changed += [path for path in self.known if not present(path)]
        if read("/proc/self/mountinfo") != self.table:
            changed.append("the table of mounts")
        for path, known in self.apart.items():
            if not present(path) or described(os.lstat(path)) != known:
                changed.append(path)
        for path, room in self.counted.items():
            if not changed and space(path) != self.without(room, spared):
                changed.append("something in " + " or ".join(self.counted))
        if self.shared() != self.ipc:
            changed.append("System V shared memory, queues or semaphores")
        return {
            "alive": alive,
            "changed": len(changed),
            "first": [path.encode("utf-8", "replace").decode("utf-8") for path in changed[:_SHOWN]],
        }


def present(path):
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main():
    first = json.loads(sys.stdin.readline())
    janitor = Janitor([os.getcwd()] + first["empty"], first["ignored"])
    answer({"known": len(janitor.known)})
    for line in sys.stdin:
        order = json.loads(line)
        answer(janitor.reset(order["pids"], order["paths"]))


if __name__ == "__main__":
    main()
