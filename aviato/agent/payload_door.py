"""The door: clients that cannot reach a socket of the agent are brought by a process that was started in the sandbox.

Where all that the outside can do is to run a program inside (`docker exec`), that program connects here, says the token
it was given, and hands over its own standard input and output, which from then on are the client's connection. It ends
when its socket is closed.
"""

import _socket
import sys
from _operator import _compare_digest

from aviato.agent.payload_connection import Connection
from aviato.agent.payload_system import CLIENTS_MAX, HELLO_SECONDS, IN, close

TOKEN_MAX = 256


class Door:
    """Lets in who knows the token."""

    def __init__(self, agent, fd, token):
        self.agent = agent
        self.socket = _socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.token = token
        self.waiting = {}
        agent.watch(fd, IN, self.on_knock)

    def on_knock(self, _events):
        """Accept somebody, who then has some seconds to say the token."""
        try:
            fd, _ = self.socket._accept()  # noqa: SLF001 - what `socket.accept` is made of
        except OSError:
            return
        if len(self.waiting) + len(self.agent.clients) >= CLIENTS_MAX:
            close(fd)
            return
        visitor = self.waiting[fd] = _socket.socket(fileno=fd)
        visitor.setblocking(False)
        self.agent.watch(fd, IN, lambda _events: self.on_word(visitor))
        self.agent.at((self, fd), HELLO_SECONDS, lambda: self.forget(visitor).close())

    def forget(self, visitor):
        """Stop waiting for somebody's word."""
        fd = visitor.fileno()
        self.agent.unwatch(fd)
        self.agent.timers.pop((self, fd), None)
        self.waiting.pop(fd, None)
        return visitor

    def on_word(self, visitor):
        """Let somebody in, or not."""
        self.forget(visitor)
        fds = []
        try:
            said, rights, _, _ = visitor.recvmsg(TOKEN_MAX, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
            for _level, _kind, data in rights:
                fds += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data) - 3, 4)]
        except OSError:
            said = b""
        if len(fds) == 2 and _compare_digest(said, self.token):
            Connection(self.agent, *fds, visitor.detach())
            self.agent.touch()
            return
        for fd in fds:
            close(fd)
        visitor.close()
