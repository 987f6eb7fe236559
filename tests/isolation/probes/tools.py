"""What every probe needs inside a sandbox: a register, raw system calls, and one line of output for each.

These files are copied into the sandbox and run there by whatever Python it has, 3.8 or later; they import nothing but
the standard library. Each probe runs in a process of its own, so that one that is killed or never returns spoils none
of the others.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import sys
from typing import Any, Callable, Dict, List, Tuple, TypeVar

Outcome = Tuple[str, str]
Probe = TypeVar("Probe", bound=Callable[[], Outcome])

SECONDS = 20
PROBES: Dict[str, Callable[[], Outcome]] = {}
CONTEXT: Dict[str, Any] = {}
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def stopped(reason: str) -> Outcome:
    """Say that the attack did not work, and what shows it."""
    return "stopped", reason


def limited(reason: str) -> Outcome:
    """Say that it worked as far as a limit."""
    return "limited", reason


def open_(reason: str) -> Outcome:
    """Say that it worked."""
    return "open", reason


def info(reason: str) -> Outcome:
    """Say what can be seen, where that is no attack."""
    return "info", reason


def named(number: int) -> str:
    """Name an error number."""
    return errno.errorcode.get(number, str(number))


def probe(name: str) -> Callable[[Probe], Probe]:
    """Register a probe under its name."""

    def keep(function: Probe) -> Probe:
        if name in PROBES:
            raise ValueError("two probes are called " + name)
        PROBES[name] = function
        return function

    return keep


def syscall(number: int, *arguments: Any) -> int:
    """Make a system call by its number.

    Raises:
        OSError: It failed.
    """
    given = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    given += [ctypes.c_long(0)] * (6 - len(given))
    result: int = libc.syscall(ctypes.c_long(number), *given)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(x86_64: int, aarch64: int, *arguments: Any) -> int:
    """Make a system call that has another number on each architecture."""
    return syscall(x86_64 if X86 else aarch64, *arguments)


def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Name the error of a call, or say `done`."""
    try:
        function(*arguments, **options)
    except OSError as error:
        return named(error.errno or 0)
    return "done"


def together(answers: List[str]) -> Outcome:
    """Make one outcome of several attempts, all of which must have failed."""
    kinds = "+".join(sorted(set(answers)))
    return (open_ if "done" in answers else stopped)(kinds)


def read(path: str, size: int = 65536) -> bytes:
    """Read the first bytes of a file; never blocks on a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def reading(path: str) -> Outcome:
    """Try to read a file."""
    return open_("%d bytes" % len(read(path)))


def listing(path: str) -> Outcome:
    """Try to find anything in a directory; an empty one is as good as none."""
    names = sorted(os.listdir(path))
    return open_(" ".join(names)[:200]) if names else stopped("empty")


def writing(path: str) -> Outcome:
    """Try to open a file for writing, and write nothing."""
    os.close(os.open(path, os.O_WRONLY))
    return open_("opened")


def connecting(family: int, address: Any) -> Outcome:
    """Try to connect."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS / 2)
        client.connect(address)
    return open_("connected")


def _outcome(function: Callable[[], Outcome]) -> Outcome:
    try:
        return function()
    except OSError as error:
        return stopped(named(error.errno) if error.errno else repr(error))
    except BaseException as error:
        return "broken", repr(error)


def _in_a_child(function: Callable[[], Outcome]) -> Outcome:
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        signal.alarm(SECONDS)
        os.write(outlet, "\t".join(_outcome(function)).encode()[:4000])
        os._exit(0)
    os.close(outlet)
    said = b""
    while True:
        piece = os.read(inlet, 4096)
        if not piece:
            break
        said += piece
    os.close(inlet)
    _, status = os.waitpid(child, 0)
    if not said:
        return "broken", "ended with wait status %d" % status
    verdict, _, detail = said.decode(errors="replace").partition("\t")
    return verdict, detail


def main() -> None:
    """Run the probes that the command line names, or all, with the context that the file beside this one holds."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "context.json"), encoding="utf-8") as file:
        CONTEXT.update(json.load(file))
    for name, function in PROBES.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            verdict, detail = _in_a_child(function)
            print(name, verdict, " ".join(detail.split()), flush=True)
