"""Look everywhere for what begins like a canary, and print whatever is found."""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import stat
import sys
from typing import Iterable

from tests.isolation.probes.tools import CONTEXT, attempt, call, libc, read

_CANARY = re.compile(rb"aviato-[c]anary-[a-z0-9-]+-[0-9a-f]{32}")
_LARGEST = 1 << 20
_SECONDS = 5


def _look(where: str, text: bytes) -> None:
    for match in sorted(set(_CANARY.findall(text))):
        print("FOUND", match.decode(), "in", where)


def _file(path: str) -> None:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            _look(path, read(path, _LARGEST))
    except OSError:
        return


def _paths() -> None:
    for path in CONTEXT["paths"]:
        print("path", attempt(_look, path, b"") if not os.path.lexists(path) else "exists", path)
        for way in (path, "/proc/1/root" + path, "/proc/self/root/.." + path, "/proc/self/cwd/../.." + path):
            _file(way)


def _services() -> None:
    addresses = [(socket.AF_UNIX, path) for path in CONTEXT["services"]]
    addresses += [(socket.AF_UNIX, "\0" + CONTEXT["abstract_service"])]
    for host in CONTEXT["hosts"]:
        addresses.append((socket.AF_INET, (host, CONTEXT["canary_port"])))
    for family, address in addresses:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(_SECONDS)
                client.connect(address)
                _look("service %r" % (address,), client.recv(4096))
        except OSError:
            continue


def _memory() -> None:
    libc.shmat.restype = ctypes.c_void_p
    segments = [libc.shmget(CONTEXT["canary_key"], 0, 0), *range(64)]
    for segment in segments:
        place = libc.shmat(segment, None, 0o10000) if segment >= 0 else None
        if place not in (None, ctypes.c_void_p(-1).value):
            _look("shared memory", ctypes.string_at(place, 4096))
    _file("/proc/sysvipc/shm")


def _keys() -> None:
    """By search in each ring of one's own, then by number."""
    buffer = ctypes.create_string_buffer(4096)
    for ring in range(-5, 0):
        try:
            key = call(250, 219, 10, ring, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"aviato-test"), 0)
            size = call(250, 219, 11, key, buffer, 4096)
            _look("keyring", buffer.raw[:size])
        except OSError:
            continue
    _file("/proc/keys")


def _processes() -> None:
    for entry in os.listdir("/proc"):
        if entry.isdigit() or entry in ("self", "thread-self"):
            base = "/proc/" + entry
            for name in ("environ", "cmdline", "maps", "mountinfo", "mounts", "comm", "status", "cgroup"):
                _file(base + "/" + name)
            try:
                numbers = os.listdir(base + "/fd")
            except OSError:
                continue
            for number in numbers:
                _descriptor(base + "/fd/" + number)


def _descriptor(path: str) -> None:
    try:
        _look(path, os.readlink(path).encode())
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            _look(path, read(path))
    except OSError:
        return


def _inherited() -> None:
    for fd in range(200):
        if fd not in (1, 2):
            try:
                os.set_blocking(fd, False)
                _look("descriptor %d" % fd, os.read(fd, 4096))
                _look("descriptor %d" % fd, os.pread(fd, 4096, 0))
            except OSError:
                continue
    _look("environment", repr(dict(os.environ)).encode())
    _look("arguments", repr(sys.argv).encode())


def _walk(top: str, without: Iterable[str]) -> None:
    """Look at each name, and into each file that is not of the machine's lent programs."""
    count = 0
    for folder, folders, files in os.walk(top):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        programs = folder.startswith(tuple(without))
        for name in (*folders, *files):
            count += 1
            _look(folder, os.fsencode(name))
        for name in files:
            if not programs:
                _file(os.path.join(folder, name))
    print("walked", count)


if __name__ == "__main__":
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "hunt.json"), encoding="utf-8") as given:
        CONTEXT.update(json.load(given))
    _inherited()
    _paths()
    _services()
    _memory()
    _keys()
    if "--only-by-name" not in sys.argv:
        _processes()
        _walk("/", ("/usr/", "/opt/", "/lib/python", CONTEXT["python"]))
    print("hunted")
