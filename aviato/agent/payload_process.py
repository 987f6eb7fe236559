"""Commands inside the sandbox: their output, their input, their end."""

import errno
import posix
import select
from _collections import deque

from aviato.agent.payload_system import (
    ACK,
    AGAIN,
    Bad,
    DATA_CHUNK,
    DRAIN_MAX,
    EXIT,
    FLOWING,
    FLOWING_PIPE,
    F_SETPIPE_SZ,
    GAP,
    IN,
    MAX_PAYLOAD,
    OUT,
    OUTPUT,
    OUT_MAX,
    SIGKILL,
    STARTED,
    STDIN_CLOSED,
    STDIN_WINDOW,
    S_CREDIT,
    S_DATA_FRAME,
    S_EXIT_FRAME,
    S_STARTED_FRAME,
    S_U64,
    TIMED_OUT,
    WINDOW,
    call,
    close,
    descendants,
    now,
    processes,
    read_small,
)

KILL_ROUNDS = 20


class Output:
    """One output of a command: what was read, what the client may still be sent, what is kept for it."""

    __slots__ = (
        "armed", "backlog", "base", "budget", "fd", "full", "kept", "limit", "process", "sent", "total", "type",
    )  # fmt: skip

    def __init__(self, process, type_, fd, limit):
        self.process = process
        self.type = type_
        self.fd = fd
        self.limit = limit
        self.sent = self.total = self.base = 0
        self.kept = deque()  # chunks from `base` to `total`
        self.backlog = deque()  # those of them to be sent again
        self.armed = False
        self.full = 0  # reads that took all that a pipe of the usual size holds
        self.budget = -1  # bytes still to be read after the end of the command; -1: it runs

    def pump(self, events=0):
        """Send what credit and the connection allow; arm or disarm the pipe accordingly."""
        process = self.process
        connection = process.connection
        if connection is not None:
            while self.backlog and self.sent < self.limit and connection.queued < OUT_MAX:
                chunk = self.backlog.popleft()
                room = self.limit - self.sent
                if len(chunk) > room:
                    self.backlog.appendleft(chunk[room:])
                    chunk = chunk[:room]
                self.send(connection, chunk)
            while self.fd >= 0 and not self.backlog:
                room = self.limit - self.sent
                if room <= 0 or connection.queued >= OUT_MAX:
                    break
                if room > DATA_CHUNK:
                    room = DATA_CHUNK
                if 0 <= self.budget < room:
                    room = self.budget
                try:
                    chunk = posix.read(self.fd, room) if room else b""
                except OSError as error:
                    if error.errno in AGAIN:
                        if self.budget >= 0:
                            self.finish(at_end=False)
                        elif not self.armed:
                            self.arm()
                        return
                    chunk = b""
                if not chunk:
                    self.finish(at_end=self.budget != 0)
                    return
                self.total += len(chunk)
                self.kept.append(chunk)
                self.send(connection, chunk)
                if self.budget >= 0:
                    self.budget -= len(chunk)
                elif len(chunk) < DATA_CHUNK:
                    break
                else:
                    self.full += 1
                    if self.full == FLOWING:
                        call("fcntl", self.fd, F_SETPIPE_SZ, FLOWING_PIPE)  # refused where the user has too many
                    if events:
                        break  # the others' turn; the pipe is armed and comes back
        if self.fd < 0:
            if not self.backlog:
                process.settle()
            elif connection is not None and connection.queued >= OUT_MAX:
                connection.waiting.add(self)
        else:
            open_ = (
                connection is not None and not self.backlog and self.sent < self.limit and connection.queued < OUT_MAX
            )
            if open_ and not self.armed:
                self.arm()
            elif not open_:
                self.disarm()
                if connection is not None and connection.queued >= OUT_MAX:
                    connection.waiting.add(self)

    def send(self, connection, chunk):
        """Queue one chunk with its offset."""
        size = len(chunk)
        connection.out.append(S_DATA_FRAME.pack(size + 8, self.type, self.process.id, self.sent))
        connection.out.append(chunk)
        connection.queued += size + 21
        self.sent += size
        self.process.agent.dirty.add(connection)

    def arm(self):
        """Wait for the pipe."""
        self.armed = True
        self.process.agent.watch(self.fd, IN, self.pump)

    def disarm(self):
        """Do not wait for the pipe, whose hang-up would be reported again and again."""
        if self.armed:
            self.armed = False
            self.process.agent.unwatch(self.fd)

    def finish(self, at_end):
        """Stop sending: at the end of file, or at the command's own end with the pipe still open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if at_end:
                self.armed = False
                self.process.agent.handlers.pop(fd, None)  # closing ends the watch too
                close(fd)
            else:
                if self.armed:
                    self.armed = False
                    self.process.agent.unwatch(fd)
                self.process.agent.discard(fd)
        self.process.settle()

    def credit(self, limit):
        """Let the client's new limit release what it has consumed."""
        if limit > self.limit:
            self.limit = limit
            kept = self.kept
            while kept and self.base + len(kept[0]) <= limit - WINDOW:
                self.base += len(kept.popleft())
            self.pump()

    def resume(self, connection, offset, limit):
        """Set what is to be sent from `offset` on for a client that attached; say so when that is no longer there."""
        if offset > self.total:
            raise Bad("attached behind the end of the output")
        if offset < self.base:
            which = self.type - OUTPUT + 1
            connection.frame(GAP, self.process.id, S_CREDIT.pack(which, self.base))
            offset = self.base
        self.limit = max(limit, offset)
        self.sent = offset
        self.backlog = deque()
        position = self.base
        for chunk in self.kept:
            end = position + len(chunk)
            if end > offset:
                self.backlog.append(chunk[offset - position :] if position < offset else chunk)
            position = end


class Input:
    """Bytes on their way from a client to a pipe or a file; offsets make repeated frames harmless."""

    __slots__ = ("accepted", "acked", "buffer", "ended", "received")

    def __init__(self):
        self.buffer = deque()
        self.received = self.accepted = self.acked = 0
        self.ended = False

    def take(self, payload):
        """Take a STDIN frame."""
        (offset,) = S_U64.unpack_from(payload, 0)
        if offset > self.received:
            raise Bad("input is not continuous")
        fresh = payload[8 + self.received - offset :]
        if fresh:
            if self.ended or self.received + len(fresh) - self.accepted > STDIN_WINDOW:
                raise Bad("input beyond its end or its window")
            self.buffer.append(fresh)
            self.received += len(fresh)

    def end(self, payload):
        """Take a STDIN_EOF frame."""
        if S_U64.unpack(payload)[0] != self.received:
            raise Bad("input ended at another length than was sent")
        self.ended = True

    def write(self, fd):
        """Write what `fd` takes; OSError as of the write."""
        while self.buffer:
            chunk = self.buffer[0]
            try:
                done = posix.write(fd, chunk)
            except OSError as error:
                if error.errno in AGAIN:
                    return
                raise
            self.accepted += done
            if done == len(chunk):
                self.buffer.popleft()
            else:
                self.buffer[0] = memoryview(chunk)[done:]


class Process:
    """A command asked for by a client, until the client releases it."""

    def __init__(self, agent, connection, stream):
        self.agent = agent
        self.connection = connection
        self.id = stream
        self.pid = 0
        self.marker = b"AVIATO_EXEC_ID=%016x" % stream
        self.outputs = ()
        self.input = None
        self.input_fd = -1
        self.input_broken = False  # the command closed it
        self.flags = 0
        self.status = None  # (returncode, signal) once reaped
        self.told = False  # EXIT was sent to the present client
        self.released = False
        self.began = now()
        self.duration = 0

    def attach(self, connection, offsets, limits):
        """Continue on `connection` from the offsets it holds."""
        if self.connection is not None and self.connection is not connection:
            self.connection.streams.pop(self.id, None)
        self.connection = connection
        self.told = False
        connection.streams[self.id] = self
        if self.input_broken:
            connection.frame(STDIN_CLOSED, self.id, b"")
        if self.pid:
            self.say_started()
        for output, offset, limit in zip(self.outputs, offsets, limits):  # noqa: B905 - `strict` is of 3.10
            output.resume(connection, offset, limit)
        for output in self.outputs:  # when both know what they still owe, for the last of them is followed by EXIT
            output.pump()
        self.settle()

    def say_started(self):
        """Tell the pid and how much input was accepted."""
        accepted = 0
        if self.input:
            accepted = self.input.acked = self.input.accepted
        frame = S_STARTED_FRAME.pack(12, STARTED, self.id, self.pid, accepted)
        self.connection.out.append(frame)
        self.connection.queued += len(frame)
        self.agent.patient.add(self.connection)  # with the first output, or the end, it costs nobody a wake-up

    def take_input(self, payload):
        """Take STDIN."""
        if self.input is None:
            raise Bad("input for a command without")
        self.input.take(payload)
        self.pump_input()

    def end_input(self, payload):
        """Take STDIN_EOF."""
        if self.input is None:
            raise Bad("input for a command without")
        self.input.end(payload)
        self.pump_input()

    def pump_input(self, events=0):
        """Move input into the pipe as far as it takes it."""
        source = self.input
        if self.input_fd < 0:
            source.buffer.clear()
            source.accepted = source.received
            return
        try:
            if events & select.EPOLLERR and not source.buffer:
                raise BrokenPipeError(errno.EPIPE, "closed")
            source.write(self.input_fd)
        except OSError:
            self.close_input()
            self.input_broken = True
            if self.connection is not None:
                self.connection.frame(STDIN_CLOSED, self.id, b"")
            return
        if self.connection is not None and source.acked != source.accepted:
            source.acked = source.accepted
            self.connection.frame(ACK, self.id, S_U64.pack(source.accepted))
        if source.buffer:
            self.agent.epoll.modify(self.input_fd, OUT)
        elif source.ended:
            self.close_input()
        elif events:
            self.agent.epoll.modify(self.input_fd, 0)

    def close_input(self):
        """Close the pipe; what had not been written is dropped."""
        if self.input_fd >= 0:
            self.agent.unwatch(self.input_fd)
            close(self.input_fd)
            self.input_fd = -1
            self.input.buffer.clear()

    def credit(self, which, limit):
        """Take CREDIT."""
        if which not in (1, 2):
            raise Bad("credit for an unknown output")
        self.outputs[which - 1].credit(limit)

    def reaped(self, status):
        """Take note of the end; what the pipes hold now still belongs to the command."""
        self.agent.timers.pop(self, None)
        signal = status & 0x7F
        self.finished(128 + signal if signal else status >> 8 & 0xFF, signal)

    def finished(self, returncode, signal):
        """Keep the status and drain the outputs."""
        self.status = (returncode, signal)
        self.duration = int((now() - self.began) * 1e6)
        self.close_input()
        if self.released:
            return
        for output in self.outputs:
            if output.fd >= 0:
                output.budget = DRAIN_MAX
                output.pump()
        self.settle()

    def settle(self):
        """Send EXIT when all is said."""
        if self.status is None or self.told or self.connection is None:
            return
        out, err = self.outputs
        if out.fd < 0 and err.fd < 0 and not out.backlog and not err.backlog:
            self.told = True
            code, signal = self.status
            self.connection.push(
                S_EXIT_FRAME.pack(30, EXIT, self.id, code, signal, self.flags, self.duration, out.total, err.total)
            )

    def detach(self):
        """Block the command's output until a client comes back."""
        self.connection = None
        for output in self.outputs:
            output.disarm()

    def release(self):
        """Forget the command; if it runs it goes on, and what it writes is dropped."""
        if self.connection is not None:
            self.connection.streams.pop(self.id, None)
            self.connection = None
        self.agent.streams.pop(self.id, None)
        self.released = True
        self.close_input()
        for output in self.outputs:
            output.disarm()
            if output.fd >= 0:
                self.agent.discard(output.fd)
                output.fd = -1

    def tree(self):
        """Find every living process of the command, whatever session it is in now."""
        table = processes()
        agent_pid = self.agent.pid
        leader = self.pid if self.status is None else 0
        found = {pid for pid, (_, _, group, session) in table.items() if leader and leader in (pid, group, session)}
        descendants(table, found)
        for pid in table:
            if pid not in found and pid != agent_pid:
                if self.marker in read_small("/proc/%d/environ" % pid, MAX_PAYLOAD).split(b"\0"):
                    found.add(pid)
        descendants(table, found)
        found.discard(agent_pid)
        return [pid for pid in found if table[pid][0] not in (b"Z", b"X")]

    def signal(self, number, tree):
        """Send a signal to the command, or to all that it started."""
        if not tree:
            if self.status is None:
                self.agent.kill(self.pid, number)
        elif number == SIGKILL:
            self.kill_tree()
        else:
            for pid in self.tree():
                self.agent.kill(pid, number)

    def kill_tree(self, rounds=KILL_ROUNDS):
        """Kill all of it; what forks faster than it is found is looked for again, a while later.

        So is what was just becoming another program: for that moment it has no environment to be known by.
        """
        seen = set()
        for _ in range(8):
            found = [pid for pid in self.tree() if pid not in seen]
            if not found:
                if rounds == KILL_ROUNDS:
                    self.agent.at((self, "again"), 0.05, lambda: self.kill_tree(0))
                return
            seen.update(found)
            for pid in found:
                self.agent.kill(pid, SIGKILL)
        if rounds:
            self.agent.at((self, rounds), 0.05, lambda: self.kill_tree(rounds - 1))

    def timed_out(self):
        """End it because its time is over."""
        self.flags |= TIMED_OUT
        self.kill_tree()
