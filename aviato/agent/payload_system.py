"""What the agent needs of the system: the wire's numbers, `/proc`, users, starting a process, giving up rights."""

import errno
import posix
import select
import time

import _ctypes
import _signal
from _struct import Struct

# The wire, as in frames.py (a test compares them).
MAGIC = b"AVTO"
VERSION = 1
HEADER = Struct("!IBQ")
MAX_PAYLOAD = 1 << 20
DATA_CHUNK = 64 * 1024
WINDOW = 512 * 1024
STDIN_WINDOW = 256 * 1024
HELLO, START, ATTACH, STDIN, STDIN_EOF, CREDIT, SIGNAL, RELEASE = range(1, 9)
PING, SHUTDOWN, EXTEND, FILE_READ, FILE_WRITE = range(9, 14)
WELCOME, STARTED, OUTPUT, _STDERR, GAP, ACK, STDIN_CLOSED, EXIT = range(128, 136)
FILE_END, ERROR, PONG, CLOSING, EXTENDED = range(136, 141)
START_STDIN = 1
TIMED_OUT, NOT_STARTED = 1, 2
ATOMIC, PARENTS = 1, 2
MAIN_EXITED, BY_REQUEST, IDLE, LIFETIME, ORPHANED = range(1, 6)
S_HELLO = Struct("!4sHH")
S_WELCOME = Struct("!4sHI")
S_START = Struct("!IQQQ")
S_ATTACH = Struct("!QQQQ")
S_U32 = Struct("!I")
S_U64 = Struct("!Q")
S_CREDIT = Struct("!BQ")
S_SIGNAL = Struct("!BB")
S_CLOSING = Struct("!Bi")
S_FILE_READ = Struct("!QQQ")
S_FILE_WRITE = Struct("!II")
S_DATA_FRAME = Struct("!IBQQ")  # a frame's header and the offset before its data
S_STARTED_FRAME = Struct("!IBQIQ")
S_EXIT_FRAME = Struct("!IBQiBBQQQ")

OUT_MAX = 1 << 20  # bytes queued for one client beyond which no more is read for it
DRAIN_MAX = 1 << 20  # bytes read after a command's end, at most: a pipe holds no more
DISCARD_MAX = 256
FLOWING = 16  # full reads of an output after which its pipe is made larger, so that everybody sleeps less often
FLOWING_PIPE = 256 * 1024
F_SETPIPE_SZ = 1031
CLIENTS_MAX = 64
HELLO_SECONDS = 10.0
FLUSH_SECONDS = 1.0
PATIENCE = 0.005
IN, OUT = select.EPOLLIN, select.EPOLLOUT
AGAIN = (errno.EAGAIN, errno.EINTR)
SIGKILL, SIGTERM = _signal.SIGKILL, _signal.SIGTERM
now = time.monotonic


class Bad(Exception):
    """The client broke the protocol; its connection is closed."""


def strings(payload, at, count):
    """Give the string lists from `at` on, `count` of them."""
    lists = []
    size = len(payload)
    for _ in range(count):
        (items,) = S_U32.unpack_from(payload, at)
        at += 4
        if items * 4 > size - at:
            raise Bad("string list is cut short")
        found = []
        for _ in range(items):
            (length,) = S_U32.unpack_from(payload, at)
            at += 4
            if at + length > size:
                raise Bad("string is cut short")
            found.append(payload[at : at + length])
            at += length
        lists.append(found)
    if at != size:
        raise Bad("bytes after the end of the request")
    return lists


def close(fd):
    """Close `fd` if it is one."""
    if fd >= 0:
        try:
            posix.close(fd)
        except OSError:
            pass


def read_small(path, limit):
    """Read a file of the system, `b""` when it cannot be read; never blocks on a planted fifo."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY)
    except OSError:
        return b""
    try:
        if posix.fstat(fd).st_mode & 0o170000 != 0o100000:
            return b""
        parts, size = [], 0
        while size < limit:
            part = posix.read(fd, min(65536, limit - size))
            if not part:
                break
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def processes():
    """Read the process table: pid -> (state, parent, group, session)."""
    table = {}
    for name in posix.listdir("/proc"):
        if name.isdigit():
            stat = read_small("/proc/" + name + "/stat", 4096)
            fields = stat[stat.rfind(b")") + 2 :].split(None, 4)
            if len(fields) == 5:
                table[int(name)] = (fields[0], int(fields[1]), int(fields[2]), int(fields[3]))
    return table


def descendants(table, found):
    """Add to the set `found` every process whose chain of parents leads into it."""
    grown = True
    while grown:
        grown = False
        for pid, entry in table.items():
            if entry[1] in found and pid not in found:
                found.add(pid)
                grown = True
    return found


LIBC = _ctypes.dlopen(None, 0)


def call(name, *arguments):
    """Call a function of libc; the errno is not known."""
    return _ctypes.call_function(_ctypes.dlsym(LIBC, name), arguments)


PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER = 4, 24, 28, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
SECUREBITS = 0b11000011  # NOROOT and NO_CAP_AMBIENT_RAISE, each with its lock
CAP_SETPCAP = 8


SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
S_SCHED_ATTR = Struct("=IIQiIQQQ")  # struct sched_attr, first version: man 2 sched_setattr
SCHED_RESET_ON_FORK = 1
SLICE_NANOSECONDS = 100_000


def be_prompt(wanted):
    """Ask for short turns that come soon, or for ordinary ones again.

    Inside a CPU group the starter of a process does not get on before that one first sleeps or ends. That is right for
    one command, of which all the news then comes at once, and wrong for several, which would start one after the
    other. From Linux 6.12 on a task chooses the length of its turns, and gets no more time by it. It is not inherited.
    Where it is refused, or unknown, all works as well, but slower.
    """
    number = SCHED_SETATTR.get(posix.uname().machine)
    if number is not None:
        nice = posix.getpriority(posix.PRIO_PROCESS, 0)
        size = S_SCHED_ATTR.size
        slice_ = SLICE_NANOSECONDS if wanted else 0
        call("syscall", number, 0, S_SCHED_ATTR.pack(size, 0, SCHED_RESET_ON_FORK, nice, 0, slice_, 0, 0), 0)


def hide():
    """Keep other processes of the sandbox out of this one's memory, descriptors and environment.

    Raises:
        RuntimeError: The kernel refused, so nothing may be started.
    """
    if call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise RuntimeError("prctl(PR_SET_DUMPABLE, 0) was refused")


def give_up_rights():
    """Arrange that every command runs without capabilities, whatever user it runs as.

    What the agent itself was given stays, but for the right to change these very settings.

    Raises:
        RuntimeError: It has capabilities and a step was refused.
    """
    if call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise RuntimeError("prctl(PR_SET_NO_NEW_PRIVS) was refused")
    permitted = 0
    for line in read_small("/proc/self/status", 65536).split(b"\n"):
        if line.startswith(b"CapPrm:"):
            permitted = int(line.split()[1], 16)
            break
    else:
        raise RuntimeError("/proc/self/status does not tell the capabilities")
    if not permitted:
        return
    if call("prctl", PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0) != 0:
        raise RuntimeError("prctl(PR_SET_SECUREBITS) was refused: CAP_SETPCAP is needed where any is given")
    if call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        raise RuntimeError("the ambient capabilities could not be cleared")
    capability = 0
    while call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if capability <= CAP_SETPCAP:
        raise RuntimeError("the bounding set could not be dropped")
    permitted &= ~(1 << CAP_SETPCAP)
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    if call("capset", Struct("=II").pack(0x20080522, 0), Struct("=6I").pack(low, low, 0, high, high, 0)) != 0:
        raise RuntimeError("capset was refused")


def hear_signals(wake_end):
    """Start from ordinary signals, and have those that must not end the agent written to `wake_end` instead."""
    for number in range(1, 65):
        if number not in (SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE, _signal.SIGXFSZ, 32, 33):
            _signal.signal(number, _signal.SIG_DFL)
    heard = (_signal.SIGCHLD, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM,
             _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM)  # fmt: skip
    for number in heard:  # by a handler, for ignoring them would be inherited by the commands
        _signal.signal(number, lambda _number, _frame: None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    _signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)


def close_on_exec():
    """Let no descriptor but 0, 1 and 2 reach a command."""
    while posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC) <= 2:
        pass  # whoever started the agent had closed some of the three
    try:
        fds = [int(name) for name in posix.listdir("/proc/self/fd")]
    except OSError:
        fds = list(range(3, 4096))
    for fd in fds:
        if fd > 2:
            try:
                posix.set_inheritable(fd, False)
            except OSError:
                pass
