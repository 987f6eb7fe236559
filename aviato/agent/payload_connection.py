"""One client's connection inside the sandbox."""

import posix
from _collections import deque

from aviato.agent.payload_requests import dispatch
from aviato.agent.payload_system import (
    AGAIN,
    Bad,
    ERROR,
    HEADER,
    HELLO_SECONDS,
    IN,
    MAX_PAYLOAD,
    OUT,
    OUT_MAX,
    S_U32,
    close,
)


class Connection:
    """One client, on one stream, or on a pair of pipes with a socket that tells its bringer when it is over."""

    def __init__(self, agent, fd, out_fd=-1, lifeline=-1):
        self.agent = agent
        self.fd = fd
        self.out_fd = out_fd if out_fd >= 0 else fd
        self.lifeline = lifeline
        self.buffer = bytearray()
        self.out = deque()
        self.queued = 0
        self.ready = False  # said hello
        self.writing = False  # waits until the socket takes more
        self.streams = {}
        self.waiting = set()  # outputs and files that stopped because too much was queued
        posix.set_blocking(fd, False)
        posix.set_blocking(self.out_fd, False)
        agent.watch(fd, IN, self.on_event)
        agent.clients.add(self)
        agent.at((self, "hello"), HELLO_SECONDS, self.close)

    def push(self, data):
        """Queue bytes; they leave at the end of the turn."""
        self.out.append(data)
        self.queued += len(data)
        self.agent.dirty.add(self)

    def frame(self, type_, stream, payload):
        """Queue a frame."""
        self.push(HEADER.pack(len(payload), type_, stream) + payload)

    def error(self, stream, number, message):
        """Queue an ERROR, which ends the stream."""
        text = message.encode("utf-8", "replace")[:4096]
        self.frame(ERROR, stream, S_U32.pack(number) + S_U32.pack(1) + S_U32.pack(len(text)) + text)

    def on_event(self, events):
        """Read frames, or go on writing."""
        if events & OUT:
            self.flush()
        if not events & ~OUT or self.fd < 0:
            return
        try:
            data = posix.read(self.fd, 262144)
        except OSError as error:
            if error.errno in AGAIN:
                return
            data = b""
        if not data:
            self.close()
            return
        buffer = self.buffer
        buffer += data
        position, size = 0, len(buffer)
        while size - position >= 13 and self.fd >= 0:
            length, type_, stream = HEADER.unpack_from(buffer, position)
            if length > MAX_PAYLOAD:
                raise Bad("frame too large")
            stop = position + 13 + length
            if stop > size:
                break
            payload = bytes(buffer[position + 13 : stop])
            position = stop
            dispatch(self.agent, self, type_, stream, payload)
        if position:
            del buffer[:position]

    def on_room(self, _events):
        """Go on writing to a pipe of its own, or learn that nobody reads it."""
        self.flush()

    def flush(self):
        """Write what the socket takes; then let those go on that waited for room."""
        out = self.out
        try:
            while out and self.fd >= 0:
                batch = [out[index] for index in range(min(len(out), 64))]
                done = posix.writev(self.out_fd, batch)
                self.queued -= done
                for part in batch:
                    size = len(part)
                    if done < size:
                        out[0] = memoryview(part)[done:]
                        break
                    out.popleft()
                    done -= size
        except OSError as error:
            if error.errno not in AGAIN:
                self.close()
                return
        if self.fd >= 0 and bool(out) != self.writing:
            self.writing = bool(out)
            if self.out_fd == self.fd:
                self.agent.epoll.modify(self.fd, IN | OUT if out else IN)
            elif out:
                self.agent.watch(self.out_fd, OUT, self.on_room)
            else:
                self.agent.unwatch(self.out_fd)
        if self.waiting and self.queued < OUT_MAX // 2:
            waiting, self.waiting = self.waiting, set()
            for stopped in waiting:
                stopped.pump()

    def close(self):
        """Drop the client; its commands stay, its file transfers are undone."""
        if self.fd < 0:
            return
        for fd in {self.fd, self.out_fd}:
            self.agent.unwatch(fd)
            close(fd)
        close(self.lifeline)
        self.fd = self.out_fd = self.lifeline = -1
        self.agent.timers.pop((self, "hello"), None)
        self.agent.clients.discard(self)
        self.agent.dirty.discard(self)
        self.agent.patient.discard(self)
        self.out.clear()
        self.waiting.clear()
        for stream in list(self.streams.values()):
            stream.detach()
        self.streams.clear()
        self.agent.touch()
