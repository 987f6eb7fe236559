"""The end of a sandbox, from inside: SIGTERM, a grace, SIGKILL, and the last words to whoever listens."""

import posix
import select

from aviato.agent.payload_system import (
    CLOSING,
    FLUSH_SECONDS,
    IDLE,
    LIFETIME,
    ORPHANED,
    S_CLOSING,
    SIGKILL,
    SIGTERM,
    descendants,
    now,
    processes,
)


class End:
    """Whether and why the sandbox ends, and the way there."""

    def __init__(self, agent):
        self.agent = agent
        self.reason = 0  # which of the wire's numbers, once it has begun
        self.grace_over = False
        self.reached = False  # nothing is left to do but to say so

    def extend(self, milliseconds):
        """Let the lifetime end so much later than it would have; the first time, so much after now."""
        agent = self.agent
        known = agent.timers.get(LIFETIME)
        left = max(0.0, known[0] - now()) if known else 0.0
        agent.at(LIFETIME, left + min(milliseconds, 10**12) / 1000.0, lambda: self.begin(LIFETIME, 1.0))

    def everyone(self, signal):
        """Send a signal to every process but this one."""
        agent = self.agent
        if agent.pid == 1:
            agent.kill(-1, signal)
            return
        table = processes()
        for pid in descendants(table, {agent.pid}) - {agent.pid}:
            if table[pid][0] != b"Z":
                agent.kill(pid, signal)

    def begin(self, reason, grace):
        """Begin the end: SIGTERM, `grace` seconds, SIGKILL; a second call can only shorten it."""
        agent = self.agent
        if not self.reason:
            self.reason = reason
            for key in (IDLE, LIFETIME, ORPHANED):
                agent.timers.pop(key, None)
            if grace > 0:
                self.everyone(SIGTERM)
        if grace > 0:
            known = agent.timers.get("grace")
            if known is None or now() + grace < known[0]:
                agent.at("grace", grace, self.kill_all)
            agent.reap()
        else:
            self.kill_all()

    def kill_all(self):
        """Kill everyone, and again until nobody is left; give up on the unkillable after a while."""
        self.everyone(SIGKILL)
        if not self.grace_over:
            self.grace_over = True
            self.agent.at("give up", 2.0, self.finish)
        self.agent.at("grace", 0.02, self.kill_all)
        self.agent.reap()

    def finish(self):
        """Say why, and leave the loop."""
        if self.reached:
            return
        self.reached = True
        agent, reason, code = self.agent, self.reason, self.agent.main_code
        for connection in agent.clients:
            if connection.ready:
                connection.frame(CLOSING, 0, S_CLOSING.pack(reason, code))
        agent.supervisor.tell("closing %d %d\n" % (reason, code))
        if agent.config.get("last_words"):
            posix.write(2, b"%s %d %d\n" % (agent.config["last_words"], reason, code))

    def flush_all(self):
        """Give the clients a moment to take what is queued."""
        until = now() + FLUSH_SECONDS
        while now() < until:
            for connection in list(self.agent.clients):
                connection.flush()
            waiting = [connection for connection in self.agent.clients if connection.out]
            if not waiting:
                return
            poll = select.poll()
            for connection in waiting:
                poll.register(connection.fd, select.POLLOUT)
            poll.poll(max(0.0, until - now()) * 1000)
