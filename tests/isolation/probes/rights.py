"""Rights, ids and priorities that would let a process do more than the others, and limits that hold it."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import stat
import subprocess
from typing import Callable

from tests.isolation.probes.tools import (
    CONTEXT,
    Outcome,
    attempt,
    call,
    libc,
    main,
    open_,
    probe,
    read,
    stopped,
    together,
)


@probe("hold-any-right")
def _rights() -> Outcome:
    lines = dict(line.split(":\t", 1) for line in read("/proc/self/status").decode().splitlines() if ":\t" in line)
    held = [name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(lines[name], 16)]
    return open_(" ".join(held)) if held else stopped("none")


@probe("gain-rights-by-a-program")
def _gain() -> Outcome:
    status = read("/proc/self/status").decode()
    return stopped("NoNewPrivs") if "NoNewPrivs:\t1" in status else open_("may gain")


@probe("run-without-the-filter")
def _filter() -> Outcome:
    return stopped("filter") if "Seccomp:\t2" in read("/proc/self/status").decode() else open_("no filter")


@probe("allow-new-privileges-again")
def _no_new_privs() -> Outcome:
    return open_("%d" % call(157, 167, 38, 0, 0, 0, 0))


@probe("raise-an-ambient-right")
def _ambient() -> Outcome:
    return open_("%d" % call(157, 167, 47, 2, 21, 0, 0))


@probe("set-rights")
def _capset() -> Outcome:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0)
    return open_("%d" % call(126, 91, header, sets))


@probe("become-a-user-of-the-machine")
def _become() -> Outcome:
    return together([attempt(os.setresuid, number, number, number) for number in (1000, 1001, 65533, 100_000)])


@probe("become-a-member-of-a-group")
def _groups() -> Outcome:
    return together([attempt(os.setgroups, [0, 999]), attempt(os.setresgid, 42, 42, 42)])


@probe("run-as-root-of-the-machine")
def _ids() -> Outcome:
    outside = [int(line.split()[1]) for line in read("/proc/self/uid_map").decode().splitlines()]
    return stopped("shifted") if 0 not in outside else open_("uid 0")


@probe("gain-rights-by-a-setuid-file")
def _setuid() -> Outcome:
    """Marked setuid for a user of the image, a file gives nobody that user's id."""
    with open("/workspace/setuid", "wb") as file:
        file.write(read(CONTEXT["shell_inside"], 1 << 25))
    os.chmod("/workspace/setuid", 0o6755)
    before = read("/proc/self/status").split(b"Uid:")[1].split(b"\n")[0]
    program = ["sh", "-c", "while read -r line; do echo $line; done </proc/self/status"]
    done = subprocess.run(program, executable="/workspace/setuid", stdout=subprocess.PIPE, check=True)
    after = done.stdout.split(b"Uid:")[1].split(b"\n")[0]
    mode = os.stat("/workspace/setuid").st_mode & (stat.S_ISUID | stat.S_ISGID)
    return (stopped("same") if before.split() == after.split() else open_(after.decode())) if mode else stopped("mode")


@probe("name-the-machine")
def _name() -> Outcome:
    socket.sethostname("intruder")
    return open_("named")


@probe("name-the-domain")
def _domain() -> Outcome:
    return open_("%d" % call(171, 162, ctypes.c_char_p(b"x"), 1))


@probe("tune-the-clock")
def _clock() -> Outcome:
    """ADJ_TICK with the present tick, so that a success changes nothing."""
    buffer = ctypes.create_string_buffer(208)
    ctypes.c_uint.from_buffer(buffer).value = 0x4000
    ctypes.c_long.from_buffer(buffer, 88).value = 10_000
    return open_("%d" % call(159, 171, buffer))


@probe("run-ahead-of-everybody")
def _realtime() -> Outcome:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return open_("real time")


@probe("take-a-higher-priority")
def _nice() -> Outcome:
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return open_("raised")


@probe("take-real-time-input-and-output")
def _io_priority() -> Outcome:
    return open_("%d" % call(251, 30, 1, 0, (1 << 13) | 4))


@probe("lock-memory")
def _lock() -> Outcome:
    size = 64 << 20
    memory = ctypes.create_string_buffer(size)
    return open_("%d" % call(149, 228, ctypes.c_void_p(ctypes.addressof(memory)), size))


@probe("take-huge-pages")
def _huge() -> Outcome:
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    if libc.mmap(None, 1 << 30, 3, 0x40022, -1, 0) in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")
    return open_("mapped")


def _raising(which: int) -> Callable[[], Outcome]:
    def function() -> Outcome:
        _, hard = resource.getrlimit(which)
        if hard == resource.RLIM_INFINITY:
            return open_("unlimited")
        try:
            resource.setrlimit(which, (hard + 1, hard + 1))
        except ValueError:  # what Python makes of EPERM
            return stopped("EPERM")
        return open_("raised")

    return function


probe("raise-the-limit-of-open-files")(_raising(resource.RLIMIT_NOFILE))
probe("raise-the-limit-of-core-files")(_raising(resource.RLIMIT_CORE))
probe("raise-the-limit-of-locked-memory")(_raising(resource.RLIMIT_MEMLOCK))
probe("raise-the-limit-of-message-queues")(_raising(resource.RLIMIT_MSGQUEUE))
probe("raise-the-limit-of-pending-signals")(_raising(resource.RLIMIT_SIGPENDING))
probe("raise-the-limit-of-real-time-priority")(_raising(resource.RLIMIT_RTPRIO))


if __name__ == "__main__":
    main()
