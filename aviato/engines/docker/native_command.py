"""One command by native execution: an exec of the daemon that speaks as a command of the agent does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import time
from typing import TYPE_CHECKING

from aviato.agent.frames import UNABLE, ExitFlags
from aviato.agent.served_streams import ServedCommand
from aviato.engines.docker import native_scripts
from aviato.engines.docker.api import ApiError
from aviato.engines.docker.native_stream import CommandStream, Marked, Tank
from aviato.exceptions import EngineError

if TYPE_CHECKING:
    from aviato.agent.served import AgentConnection
    from aviato.engines.docker.native import NativeAgent

_STDERR, _SIGKILL = 2, 9
_SIGNALLED, _LAST_SIGNAL = 128, 64
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_KILL_AGAIN_SECONDS = 2.0
_KILLS = 5
_LONGEST_COMPLAINT = 65536
_REASONS = {_NOT_EXECUTABLE: "Permission denied", _NOT_FOUND: "No such file or directory"}
_REFUSAL = b"OCI runtime exec failed"


class NativeCommand(ServedCommand):
    """A command that a client asked for, until the client releases it.

    Attributes:
        over: Set when nothing more comes of it from the daemon.
    """

    def __init__(
        self, agent: NativeAgent, connection: AgentConnection, stream: int, flags: int, limits: tuple[int, int]
    ) -> None:
        self.agent = agent
        self.tanks = (Tank(), Tank())
        super().__init__(agent, connection, stream, flags, limits, self.tanks)
        for tank in self.tanks:
            tank.on_room = self._take_more
        self.over = asyncio.Event()
        self.user = ""
        self._nonce = f"aviato-{secrets.token_hex(12)}".encode()
        self._marked = [Marked(tank, self._nonce) for tank in self.tanks]
        self._argv: list[str] = []
        self._cwd = ""
        self._head: bytes | None = b""
        self._stream_: CommandStream | None = None
        self._exec_id = ""
        self._pid = self._leader = 0
        self._signals: list[tuple[int, bool]] = []
        self._timeout = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._error: OSError | None = None
        self._killed = False

    @property
    def pid(self) -> int:
        """Its number inside the sandbox; without a shell there, on the daemon's machine."""
        return self._pid

    @property
    def marker(self) -> str:
        """What its environment, and that of all it starts, has."""
        return f"{native_scripts.MARKER}={self.stream:016x}"

    def start(self, argv: list[str], env: list[str], cwd: str, user: str, timeout_ms: int) -> None:
        """Start it in the background.

        Raises:
            OSError: Something was asked for that native execution cannot do.
        """
        for item in (*argv, *env, cwd, user):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise OSError(UNABLE, f"arguments that are not UTF-8 need python3 in the image: {item!r}") from None
        shell = self.agent.shell
        if self._input is not None and not self.agent.can_end_input:
            raise OSError(UNABLE, "input for commands over TLS needs python3 in the image: its end cannot be told")
        if shell is None and timeout_ms:
            raise OSError(UNABLE, "timeout_seconds needs a shell in the image: nothing else there can kill the command")
        self._argv, self._timeout, self.user = argv, timeout_ms / 1000, user or self.agent.user
        self._cwd = cwd or self.agent.cwd
        command = argv
        if shell is not None:
            nonce = self._nonce.decode()
            command = [shell, "-c", native_scripts.RUN, nonce, nonce, self._cwd, *argv]
        self.agent.spawn(self._run(command, [*env, self.marker], "/" if shell else self._cwd))

    async def _run(self, command: list[str], env: list[str], cwd: str) -> None:
        try:
            with_input = self._input is not None
            self._exec_id = await self.agent.make_exec(command, env=env, cwd=cwd, user=self.user, stdin=with_input)
            self._stream_ = await CommandStream.start(
                self.agent.api, self._exec_id, self._take, self._over, self._move_input
            )
            if self.agent.shell is None:
                state = await self.agent.inspect_exec(self._exec_id)
                if state.get("Running") and state.get("Pid"):
                    self._started(int(state["Pid"]), 0)
        except ApiError as error:
            self.over.set()
            await self._refused(error.said)
        except EngineError as error:
            self.over.set()
            self._fail(OSError(errno.ECONNRESET, f"the command could not be started: {error}"))
        else:
            self._move_input()

    # Output

    def _take(self, kind: int, data: bytes) -> None:
        index = int(kind == _STDERR)
        if index == 0 and self._head is not None:
            self._head += data
            if self.agent.shell is None:
                if len(self._head) < len(_REFUSAL) and _REFUSAL.startswith(self._head):
                    return
                if self._head.startswith(_REFUSAL) and len(self._head) < _LONGEST_COMPLAINT:
                    return
                data, self._head = self._head, None
            else:
                line, end, rest = self._head.partition(b"\n")
                if not end or not self._read_head(line.split()):
                    return
                self._head, data = None, rest
        if self.agent.shell is None:
            self.tanks[index].put(data)
        else:
            self._marked[index].feed(data)
            codes = [item.code for item in self._marked]
            if None not in codes and self.running:
                self._ended_with(codes[0] or 0)
        if self._stream_ is not None and self.tanks[index].full:
            self._stream_.hold_up(wanted=True)

    def _read_head(self, words: list[bytes]) -> bool:
        """Read the first line; tell whether output follows it."""
        if not words or words[0] != self._nonce or self._status is not None:
            return False
        if words[1] == b"cwd":
            number = int(words[2])  # as Linux counts errors, wherever this client runs
            text = {2: "No such file or directory", 20: "Not a directory"}.get(number, "Permission denied")
            self._fail(OSError(number, f"working directory {self._cwd}: {text}"))
        elif len(words) > 2:  # noqa: PLR2004 - the nonce and two numbers
            self._started(int(words[1]), int(words[2]))
            return True
        else:
            self._not_started(int(words[1]))
        return False

    def _started(self, pid: int, leader: int) -> None:
        self._pid, self._leader = pid, leader
        self._began = time.monotonic()
        self._say_started()
        if self._timeout and self.running:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._timed_out)
        signals, self._signals = self._signals, []
        for number, tree in signals:
            self.signal(number, tree=tree)

    def _not_started(self, code: int) -> None:
        self._flags |= ExitFlags.NOT_STARTED
        text = f"aviato: {self._argv[0]}: {_REASONS.get(code, 'it cannot be executed')}\n"
        self.tanks[1].put(text.encode("utf-8", "replace"))
        self._end(code, 0)

    def _ended_with(self, code: int) -> None:
        number = code - _SIGNALLED
        self._end(code, number if 0 < number <= _LAST_SIGNAL else 0)

    def _end(self, code: int, number: int) -> None:
        for tank in self.tanks:
            tank.close()
        self._ended(code, number)
        self._hang_up()

    def _take_more(self) -> None:
        if self._stream_ is not None and all(tank.low for tank in self.tanks):
            self._stream_.hold_up(wanted=False)

    def _over(self, whole: bool) -> None:
        """Take note that the stream is over; before the command said its end, something is wrong."""
        self.over.set()
        if self.running and self._error is None:
            self.agent.spawn(self._find_out(whole))

    async def _find_out(self, whole: bool) -> None:
        if self._head and not self._pid:
            await self._refused(self._head.decode("utf-8", "replace"))
            return
        if await self.agent.is_over():
            return  # the sandbox's end says more
        if self.agent.shell is None and whole:
            with contextlib.suppress(EngineError):
                state = await self.agent.inspect_exec(self._exec_id, ended=True)
                if not state.get("Running"):
                    if self._head:
                        await self._refused(self._head.decode("utf-8", "replace"))
                    elif self.running:
                        if not self._pid:
                            self._started(int(state.get("Pid") or 1), 0)
                        self._ended_with(int(state.get("ExitCode") or 0))
                    return
        if self._pid and self.agent.shell is not None:
            self.agent.spawn(self._send(_SIGKILL, tree=True))
        self._fail(OSError(errno.ECONNRESET, "the daemon's stream of the command broke off, and with it its output"))

    async def _refused(self, said: str) -> None:
        """Say why the daemon did not start it."""
        text = said.strip()
        low = text.lower()
        ended = any(words in low for words in ("is not running", "no such container", "stopped"))
        if ended and await self.agent.is_over():
            return
        if self.agent.shell is None and (
            "executable file not found" in low or ("exec: " in low and "no such file" in low)
        ):
            self._not_started(_NOT_FOUND)
        elif self.agent.shell is None and ("permission denied" in low or "exec format" in low):
            self._not_started(_NOT_EXECUTABLE)
        elif "resource temporarily unavailable" in low or "cannot allocate" in low:
            self._fail(OSError(errno.EAGAIN, text))
        else:
            self._fail(OSError(errno.EINVAL, text or "the daemon gave no reason"))

    def _fail(self, error: OSError) -> None:
        """Tell the client that there is nothing to wait for, now or when it comes back."""
        if self._error is None and self.running:
            self._error = error
            self._status = (1, 0)
            self._stop_timer()
            self._hang_up()
            if self.connection is not None:
                self.agent.fail(self.connection, self.stream, error)

    def settle(self) -> None:
        """Tell the end when all is said, unless it was an error."""
        if self._error is None:
            super().settle()

    def attach(self, connection: AgentConnection, offsets: tuple[int, ...], limits: tuple[int, ...]) -> None:
        """Go on with a client that comes back."""
        if self._error is not None:
            self.agent.fail(connection, self.stream, self._error)
            return
        super().attach(connection, offsets, limits)

    # Input

    def _move_input(self) -> None:
        source, stream = self._input, self._stream_
        if source is None or stream is None:
            return
        if not self.running:
            source.waiting.clear()
            source.accepted = source.received
            return
        while source.waiting and stream.can_write:
            chunk = source.waiting.popleft()
            stream.write(chunk)
            source.accepted += len(chunk)
        self._accept_input()
        if source.ended and not source.waiting:
            stream.write_eof()

    def _close_input(self) -> None:
        if self._input is not None:
            self._input.waiting.clear()

    # Signals

    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal to the command, or to all it started."""
        if not tree and not self.running:
            return
        if self.agent.shell is None:
            self._fail(OSError(UNABLE, "a signal needs a shell in the image; the command goes on"))
        elif not self._pid:
            if self.running:
                self._signals.append((number, tree))
        else:
            self.agent.spawn(self._send(number, tree=tree))

    async def _send(self, number: int, *, tree: bool) -> None:
        for _ in range(_KILLS):
            with contextlib.suppress(EngineError):
                if tree:
                    arguments = (str(number), str(self._pid), str(self._leader), self.marker)
                    await self.agent.tool(native_scripts.KILL, *arguments, user=self.user)
                else:
                    await self.agent.tool(native_scripts.SIGNAL, str(number), str(self._pid), user=self.user)
                return
            if await self.agent.is_over():
                return
            await asyncio.sleep(_KILL_AGAIN_SECONDS)

    def _timed_out(self) -> None:
        self._flags |= ExitFlags.TIMED_OUT
        self.agent.spawn(self._kill_surely())

    async def _kill_surely(self) -> None:
        for _ in range(_KILLS):
            await self._send(_SIGKILL, tree=True)
            if not self.running:
                return
            await asyncio.sleep(_KILL_AGAIN_SECONDS)
            if not self.running or await self.agent.is_over():
                return
        self._fail(OSError(errno.ECONNRESET, "its time is over, and it could not be killed"))

    # The end

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ended(self, code: int, number: int) -> None:
        self._stop_timer()
        super()._ended(code, number)

    def _hang_up(self) -> None:
        self.over.set()
        if self._stream_ is not None:
            self._stream_.abort()

    def drop(self) -> None:
        """Let its stream go; the command may go on."""
        self._stop_timer()
        self._hang_up()
