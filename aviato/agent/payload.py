"""The agent: the one file that runs inside a sandbox, as its first process.

It starts commands and moves bytes, for any number of connected clients, in one epoll loop. It is given to the
interpreter as a marshalled code object (see `bootstrap`), imports only extension modules, and is written for
Python 3.8 and later. The wire format is `frames`; the host side is `channel`.

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

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs
# `typing` is not loaded inside a sandbox: it costs more memory than all of the agent.

import errno
import posix
import select
import sys
from _collections import deque
from _struct import error as StructError

from aviato.agent.payload_launch import write_secrets
from aviato.agent.payload_start import start, start_main
from aviato.agent.payload_system import (
    AGAIN,
    ATTACH,
    BY_REQUEST,
    Bad,
    be_prompt,
    CLIENTS_MAX,
    CLOSING,
    CREDIT,
    DATA_CHUNK,
    DISCARD_MAX,
    EXTEND,
    EXTENDED,
    FILE_READ,
    FILE_WRITE,
    FLUSH_SECONDS,
    HELLO,
    IDLE,
    IN,
    LIFETIME,
    MAGIC,
    MAIN_EXITED,
    ORPHANED,
    PING,
    PONG,
    PATIENCE,
    PR_SET_CHILD_SUBREAPER,
    RELEASE,
    SHUTDOWN,
    SIGKILL,
    SIGNAL,
    SIGTERM,
    START,
    STDIN,
    STDIN_EOF,
    S_ATTACH,
    S_CLOSING,
    S_CREDIT,
    S_HELLO,
    S_SIGNAL,
    S_START,
    S_U32,
    S_U64,
    S_WELCOME,
    VERSION,
    WELCOME,
    call,
    close,
    close_on_exec,
    descendants,
    give_up_rights,
    hear_signals,
    hide,
    now,
    processes,
)
from aviato.agent.payload_process import (
    Process,
)
from aviato.agent.payload_files import (
    FileRead,
    FileWrite,
)
from aviato.agent.payload_connection import (
    Connection,
)
from aviato.agent.payload_door import Door
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
        self.reason = 0  # why it is ending
        self.grace_over = False
        self.done = False
        self.prompt = False
        self.control = config.get("control_fd", -1)
        self.control_buffer = b""
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
        patient_until = 0.0
        while not self.done:
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
        self.flush_all()
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
        if self.reason:
            return
        idle, orphan = self.config.get("idle_ms") or 0, self.config.get("orphan_ms") or 0
        if idle:
            if self.children or any(not isinstance(item, Process) for item in self.streams.values()):
                self.timers.pop(IDLE, None)
            else:
                self.at(IDLE, idle / 1000.0, lambda: self.stop(IDLE, 1.0))
        if orphan:
            if self.clients:
                self.timers.pop(ORPHANED, None)
            elif ORPHANED not in self.timers:
                self.at(ORPHANED, orphan / 1000.0, lambda: self.stop(ORPHANED, 1.0))

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

    def dispatch(self, connection, type_, stream, payload):
        """Act on one frame."""
        if not connection.ready:
            self.hello(connection, type_, payload)
            return
        item = connection.streams.get(stream)
        if type_ == START or type_ == FILE_READ or type_ == FILE_WRITE:
            if not stream:
                raise Bad("stream 0 is the agent's own")
            try:
                self.open(connection, type_, stream, payload)
            except (Bad, StructError):
                raise
            except Exception as error:  # the stream failed, the others go on
                self.fail(connection, stream, error)
        elif type_ == STDIN or type_ == STDIN_EOF:
            if item is not None:
                if isinstance(item, FileRead):
                    raise Bad("input for a file that is read")
                try:
                    item.take_input(payload) if type_ == STDIN else item.end_input(payload)
                except OSError as error:
                    self.fail(connection, stream, error)
        elif type_ == CREDIT:
            if item is not None:
                item.credit(*S_CREDIT.unpack(payload))
        elif type_ == ATTACH:
            self.attach(connection, stream, payload)
        elif type_ == SIGNAL:
            number, scope = S_SIGNAL.unpack(payload)
            if not 0 < number < 65 or scope > 1:
                raise Bad("no such signal")
            process = self.streams.get(stream)
            if isinstance(process, Process):
                process.signal(number, scope == 1)
        elif type_ == RELEASE:
            if item is not None:
                item.release()
                self.touch()
        elif type_ == PING:
            if len(payload) > 64:
                raise Bad("ping too long")
            connection.frame(PONG, stream, payload)
        elif type_ == SHUTDOWN:
            (grace,) = S_U64.unpack(payload)
            self.stop(BY_REQUEST, min(grace, 10**9) / 1000.0)
        elif type_ == EXTEND:
            self.extend(S_U64.unpack(payload)[0])
            connection.frame(EXTENDED, stream, b"")
        else:
            raise Bad("unknown frame")

    def hello(self, connection, type_, payload):
        """Agree on a version."""
        if type_ != HELLO:
            raise Bad("no hello")
        magic, low, high = S_HELLO.unpack(payload)
        if magic != MAGIC:
            raise Bad("not an aviato client")
        if not low <= VERSION <= high:
            connection.error(0, errno.EPROTO, "this agent speaks version %d, not %d to %d" % (VERSION, low, high))
            connection.flush()
            connection.close()
            return
        connection.ready = True
        self.timers.pop((connection, "hello"), None)
        facts = [sys.version.split()[0].encode(), posix.uname().machine.encode()]
        lengths = b"".join(S_U32.pack(len(fact)) + fact for fact in facts)
        connection.frame(WELCOME, 0, S_WELCOME.pack(MAGIC, VERSION, 0) + S_U32.pack(len(facts)) + lengths)

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

    def open(self, connection, type_, stream, payload):
        """Start a command or a transfer; a known id is the same request again."""
        known = self.streams.get(stream)
        if known is not None:
            if type_ != START or not isinstance(known, Process):
                raise OSError(errno.EEXIST, "the stream is in use")
            known.attach(connection, (0, 0), S_START.unpack_from(payload, 0)[2:])
            return
        if self.reason:
            raise OSError(errno.ESHUTDOWN, "the sandbox is stopping")
        if len(self.streams) >= self.max_processes and not self.evict():
            raise OSError(errno.EAGAIN, "more than %d commands and transfers are open" % self.max_processes)
        if type_ == START:
            start(self, connection, stream, payload)
        else:
            item = (FileRead if type_ == FILE_READ else FileWrite)(self, connection, stream, payload)
            self.streams[stream] = connection.streams[stream] = item
        self.touch()

    def evict(self):
        """Forget the oldest ended command whose client is gone; tell whether there was one."""
        for item in self.streams.values():
            if isinstance(item, Process) and item.connection is None and item.status is not None:
                item.release()
                return True
        return False

    def attach(self, connection, stream, payload):
        """Hand a command to this connection."""
        values = S_ATTACH.unpack(payload)
        process = self.streams.get(stream)
        if isinstance(process, Process):
            process.attach(connection, values[:2], values[2:])
        else:
            connection.error(stream, errno.ESRCH, "the agent does not know this command")

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
                    self.stop(BY_REQUEST, 0.0 if self.reason else FOREVER)
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
                if self.reason:
                    self.finish()
                return
            if not pid:
                return
            if pid == self.main_pid:
                self.main_pid = 0
                signal = status & 0x7F
                self.main_code = 128 + signal if signal else status >> 8 & 0xFF
                if not self.reason:
                    self.stop(MAIN_EXITED, 0.0)
            process = self.children.pop(pid, None)
            if process is not None:
                self.guard(process.reaped, status)
                if not self.children:
                    self.hurry(wanted=False)
                    self.touch()

    # The end

    def extend(self, milliseconds):
        """Let the lifetime end so much later than it would have; the first time, so much after now."""
        known = self.timers.get(LIFETIME)
        left = max(0.0, known[0] - now()) if known else 0.0
        self.at(LIFETIME, left + min(milliseconds, 10**12) / 1000.0, lambda: self.stop(LIFETIME, 1.0))

    def everyone(self, signal):
        """Send a signal to every process but this one."""
        if self.pid == 1:
            self.kill(-1, signal)
            return
        table = processes()
        for pid in descendants(table, {self.pid}) - {self.pid}:
            if table[pid][0] != b"Z":
                self.kill(pid, signal)

    def stop(self, reason, grace):
        """Begin the end: SIGTERM, `grace` seconds, SIGKILL; a second call can only shorten it."""
        if not self.reason:
            self.reason = reason
            for key in (IDLE, LIFETIME, ORPHANED):
                self.timers.pop(key, None)
            if grace > 0:
                self.everyone(SIGTERM)
        if grace > 0:
            known = self.timers.get("grace")
            if known is None or now() + grace < known[0]:
                self.at("grace", grace, self.kill_all)
            self.reap()
        else:
            self.kill_all()

    def kill_all(self):
        """Kill everyone, and again until nobody is left; give up on the unkillable after a while."""
        self.everyone(SIGKILL)
        if not self.grace_over:
            self.grace_over = True
            self.at("give up", 2.0, self.finish)
        self.at("grace", 0.02, self.kill_all)
        self.reap()

    def finish(self):
        """Say why, and leave the loop."""
        if self.done:
            return
        self.done = True
        for connection in self.clients:
            if connection.ready:
                connection.frame(CLOSING, 0, S_CLOSING.pack(self.reason, self.main_code))
        self.tell("closing %d %d\n" % (self.reason, self.main_code))
        if self.config.get("last_words"):
            posix.write(2, b"%s %d %d\n" % (self.config["last_words"], self.reason, self.main_code))

    def flush_all(self):
        """Give the clients a moment to take what is queued."""
        until = now() + FLUSH_SECONDS
        while now() < until:
            for connection in list(self.clients):
                connection.flush()
            waiting = [connection for connection in self.clients if connection.out]
            if not waiting:
                return
            poll = select.poll()
            for connection in waiting:
                poll.register(connection.fd, select.POLLOUT)
            poll.poll(max(0.0, until - now()) * 1000)

    def tell(self, line):
        """Write a line to the supervisor."""
        if self.control >= 0:
            try:
                posix.write(self.control, line.encode())
            except OSError:
                pass

    def on_control(self, _events):
        """Obey the supervisor, and end with it."""
        try:
            data = posix.read(self.control, 4096)
        except OSError as error:
            if error.errno in AGAIN:
                return
            data = b""
        if not data:
            self.everyone(SIGKILL)
            posix._exit(0)  # noqa: SLF001 - its public name is in a module that is not loaded
        lines = (self.control_buffer + data).split(b"\n")
        self.control_buffer = lines.pop()[-4096:]
        for line in lines:
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                if words[0] == b"stop":
                    self.stop(BY_REQUEST, int(words[1]) / 1000.0)
                elif words[0] == b"extend":
                    self.extend(int(words[1]))

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
        if self.control >= 0:
            posix.set_blocking(self.control, False)
            self.watch(self.control, IN, self.on_control)
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
            self.extend(self.config["lifetime_ms"])
        self.touch()
        if self.config.get("memory_bytes"):
            Watchdog(self, self.config["memory_bytes"]).look()
        if self.config.get("main"):
            start_main(self, self.config["main"])
        self.tell("ready\n")
        if self.main_code >= 0:
            self.stop(MAIN_EXITED, 0.0)


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
        agent.everyone(SIGKILL)
    posix._exit(code)  # noqa: SLF001 - its public name is in a module that is not loaded
