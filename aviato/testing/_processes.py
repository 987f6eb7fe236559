"""The processes of a fake sandbox: coroutines with arguments, open files and signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import posixpath
import signal as signals
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aviato.testing._files import FileSystem, Node, failure
from aviato.testing._streams import Open, OpenNode, open_file

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_IGNORED = frozenset(
    {signals.SIGCHLD, signals.SIGCONT, signals.SIGURG, signals.SIGWINCH, signals.SIGSTOP, signals.SIGTSTP}
)

Handler = Callable[[int], object]


class CannotExecuteError(Exception):
    """A program could not be started.

    Attributes:
        code: 126 or 127, as a shell gives it.
        text: `NAME: reason`.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Program:
    """What a running program sees of its surroundings; the argument of every program.

    Attributes:
        argv: The arguments, the name first.
        env: The environment; the program's own copy.
        cwd: The working directory.
        pid: Number of the process in its sandbox.
        files: The sandbox's file system.
    """

    def __init__(self, process: Process, kernel: Kernel, argv: Sequence[str]) -> None:
        self.process = process
        self.kernel = kernel
        self.argv = list(argv)
        self.env = process.env
        self.files = kernel.files

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self.process.pid

    @property
    def cwd(self) -> str:
        """The working directory."""
        return self.process.cwd

    async def read(self, size: int = -1) -> bytes:
        """Read standard input: at most `size` bytes, or all of it.

        Raises:
            OSError: It is closed.
        """
        if size >= 0:
            return await self.process.open(0).read(size)
        parts: list[bytes] = []
        while piece := await self.process.open(0).read(65536):
            parts.append(piece)
        return b"".join(parts)

    async def read_line(self) -> bytes:
        """Read a line of standard input with its newline; empty at the end.

        Raises:
            OSError: It is closed.
        """
        return await self.process.open(0).read_line()

    async def write(self, stream: int | str, data: bytes | str) -> None:
        """Write to `"stdout"` (1) or `"stderr"` (2), waiting while nobody reads.

        Raises:
            OSError: It is closed, or its reader is gone.
        """
        number = {"stdout": 1, "stderr": 2}[stream] if isinstance(stream, str) else stream
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        await self.process.open(number).write(raw)

    def open(self, path: str, *, write: bool = False, append: bool = False, truncate: bool = False) -> OpenNode:
        """Open a file to be read, or with `write` to be written.

        Raises:
            OSError: It cannot be opened.
        """
        return open_file(self.files, path, self.cwd, read=not write, write=write, append=append, truncate=truncate)

    async def complain(self, text: str, code: int = 1) -> int:
        """Write `NAME: text` to standard error; give `code`."""
        await self.write(2, f"{self.argv[0]}: {text}\n")
        return code

    def on_signal(self, number: int, handler: Handler | None) -> None:
        """Call `handler(number)` instead of ending at a signal; None ignores it. SIGKILL cannot be handled.

        Raises:
            ValueError: It is SIGKILL or SIGSTOP.
        """
        if number in (signals.SIGKILL, signals.SIGSTOP):
            raise ValueError(f"signal {number} cannot be handled")
        self.process.handlers[number] = handler


Main = Callable[[Program], Awaitable[int]]


class Process:
    """One process; it ends with its coroutine, with a signal, or with the sandbox.

    Attributes:
        group: Number of the command that it is a part of, in whatever depth.
        status: `(returncode, signal)` once it ended, else None.
    """

    def __init__(
        self, kernel: Kernel, pid: int, *, env: dict[str, str], cwd: str, fds: dict[int, Open], group: int
    ) -> None:
        self.kernel = kernel
        self.pid = pid
        self.env = env
        self.cwd = cwd
        self.fds = fds
        self.group = group
        self.handlers: dict[int, Handler | None] = {}
        self.status: tuple[int, int] | None = None
        self.ended = asyncio.Event()
        self.on_end: list[Callable[[], object]] = []
        self.on_kill: list[Callable[[], object]] = []
        self._task: asyncio.Task[None] | None = None

    def open(self, number: int) -> Open:
        """Return an open file.

        Raises:
            OSError: EBADF.
        """
        found = self.fds.get(number)
        if found is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def put(self, number: int, opened: Open) -> None:
        """Place an open file, closing what was there."""
        self.close(number)
        self.fds[number] = opened

    def close(self, number: int) -> None:
        """Close a file; harmless when it is closed."""
        found = self.fds.pop(number, None)
        if found is not None:
            found.close()

    def share(self) -> dict[int, Open]:
        """Return the open files for a child."""
        return {number: opened.dup() for number, opened in self.fds.items()}

    def begin(self, main: Callable[[], Awaitable[int]], name: str) -> None:
        """Run."""
        self._task = asyncio.get_running_loop().create_task(self._run(main), name=f"aviato-fake-{self.pid}-{name}")
        self.kernel.tasks.add(self._task)
        self._task.add_done_callback(self.kernel.tasks.discard)
        # A task that is cancelled before its first step never reaches its own `finally`.
        self._task.add_done_callback(lambda _task: self.end(128 + signals.SIGKILL, signals.SIGKILL))

    async def _run(self, main: Callable[[], Awaitable[int]]) -> None:
        code, number = 128 + signals.SIGKILL, int(signals.SIGKILL)
        try:
            code, number = int(await main()) & 0xFF, 0
        except asyncio.CancelledError:
            if self.status is None:
                raise
        except BrokenPipeError:
            code, number = 128 + signals.SIGPIPE, int(signals.SIGPIPE)
        except Exception as error:  # noqa: BLE001 - a program's mistake is its own end, not the sandbox's
            if self.status is None:
                with contextlib.suppress(OSError):
                    await self.open(2).write(f"{type(error).__name__}: {error}\n".encode())
            code, number = 1, 0
        finally:
            self.end(code, number)

    def end(self, code: int, number: int) -> None:
        """Note the end and close everything; idempotent."""
        if self.status is not None:
            return
        self.status = (code, number)
        self.kernel.processes.pop(self.pid, None)
        for opened in list(self.fds.values()):
            opened.close()
        self.fds.clear()
        self.ended.set()
        for callback in self.on_end:
            callback()

    def signal(self, number: int) -> None:
        """Deliver a signal."""
        if self.status is not None or number == 0:
            return
        if number != signals.SIGKILL and number in self.handlers:
            handler = self.handlers[number]
            if handler is not None:
                handler(number)
            return
        if number in _IGNORED:
            return
        self.end(128 + number, number)
        for callback in self.on_kill:
            callback()
        if self._task is not None:
            self._task.cancel()


class Kernel:
    """The processes of one sandbox and what they are started from."""

    def __init__(self, files: FileSystem, programs: Mapping[str, Main]) -> None:
        self.files = files
        self.programs = programs
        self.processes: dict[int, Process] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._pids = itertools.count(2)
        for name in programs:
            files.put(f"/usr/bin/{name}", Node(0o755, program=name))

    def find(self, name: str, env: Mapping[str, str], cwd: str) -> Node:
        """Find an executable, by its path or along PATH.

        Raises:
            CannotExecuteError: There is none, or it may not be executed.
        """
        places = [name] if "/" in name else [posixpath.join(d or ".", name) for d in env.get("PATH", PATH).split(":")]
        refused: OSError | None = None
        last: OSError = failure(errno.ENOENT, name)
        for place in places:
            try:
                node = self.files.node(place, cwd)
                if node.entries is not None or not node.mode & 0o111:
                    raise failure(errno.EACCES, place)
                return node
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    refused = error
                last = error
        if refused is not None:
            raise CannotExecuteError(126, f"{name}: {refused.strerror}")
        raise CannotExecuteError(127, f"{name}: {last.strerror if '/' in name else 'command not found'}")

    def resolve(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> tuple[Main, list[str]]:
        """Find what a command runs, and with which arguments: those of an interpreter for a script.

        Raises:
            CannotExecuteError: There is none, or it may not be executed.
        """
        node = self.find(argv[0], env, cwd)
        if node.program:
            return self.programs[node.program], list(argv)
        line = bytes(node.data[:256]).partition(b"\n")[0]
        if not line.startswith(b"#!"):
            raise CannotExecuteError(126, f"{argv[0]}: {os.strerror(errno.ENOEXEC)}")
        words = line[2:].decode("utf-8", "surrogateescape").split()
        if words and posixpath.basename(words[0]) == "env":
            words = words[1:]
        if not words:
            raise CannotExecuteError(126, f"{argv[0]}: {os.strerror(errno.ENOEXEC)}")
        interpreter = self.find(words[0], env, cwd)
        if not interpreter.program:
            raise CannotExecuteError(126, f"{argv[0]}: {os.strerror(errno.ENOEXEC)}")
        return self.programs[interpreter.program], [*words, *argv]

    def spawn(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, fds: dict[int, Open], group: int = 0
    ) -> Process:
        """Start a command; takes the open files over, also when it fails.

        Raises:
            CannotExecuteError: It cannot be executed.
        """
        try:
            main, argv = self.resolve(argv, env, cwd)
        except CannotExecuteError:
            for opened in fds.values():
                opened.close()
            raise
        process = self.make(env, cwd, fds, group)
        program = Program(process, self, argv)
        process.begin(lambda: main(program), argv[0])
        return process

    def make(self, env: Mapping[str, str], cwd: str, fds: dict[int, Open], group: int) -> Process:
        """Make a process that nothing runs in yet."""
        pid = next(self._pids)
        process = self.processes[pid] = Process(self, pid, env=dict(env), cwd=cwd, fds=fds, group=group or pid)
        return process

    def everyone(self, number: int) -> None:
        """Send a signal to all."""
        for process in list(self.processes.values()):
            process.signal(number)

    def tree(self, group: int, number: int) -> None:
        """Send a signal to all of one command."""
        for process in list(self.processes.values()):
            if process.group == group:
                process.signal(number)

    def forget(self) -> None:
        """Forget processes whose event loop is closed."""
        self.processes.clear()
        self.tasks.clear()

    async def wind_up(self) -> None:
        """Wait until no coroutine of a process runs any more."""
        tasks = [task for task in self.tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks)
