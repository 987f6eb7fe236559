"""The agent: what runs inside a sandbox, as its first process.

It starts commands and moves bytes, for any number of connected clients, in one epoll loop, which is here; what it does
with their frames is in `payload_requests`. With the files of its name beside it, it is given to the interpreter as
marshalled code objects (see `bootstrap`), imports only extension modules, and is written for Python 3.8 and later. The
wire format is `frames`; the host side is `channel`.

Choices that a reader cannot see from one place:

* Everything it learns from a command, a file name or a client is hostile. Whatever a client sends wrong closes that
  client's connection; whatever fails on one stream is an `ERROR` on that stream. Nothing raises out of the loop.
* Output is read from a command only as far as the client's credit goes, and kept by reference until the credit shows
  that it was consumed. A command whose client is away blocks on its pipe, so a dropped connection loses nothing.
* `EXIT` follows as soon as the command itself was reaped and what stood in its pipes was sent. What a process left
  behind by it writes afterwards is read and dropped (so that a daemon is not killed by SIGPIPE for a log line);
  of more than `DISCARD_MAX` such pipes the oldest is closed.
* A command's tree is found by process group, session, parents, and the marker AVIATO_EXEC_ID in the environment,
  so a daemon that forked twice and began its own session is found too, unless it also cleared its environment.
* A daemon outlives its command, never the sandbox: when the agent ends, everything does.
"""

# No types: `typing` is not loaded inside a sandbox, for it costs more memory than all of the agent.

import errno
import posix
import select
from _collections import deque
from _struct import error as StructError

from aviato.agent.payload_connection import Connection
from aviato.agent.payload_door import Door
from aviato.agent.payload_end import End
from aviato.agent.payload_launch import write_secrets
from aviato.agent.payload_process import Process
from aviato.agent.payload_start import start_main
from aviato.agent.payload_supervisor import Supervisor
from aviato.agent.payload_system import (
    AGAIN,
    Bad,
    BY_REQUEST,
    CLIENTS_MAX,
    DATA_CHUNK,
    DISCARD_MAX,
    IDLE,
    IN,
    MAIN_EXITED,
    ORPHANED,
    PATIENCE,
    PR_SET_CHILD_SUBREAPER,
    SIGKILL,
    SIGTERM,
    be_prompt,
    call,
    close,
    close_on_exec,
    give_up_rights,
    hear_signals,
    hide,
    now,
)
from aviato.agent.payload_watchdog import Watchdog

FOREVER = 10.0**9


class Agent:
    """The loop and all that it serves."""

    def __init__(self, config):
        self.config = config
        self.pid = posix.getpid()
        self.epoll = select.epoll()
        self.handlers = {}
        self.clients = set()
        self.streams = {}
        self.children = {}  # pid -> Process
        self.reading = set()  # file reads with a chunk to send
        self.dirty = set()  # connections with something to write
        self.patient = set()  # connections whose news may wait a moment for more
        self.discarded = deque()
        self.timers = {}
        self.next_timer = 0.0
        self.null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        self.sink = bytearray(DATA_CHUNK)
        self.env = dict(config.get("env") or {})
        self.main_pid = 0
        self.main_code = -1
        self.end = End(self)
        self.prompt = False
        self.listener = config.get("listen_fd", -1)
        self.max_processes = config.get("max_processes") or 1024
        self.refuse_rights = not config.get("keep_capabilities", False)

    # Events and time

    def watch(self, fd, events, handler):
        """Call `handler(events)` when `fd` is ready."""
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def unwatch(self, fd):
        """Stop watching `fd`; harmless when it is not watched."""
        if self.handlers.pop(fd, None) is not None:
            try:
                self.epoll.unregister(fd)
            except OSError:
                pass

    def at(self, key, seconds, action):
        """Run `action` in `seconds`, once; the same key replaces it."""
        due = now() + seconds
        self.timers[key] = (due, action)
        if not self.next_timer or due < self.next_timer:
            self.next_timer = due

    def run(self):
        """Serve until the end; give the exit code."""
        end, patient_until = self.end, 0.0
        while not end.reached:
            if self.reading:
                wait = 0.0
            elif self.next_timer:
                wait = max(0.0, self.next_timer - now())
            else:
                wait = -1
            if self.patient and (wait < 0 or wait > PATIENCE):
                wait = PATIENCE
            if self.patient and not patient_until:
                patient_until = now() + PATIENCE
            for fd, events in self.epoll.poll(wait):
                handler = self.handlers.get(fd)
                if handler is not None:
                    self.guard(handler, events)
            if patient_until and now() >= patient_until:
                self.dirty |= self.patient
                self.patient.clear()
                patient_until = 0.0
            for transfer in list(self.reading):
                self.guard(transfer.step)
            if self.next_timer and now() >= self.next_timer:
                self.run_timers()
            while self.dirty:
                connection = self.dirty.pop()
                self.patient.discard(connection)
                connection.flush()
            if not self.patient:
                patient_until = 0.0
        end.flush_all()
        return self.main_code if self.main_code >= 0 else 0

    def guard(self, action, *arguments):
        """Keep what goes wrong on one stream or connection there."""
        try:
            action(*arguments)
        except Exception as error:  # the loop serves others too
            owner = getattr(action, "__self__", None)
            connection = owner if isinstance(owner, Connection) else getattr(owner, "connection", None)
            if isinstance(error, (Bad, StructError)) or isinstance(owner, Connection):
                if connection is not None:
                    if not isinstance(error, (Bad, StructError)):
                        self.complain(error)
                    connection.close()
            elif connection is not None and hasattr(owner, "id"):
                self.fail(connection, owner.id, error)
            else:
                self.complain(error)

    def complain(self, error):
        """Write an internal error to stderr, which is the sandbox's log."""
        try:
            posix.write(2, ("aviato agent: %s: %s\n" % (type(error).__name__, error)).encode("utf-8", "replace"))
        except OSError:
            pass

    def run_timers(self):
        """Run what is due."""
        moment = now()
        for key, (due, action) in list(self.timers.items()):
            if due <= moment and self.timers.get(key, (0, None))[1] is action:
                del self.timers[key]
                self.guard(action)
        self.next_timer = min((due for due, _ in self.timers.values()), default=0.0)

    def discard(self, fd):
        """Read and drop what comes from `fd`, for the sake of a process left behind."""

        def drop(_events):
            try:
                if posix.readv(fd, [self.sink]):
                    return
            except OSError as error:
                if error.errno in AGAIN:
                    return
            self.unwatch(fd)
            close(fd)
            self.discarded.remove(fd)

        self.discarded.append(fd)
        self.watch(fd, IN, drop)
        if len(self.discarded) > DISCARD_MAX:
            oldest = self.discarded.popleft()
            self.unwatch(oldest)
            close(oldest)

    def touch(self):
        """Restart the clocks that run while nobody is here or nothing is done."""
        if self.end.reason:
            return
        idle, orphan = self.config.get("idle_ms") or 0, self.config.get("orphan_ms") or 0
        if idle:
            if self.children or any(not isinstance(item, Process) for item in self.streams.values()):
                self.timers.pop(IDLE, None)
            else:
                self.at(IDLE, idle / 1000.0, lambda: self.end.begin(IDLE, 1.0))
        if orphan:
            if self.clients:
                self.timers.pop(ORPHANED, None)
            elif ORPHANED not in self.timers:
                self.at(ORPHANED, orphan / 1000.0, lambda: self.end.begin(ORPHANED, 1.0))

    # Clients

    def on_listener(self, _events):
        """Accept a client."""
        fd = call("accept4", self.listener, None, None, posix.O_CLOEXEC | posix.O_NONBLOCK)
        if fd < 0:  # none there, or no descriptor left: try again soon rather than spin
            self.unwatch(self.listener)
            self.at("listen", 0.1, lambda: self.watch(self.listener, IN, self.on_listener))
        elif len(self.clients) >= CLIENTS_MAX:
            close(fd)
        else:
            self.add_client(fd)

    def add_client(self, fd):
        """Serve a connected stream."""
        Connection(self, fd)
        self.touch()

    def fail(self, connection, stream, error):
        """Answer with ERROR and forget the stream."""
        if isinstance(error, OSError) and error.errno:
            number, message = error.errno, error.strerror or posix.strerror(error.errno)
        else:
            number, message = errno.EIO, "%s: %s" % (type(error).__name__, error)
        item = self.streams.get(stream)
        if item is not None and item.connection is connection:
            item.release()
        connection.error(stream, number, message)

    # Commands

    def kill(self, pid, signal):
        """Send a signal; a process that is gone, or another user's, is no error."""
        try:
            posix.kill(pid, signal)
        except OSError:
            pass

    def on_child(self, _events):
        """Reap whatever ended."""
        signals = b""
        try:
            while True:
                signals = posix.read(self.wake, 4096)
                if self.config.get("stop_at_sigterm") and SIGTERM in signals:
                    self.end.begin(BY_REQUEST, 0.0 if self.end.reason else FOREVER)
        except OSError:
            pass
        self.reap()

    def hurry(self, wanted):
        """Take short turns while several commands run."""
        if wanted != self.prompt:
            self.prompt = wanted
            be_prompt(wanted)

    def reap(self):
        """Reap; at the end of the sandbox tell when nobody is left."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                if self.end.reason:
                    self.end.finish()
                return
            if not pid:
                return
            if pid == self.main_pid:
                self.main_pid = 0
                signal = status & 0x7F
                self.main_code = 128 + signal if signal else status >> 8 & 0xFF
                if not self.end.reason:
                    self.end.begin(MAIN_EXITED, 0.0)
            process = self.children.pop(pid, None)
            if process is not None:
                self.guard(process.reaped, status)
                if not self.children:
                    self.hurry(wanted=False)
                    self.touch()

    # The beginning

    def prepare(self):
        """Become the first process of the sandbox and start its main command."""
        close_on_exec()
        if self.pid != 1 and call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise RuntimeError("prctl(PR_SET_CHILD_SUBREAPER) was refused")
        if self.refuse_rights:
            give_up_rights()
        posix.umask(0o022)
        write_secrets(self.config)
        self.wake, wake_end = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        hear_signals(wake_end)
        self.watch(self.wake, IN, self.on_child)
        self.supervisor = Supervisor(self, self.config.get("control_fd", -1))
        if self.listener >= 0:
            posix.set_blocking(self.listener, False)
            self.watch(self.listener, IN, self.on_listener)
        for fd in self.config.get("client_fds") or ():
            self.add_client(fd)
        if self.config.get("door_fd", -1) >= 0:
            Door(self, self.config["door_fd"], self.config["door_token"])
        for visitor in self.config.get("visitors") or ():
            Connection(self, *visitor)
        if self.config.get("lifetime_ms"):
            self.end.extend(self.config["lifetime_ms"])
        self.touch()
        if self.config.get("memory_bytes"):
            Watchdog(self, self.config["memory_bytes"]).look()
        if self.config.get("main"):
            start_main(self, self.config["main"])
        self.supervisor.tell("ready\n")
        if self.main_code >= 0:
            self.end.begin(MAIN_EXITED, 0.0)


def main(config):
    """Run the agent with the configuration that `bootstrap` describes, and end the process."""
    try:
        hide()
        agent = Agent(config)
        agent.prepare()
    except Exception as error:  # fail closed: nothing runs half protected
        posix.write(2, ("aviato agent: %s: %s\n" % (type(error).__name__, error)).encode("utf-8", "replace"))
        posix._exit(70)  # noqa: SLF001 - its public name is in a module that is not loaded
    code = agent.run()
    if agent.pid != 1:
        agent.end.everyone(SIGKILL)
    posix._exit(code)  # noqa: SLF001 - its public name is in a module that is not loaded
