"""What a command writes, on its way to a client, and what a client writes, on its way to a command or a file."""

import posix
from _collections import deque

from aviato.agent.payload_system import (
    AGAIN,
    Bad,
    DATA_CHUNK,
    F_SETPIPE_SZ,
    FLOWING,
    FLOWING_PIPE,
    GAP,
    IN,
    OUT_MAX,
    OUTPUT,
    S_CREDIT,
    S_DATA_FRAME,
    S_U64,
    STDIN_WINDOW,
    WINDOW,
    call,
    close,
)


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
