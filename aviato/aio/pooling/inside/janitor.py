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
_MANY = 4000


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def processes():
    """Map each pid to the time of its start, or return None where there is no /proc."""
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
            found[int(name)] = fields[19]
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
    mode = info.st_mode
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return (mode, info.st_uid, info.st_gid, info.st_ino, info.st_size, info.st_mtime, info.st_ctime_ns)
    return (mode, info.st_uid, info.st_gid, info.st_ino)


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
        self.counted = None
        bases = {path: space(path) for path, kind in self.writable.items() if kind == "tmpfs"}
        for root in [path for path in self.writable if path not in self.ignored]:
            # What an overlay over a tmpfs is given takes up room there, so that a large one need not be walked through.
            over = self.writable[root] == "overlay" and space(root) is not None and space(root) in bases.values()
            if not self.remember(root, _MANY if over else None):
                self.counted = root
                del self.writable[root]
        self.room = self.counted and space(self.counted)
        self.running = processes()

    def shared(self):
        return [read("/proc/sysvipc/" + name) for name in ("shm", "msg", "sem")]

    def remember(self, root, most):
        """Note what is there; False, and nothing noted, if that is more than `most`."""
        stack, found = [root], {}
        while stack:
            if most is not None and len(found) > most:
                return False
            folder = stack.pop()
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            for name in names:
                path = join(folder, name)
                try:
                    info = os.lstat(path)
                except OSError:
                    continue
                found[path] = described(info)
                if stat.S_ISDIR(info.st_mode) and path not in self.every and path not in self.ignored:
                    stack.append(path)
        self.known.update(found)
        return True

    def kill(self, spare):
        """Kill what was not there at the beginning; return how many, and how many do not die."""
        if self.running is None:
            return 0, 0
        mine, killed = os.getpid(), set()
        deadline = time.monotonic() + _KILL_SECONDS
        while True:
            others = [
                pid
                for pid, since in (processes() or {}).items()
                if pid != mine and pid not in spare and self.running.get(pid) != since
            ]
            if not others or time.monotonic() > deadline:
                return len(killed), len(others)
            for number in (signal.SIGSTOP, signal.SIGKILL):  # what is stopped starts no others meanwhile
                for pid in others:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
            killed.update(others)
            time.sleep(0.0005)

    def sweep(self, spared):
        """Empty the places that are emptied and compare all others; return counts and the first changes."""
        removed, changed, seen = 0, [], 0
        for root in self.writable:
            if root in self.ignored:
                continue
            inside = any(root == place or root.startswith(place + "/") for place in self.empty)
            stack = [(root, inside)]
            while stack:
                folder, emptied = stack.pop()
                try:
                    names = os.listdir(folder)
                except OSError:
                    continue
                for name in names:
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
                    elif emptied:
                        removed += self.remove(path, info, changed)
                        continue
                    else:
                        changed.append(path)
                        continue
                    if stat.S_ISDIR(info.st_mode) and path not in self.every and path not in self.ignored:
                        stack.append((path, emptied or path in self.empty))
        return removed, changed, seen

    def remove(self, path, info, changed):
        """Remove a file or a whole tree, without following a link; return how many went."""
        count = 0
        stack = [(path, stat.S_ISDIR(info.st_mode), False)]
        while stack:
            path, directory, done = stack.pop()
            try:
                if not directory:
                    os.unlink(path)
                    count += 1
                elif done:
                    os.rmdir(path)
                    count += 1
                else:
                    os.chmod(path, 0o700)
                    stack.append((path, True, True))
                    for name in os.listdir(path):
                        inner = join(path, name)
                        stack.append((inner, stat.S_ISDIR(os.lstat(inner).st_mode), False))
            except OSError:
                changed.append(path)
        return count

    def without(self, spared):
        """Return what should be free where the uncounted places are, given that some files were spared."""
        size, blocks, files, free_blocks, free_files = self.room
        for path in spared:
            if space(path) != space(self.counted):
                continue  # they lie elsewhere
            stack = [path]
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
        killed, alive = self.kill(frozenset(spare))
        removed, changed, seen = self.sweep(frozenset(spared))
        if seen < len(self.known):
            changed += [path for path in self.known if not present(path)]
        if read("/proc/self/mountinfo") != self.table:
            changed.append("the table of mounts")
        if self.counted and space(self.counted) != self.without(spared):
            changed.append("something in %s" % self.counted)
        if self.shared() != self.ipc:
            changed.append("System V shared memory, queues or semaphores")
        return {
            "killed": killed,
            "alive": alive,
            "removed": removed,
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
