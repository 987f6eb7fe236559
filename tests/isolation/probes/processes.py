"""Other processes, rights, and the means between processes: signals, tracing, shared memory, priorities."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket

from tests.isolation.probes.tools import (
    CONTEXT,
    Outcome,
    attempt,
    call,
    info,
    limited,
    main,
    open_,
    probe,
    read,
    stopped,
    together,
)

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


if __name__ == "__main__":
    main()
