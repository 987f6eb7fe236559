"""The line between the agent and whoever supervises its sandbox from outside; `bootstrap` has the words."""

import posix

from aviato.agent.payload_system import AGAIN, BY_REQUEST, IN, SIGKILL


class Supervisor:
    """Stops and extends the sandbox, is told of its start and end, and takes it along when it ends itself."""

    def __init__(self, agent, fd):
        self.agent = agent
        self.fd = fd
        self.buffer = b""
        if fd >= 0:
            posix.set_blocking(fd, False)
            agent.watch(fd, IN, self.on_order)

    def tell(self, line):
        """Write a line to it, if there is one."""
        if self.fd >= 0:
            try:
                posix.write(self.fd, line.encode())
            except OSError:
                pass

    def on_order(self, _events):
        """Obey, or end with it."""
        try:
            data = posix.read(self.fd, 4096)
        except OSError as error:
            if error.errno in AGAIN:
                return
            data = b""
        if not data:
            self.agent.end.everyone(SIGKILL)
            posix._exit(0)  # noqa: SLF001 - its public name is in a module that is not loaded
        lines = (self.buffer + data).split(b"\n")
        self.buffer = lines.pop()[-4096:]
        for line in lines:
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                if words[0] == b"stop":
                    self.agent.end.begin(BY_REQUEST, int(words[1]) / 1000.0)
                elif words[0] == b"extend":
                    self.agent.end.extend(int(words[1]))
