"""Commands inside the sandbox: what their clients hold of them, their processes, their end."""

import errno
import select

from aviato.agent.payload_system import (
    ACK,
    Bad,
    DRAIN_MAX,
    EXIT,
    MAX_PAYLOAD,
    OUT,
    S_EXIT_FRAME,
    S_STARTED_FRAME,
    S_U64,
    SIGKILL,
    STARTED,
    STDIN_CLOSED,
    TIMED_OUT,
    close,
    descendants,
    now,
    processes,
    read_small,
)

KILL_ROUNDS = 20


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
