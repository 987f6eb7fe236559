"""Commands in a fake sandbox."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from aviato.agent.frames import ExitFlags
from aviato.agent.served_streams import ServedCommand
from aviato.testing._processes import CannotExecuteError, Process
from aviato.testing._streams import Open, OpenNode, Pipe, PipeReader, PipeWriter

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection
    from aviato.testing._agent import FakeAgent


class Command(ServedCommand):
    """A command that a client asked for, until the client releases it."""

    def __init__(
        self, agent: FakeAgent, connection: AgentConnection, stream: int, flags: int, limits: tuple[int, int]
    ) -> None:
        self.agent = agent
        self.pipes = (Pipe(), Pipe())
        for pipe in self.pipes:
            PipeReader(pipe)
        super().__init__(agent, connection, stream, flags, limits, self.pipes)
        self._input_pipe: PipeWriter | None = None
        self._process: Process | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """Its number inside the sandbox, 0 until it is known."""
        return 0 if self._process is None else self._process.pid

    @property
    def may_tell_its_end(self) -> bool:
        """False where a fault switch keeps it back."""
        return not self.agent.muted

    def start(self, argv: list[str], env: list[str], cwd: str, user: str, timeout_ms: int) -> None:
        """Start it.

        Raises:
            OSError: The directory or the user does not exist.
        """
        sandbox = self.agent.sandbox
        kernel = sandbox.kernel
        directory = cwd or sandbox.cwd
        try:
            node = kernel.files.node(directory)
        except OSError as error:
            raise OSError(error.errno, f"working directory {directory}: {error.strerror}") from None
        if node.entries is None:
            raise OSError(errno.ENOTDIR, f"working directory {directory}: Not a directory")
        sandbox.check_user(user)
        merged = {**sandbox.env, **dict(item.split("=", 1) for item in env)}
        fds: dict[int, Open] = {number: PipeWriter(pipe) for number, pipe in enumerate(self.pipes, 1)}
        if self._input is None:
            fds[0] = OpenNode(kernel.files.node("/dev/null"), read=True, write=False)
        else:
            inward = Pipe()
            fds[0], self._input_pipe = PipeReader(inward), PipeWriter(inward)
            inward.on_room = self._input_changed
        try:
            self._process = kernel.spawn(argv, merged, directory, fds)
        except CannotExecuteError as error:
            self._flags |= ExitFlags.NOT_STARTED
            stderr = self.pipes[1]
            stderr.buffer += f"aviato: {error.text}\n".encode("utf-8", "surrogateescape")
            self._ended(error.code, 0)
            return
        process = self._process
        process.on_end.append(lambda: self._ended(*process.status) if process.status else None)
        self._say_started()
        if timeout_ms:
            self._timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._timed_out)

    def _input_changed(self) -> None:
        if self._input_pipe is not None:
            asyncio.get_running_loop().call_soon(self._move_input)

    def _move_input(self) -> None:
        source, writer = self._input, self._input_pipe
        if source is None:
            return
        if writer is None:  # the command does not read any more: whatever comes is dropped
            source.waiting.clear()
            source.accepted = source.received
            return
        try:
            while source.waiting:
                chunk = source.waiting[0]
                done = writer.pipe.give(chunk)
                source.accepted += done
                if done < len(chunk):
                    source.waiting[0] = chunk[done:]
                    break
                source.waiting.popleft()
            if not writer.pipe.readers:
                raise BrokenPipeError(errno.EPIPE, "closed")
        except OSError:
            self._refuse_input()
            return
        self._accept_input()
        if source.ended and not source.waiting:
            self._close_input()

    def _close_input(self) -> None:
        writer, self._input_pipe = self._input_pipe, None
        if writer is not None:
            writer.pipe.on_room = None
            writer.close()

    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal to the command, or to all it started."""
        if self._process is None:
            return
        if tree:
            self.agent.sandbox.kernel.tree(self._process.pid, number)
        else:
            self._process.signal(number)

    def _timed_out(self) -> None:
        self._flags |= ExitFlags.TIMED_OUT
        self.signal(9, tree=True)

    def _ended(self, code: int, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._ended(code, number)
