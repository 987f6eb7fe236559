"""The agent of a fake sandbox: the frames of the real one, over connections in memory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from aviato.agent.frames import CloseReason, FrameType
from aviato.agent.served import AgentConnection, ServedAgent
from aviato.testing._commands import Command
from aviato.testing._transfers import Reading, Writing

if TYPE_CHECKING:
    from aviato.testing._machine import FakeSandbox


class FakeAgent(ServedAgent):
    """Serves the clients of one sandbox.

    Attributes:
        muted: True when commands can no longer tell their end.
    """

    def __init__(self, sandbox: FakeSandbox) -> None:
        super().__init__(Command, Reading, Writing)
        self.sandbox = sandbox
        self.muted = False

    @property
    def is_ending(self) -> bool:
        """True when nothing more may be started."""
        return self.sandbox.ending is not None

    def touch(self) -> None:
        """Restart the clocks of the sandbox."""
        self.sandbox.touch()

    def shut_down(self, grace_seconds: float) -> None:
        """End the sandbox."""
        self.sandbox.begin_end(CloseReason.SHUTDOWN, grace_seconds)

    def extend(self, connection: AgentConnection, stream: int, seconds: float) -> None:
        """Let the sandbox live longer."""
        self.sandbox.set_lifetime(seconds)
        connection.send(FrameType.EXTENDED, stream)

    def drop_connections(self) -> int:
        """Break every connection, as a network would; give their number."""
        dropped = 0
        for connection in list(self.connections):
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                dropped += 1
                transport.break_off(ConnectionResetError(errno.ECONNRESET, "dropped by a fault switch"))  # type: ignore[attr-defined]  # always a MemoryTransport
        return dropped
