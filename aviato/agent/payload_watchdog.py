"""The memory limit of a sandbox that has no control group: look often, and kill the biggest.

It is the best that can be done without rights, and said so in the sandbox's isolation report: between two looks more
may be taken than is allowed. What counts is the resident memory of all processes but the agent; pages that several
share count for each.
"""

from __future__ import annotations

import posix

from aviato.agent.payload_system import SIGKILL, read_small

BUSY_SECONDS = 0.02
QUIET_SECONDS = 0.2
PAGE = posix.sysconf("SC_PAGE_SIZE")


class Watchdog:
    """Looks at the memory of everything in the sandbox, as long as the agent runs."""

    def __init__(self, agent, limit):
        self.agent = agent
        self.limit = limit

    def look(self):
        """Kill the biggest process when all together have more than the limit, and look again soon."""
        total, biggest, victim = 0, 0, 0
        for name in posix.listdir("/proc"):
            if not name.isdigit() or int(name) == self.agent.pid:
                continue
            fields = read_small("/proc/" + name + "/statm", 256).split()
            if len(fields) > 1:
                size = int(fields[1]) * PAGE
                total += size
                if size > biggest:
                    biggest, victim = size, int(name)
        if total > self.limit and victim:
            try:
                posix.kill(victim, SIGKILL)
            except OSError:
                pass
        busy = total > self.limit // 4
        self.agent.at("memory", BUSY_SECONDS if busy else QUIET_SECONDS, self.look)
