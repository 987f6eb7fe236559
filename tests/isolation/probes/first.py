"""What comes to commands from those who started them: the first process, descriptors and the environment."""

from __future__ import annotations

import os
from typing import Callable

from tests.isolation.probes.tools import (
    CONTEXT,
    Outcome,
    attempt,
    info,
    main,
    open_,
    probe,
    read,
    reading,
    stopped,
    together,
    writing,
)

_FIRST = {
    "read-the-environment-of-the-first-process": "environ",
    "read-the-memory-map-of-the-first-process": "maps",
    "read-the-memory-of-the-first-process": "mem",
    "read-the-auxiliary-vector-of-the-first-process": "auxv",
    "read-the-kernel-stack-of-the-first-process": "stack",
    "read-the-system-call-of-the-first-process": "syscall",
    "read-the-io-counts-of-the-first-process": "io",
}
_FIRST_LINKS = {
    "follow-the-program-of-the-first-process": "exe",
    "follow-the-directory-of-the-first-process": "cwd",
    "follow-the-root-of-the-first-process": "root",
    "follow-the-mount-namespace-of-the-first-process": "ns/mnt",
    "follow-the-user-namespace-of-the-first-process": "ns/user",
    "follow-a-descriptor-of-the-first-process": "fd/0",
}


def _with(function: Callable[[str], Outcome], path: str) -> Callable[[], Outcome]:
    return lambda: function(path)


for _name, _path in _FIRST.items():
    probe(_name)(_with(reading, "/proc/1/" + _path))


def _following(path: str) -> Outcome:
    return open_(os.readlink(path))


for _name, _path in _FIRST_LINKS.items():
    probe(_name)(_with(_following, "/proc/1/" + _path))


@probe("open-each-descriptor-of-the-first-process")
def _first_descriptors() -> Outcome:
    """Who is root inside may see their numbers; that is all."""
    return together([attempt(os.open, "/proc/1/fd/%d" % fd, os.O_RDONLY | os.O_NONBLOCK) for fd in range(64)])


@probe("list-the-mapped-files-of-the-first-process")
def _first_mapped() -> Outcome:
    return open_(" ".join(os.listdir("/proc/1/map_files")))


@probe("write-over-the-program-of-the-first-process")
def _first_program() -> Outcome:
    """Only EACCES will do: ETXTBSY would say that nothing but its running stood in the way."""
    return writing("/proc/1/exe")


@probe("inherit-descriptors")
def _descriptors() -> Outcome:
    """One is the pipe of this probe, one that of the listing."""
    more = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2]
    kinds = [os.readlink("/proc/self/fd/%d" % fd) for fd in more if os.path.lexists("/proc/self/fd/%d" % fd)]
    foreign = [kind for kind in kinds if not kind.startswith("pipe:")]
    return open_(" ".join(foreign)) if foreign or len(more) > 2 else stopped("three")


@probe("open-files-below-inherited-directories")
def _directories() -> Outcome:
    answers = {attempt(os.open, "etc", os.O_RDONLY, dir_fd=fd) for fd in range(3, 200)}
    return open_("opened") if "done" in answers else stopped("+".join(sorted(answers)))


@probe("go-through-the-working-directory-of-a-command")
def _working() -> Outcome:
    """A working directory on a descriptor of the machine would lead out by `..` (CVE-2024-21626)."""
    os.chdir("../../../../../../../..")
    return info(os.getcwd()) if os.stat(".").st_ino == os.stat("/").st_ino else open_(os.getcwd())


@probe("see-the-environment-of-the-client")
def _environment() -> Outcome:
    names = [name for name in CONTEXT["environment"] if name in os.environ]
    return open_(" ".join(names)) if names else stopped("absent")


@probe("read-every-environment-there-is")
def _environments() -> Outcome:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = read("/proc/%s/environ" % entry)
            except OSError:
                continue
            found += [name for name in CONTEXT["environment"] if (name + "=").encode() in text]
    return open_(" ".join(found)) if found else stopped("absent")


if __name__ == "__main__":
    main()
