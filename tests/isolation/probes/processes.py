"""Other processes, rights, and the means between processes: signals, tracing, shared memory, priorities."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
import subprocess
from typing import Callable

from tools import CONTEXT, Outcome, attempt, call, info, libc, limited, main, open_, probe, read, stopped, together

_TRACE = (101, 117)
_ATTACH, _SEIZE = 16, 0x4206


@probe("see-processes-of-the-machine")
def _see() -> Outcome:
    """The names of all visible processes; the victim's own name is among them only where it can be seen."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and CONTEXT["victim_name"].encode() in read("/proc/%s/comm" % entry):
            return open_(entry)
    return stopped("absent")


@probe("count-process-numbers")
def _count() -> Outcome:
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return stopped("own") if max(numbers) < 100_000 and os.getpid() in numbers else open_(str(max(numbers)))


@probe("signal-a-process-of-the-machine")
def _signal() -> Outcome:
    os.kill(CONTEXT["victim"], signal.SIGURG)
    return open_("sent")


@probe("signal-every-process")
def _everyone() -> Outcome:
    """The victim outside tells whether it was reached; here only processes of the sandbox ignore it."""
    attempt(os.kill, -1, signal.SIGURG)
    return info("sent")


@probe("be-signalled-for-a-descriptor-of-others")
def _owner() -> Outcome:
    left, _ = socket.socketpair()
    fcntl.fcntl(left, fcntl.F_SETOWN, CONTEXT["victim"])
    return open_("set")


@probe("hold-a-process-of-the-machine")
def _pidfd() -> Outcome:
    return open_("descriptor %d" % call(434, 434, CONTEXT["victim"], 0))


@probe("trace-a-process-of-the-machine")
def _trace() -> Outcome:
    return open_("%d" % call(*_TRACE, _ATTACH, CONTEXT["victim"], 0, 0))


def _reading(pid: int) -> Outcome:
    """Read where this process itself has something, so that only the right can be missing."""
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    return open_("%d bytes" % call(310, 270, pid, local, 1, local, 1, 0))


@probe("read-the-memory-of-a-process-of-the-machine")
def _memory() -> Outcome:
    return _reading(CONTEXT["victim"])


@probe("change-the-limits-of-a-process-of-the-machine")
def _limits() -> Outcome:
    resource.prlimit(CONTEXT["victim"], resource.RLIMIT_NOFILE, (1, 1))
    return open_("changed")


@probe("change-the-priority-of-a-process-of-the-machine")
def _priority() -> Outcome:
    os.setpriority(os.PRIO_PROCESS, CONTEXT["victim"], 19)
    return open_("changed")


@probe("pin-a-process-of-the-machine-to-a-processor")
def _pin() -> Outcome:
    os.sched_setaffinity(CONTEXT["victim"], {0})
    return open_("pinned")


@probe("trace-the-first-process")
def _trace_first() -> Outcome:
    return together([attempt(call, *_TRACE, way, 1, 0, 0) for way in (_ATTACH, _SEIZE)])


@probe("read-the-memory-of-the-first-process-by-a-call")
def _read_first() -> Outcome:
    return _reading(1)


@probe("read-the-memory-of-a-neighbour")
def _neighbour() -> Outcome:
    """Debuggers work between a sandbox's own commands: that is meant."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(inlet, 1)
        os._exit(0)
    answer = attempt(call, *_TRACE, _SEIZE, child, 0, 0)
    os.close(outlet)
    os.kill(child, signal.SIGKILL)
    return info("traced") if answer == "done" else stopped(answer)


@probe("kill-the-first-process")
def _kill_first() -> Outcome:
    """The kernel keeps it from signals of its own namespace that it does not handle."""
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGHUP):
        attempt(os.kill, 1, number)
    state = read("/proc/1/stat").rpartition(b")")[2].split()[0].decode()
    return stopped("alive") if state in "SR" else open_(state)


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


@probe("attach-shared-memory-of-the-machine")
def _shared() -> Outcome:
    return open_("id %d" % call(29, 194, CONTEXT["shm_key"], 0, 0))


@probe("attach-a-message-queue-of-the-machine")
def _queue() -> Outcome:
    return open_("id %d" % call(68, 186, CONTEXT["shm_key"], 0))


@probe("attach-semaphores-of-the-machine")
def _semaphores() -> Outcome:
    return open_("id %d" % call(64, 190, CONTEXT["shm_key"], 0, 0))


@probe("create-a-posix-message-queue")
def _posix_queue() -> Outcome:
    return open_("descriptor %d" % call(240, 180, ctypes.c_char_p(b"probe"), os.O_CREAT | os.O_RDWR, 0o600, 0))


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


@probe("type-into-the-callers-terminal")
def _type() -> Outcome:
    """TIOCSTI on a terminal of its own, which the kernel would allow to its owner."""
    _, end = os.openpty()
    return together([attempt(fcntl.ioctl, end, number, b"x") for number in (0x5412, 0x541C)])


@probe("type-into-a-terminal-with-high-bits-set")
def _type_high() -> Outcome:
    _, end = os.openpty()
    return open_("%d" % call(16, 29, end, (1 << 40) | 0x5412, ctypes.c_char_p(b"x")))


@probe("make-more-inotify-instances-than-allowed")
def _inotify() -> Outcome:
    count = 0
    try:
        while count < 1000:
            call(294, 26, 0)
            count += 1
    except OSError as error:
        return limited("EMFILE") if error.errno == 24 and count <= 64 else open_("%d %s" % (count, error))
    return open_(str(count))


@probe("open-more-files-than-allowed")
def _files() -> Outcome:
    count = 0
    try:
        while count < 100_000:
            os.open("/dev/null", os.O_RDONLY)
            count += 1
    except OSError as error:
        return limited("EMFILE") if error.errno == 24 and count <= 4096 else open_("%d %s" % (count, error))
    return open_(str(count))


main()
