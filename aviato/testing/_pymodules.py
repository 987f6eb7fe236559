"""The modules `sys`, `os` and `time` as code in a fake sandbox sees them, and its `open`."""

from __future__ import annotations

import abc
import errno
import importlib
import io
import linecache
import os
import posixpath
import stat
import sys
import time
import types
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from aviato.testing._files import failure
from aviato.testing._processes import Program
from aviato.testing._streams import Open, OpenNode, open_file

T = TypeVar("T")
_PURE = frozenset({"fspath", "fsencode", "fsdecode", "strerror", "stat_result", "PathLike", "error"})


class Hub(abc.ABC):
    """How the code reaches its sandbox."""

    ctx: Program

    @abc.abstractmethod
    def check(self) -> None:
        """End the code if its process was killed."""

    @abc.abstractmethod
    def exit(self, code: int) -> NoReturn:
        """End the process at once."""
        raise NotImplementedError

    @abc.abstractmethod
    def sleep(self, seconds: float) -> None:
        """Wait, unless killed."""

    @abc.abstractmethod
    def call(self, function: Callable[[], T]) -> T:
        """Call a function where everything else of the sandbox happens."""

    @abc.abstractmethod
    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""

    def read(self, number: int, size: int) -> bytes:
        """Read an open file of the process."""

        async def run() -> bytes:
            return await self.ctx.process.open(number).read(size)

        return self.wait(run())

    def write(self, number: int, data: bytes) -> int:
        """Write all of it to an open file of the process."""

        async def run() -> None:
            await self.ctx.process.open(number).write(data)

        self.wait(run())
        return len(data)

    def add(self, opened: Open) -> int:
        """Give an open file the lowest free number; on the loop."""
        fds = self.ctx.process.fds
        number = next(n for n in range(len(fds) + 1) if n not in fds)
        fds[number] = opened
        return number


class _File(io.RawIOBase):
    """A file by its number; closing it closes the number."""

    def __init__(self, hub: Hub, number: int, name: Any, mode: str, *, close: bool = True) -> None:
        self._hub = hub
        self._number = number
        self._close = close
        self.name = name
        self.mode = mode

    def fileno(self) -> int:
        """Return the number in the sandbox."""
        return self._number

    def readable(self) -> bool:
        """Tell whether it can be read."""
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        """Tell whether it can be written."""
        return self.mode[0] in "wax" or "+" in self.mode

    def _node(self) -> OpenNode:
        opened = self._hub.ctx.process.open(self._number)
        if not isinstance(opened, OpenNode) or opened.node.device:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        return opened

    def seekable(self) -> bool:
        """Tell whether it is a file."""
        opened = self._hub.ctx.process.fds.get(self._number)
        return isinstance(opened, OpenNode) and not opened.node.device

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go somewhere in it."""

        def run() -> int:
            opened = self._node()
            opened.offset = offset + (0, opened.offset, len(opened.node.data))[whence]
            return opened.offset

        return self._hub.call(run)

    def truncate(self, size: int | None = None) -> int:
        """Cut it, or lengthen it with zeros."""

        def run() -> int:
            opened = self._node()
            length = opened.offset if size is None else size
            data = opened.node.data
            if length <= len(data):
                del data[length:]
            else:
                data.extend(bytes(length - len(data)))
            return length

        return self._hub.call(run)

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        data = self._hub.read(self._number, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Write all of it."""
        return self._hub.write(self._number, bytes(data))

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            super().close()
            if self._close:
                try:
                    self._hub.call(lambda: self._hub.ctx.process.close(self._number))
                except BaseException as error:
                    if type(error).__name__ != "KilledError":  # its files were closed with its process
                        raise


def open_for(hub: Hub) -> Callable[..., Any]:
    """Make the `open` of the code."""

    def fake_open(  # noqa: PLR0917 - the parameters of open()
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        hub.check()
        if opener is not None:
            raise ValueError("the fake open() does not know opener")
        kind = mode.replace("b", "").replace("t", "")
        if kind.rstrip("+") not in ("r", "w", "a", "x"):
            raise ValueError(f"invalid mode: {mode!r}")
        if isinstance(file, int):
            number = file
        else:
            path = os.fsdecode(file)
            letter, plus = kind[0], "+" in kind
            number = hub.call(
                lambda: hub.add(
                    open_file(
                        hub.ctx.files,
                        path,
                        hub.ctx.cwd,
                        read=letter == "r" or plus,
                        write=letter != "r" or plus,
                        append=letter == "a",
                        truncate=letter == "w",
                        exclusive=letter == "x",
                        create=letter != "r",
                    )
                )
            )
        raw = _File(hub, number, file, kind, close=closefd)
        if buffering == 0 and "b" in mode:
            return raw
        buffered: Any
        if "+" in kind and raw.seekable():
            buffered = io.BufferedRandom(raw)
        else:
            buffered = io.BufferedReader(raw) if raw.readable() and kind[0] == "r" else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)

    return fake_open


def _copy(module: types.ModuleType) -> Any:
    """Copy a module, so that what the code sets in it stays there."""
    made = types.ModuleType(module.__name__, module.__doc__)
    made.__dict__.update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    return made


def make_modules(hub: Hub, argv: list[str], streams: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Make the modules that differ from the real ones."""
    fake_sys, fake_time = _copy(sys), _copy(time)
    fake_sys.stdin, fake_sys.stdout, fake_sys.stderr = streams
    fake_sys.__stdin__, fake_sys.__stdout__, fake_sys.__stderr__ = streams
    fake_sys.argv, fake_sys.orig_argv = list(argv), list(hub.ctx.argv)
    fake_sys.executable = "/usr/bin/python3"
    fake_sys.path = list(sys.path)
    fake_sys.modules = dict(sys.modules)
    fake_sys.exit = _exit
    fake_time.sleep = hub.sleep
    fake_os, fake_path = _make_os(hub), None
    fake_path = fake_os.path
    modules = {"sys": fake_sys, "time": fake_time, "os": fake_os, "os.path": fake_path, "posixpath": fake_path}
    fake_sys.modules.update(modules)
    modules["importlib"] = fake_importlib = _copy(importlib)
    fake_importlib.import_module = lambda name, package=None: (
        modules[name] if name in modules else importlib.import_module(name, package)
    )
    modules["linecache"] = fake_linecache = _copy(linecache)
    fake_linecache.cache = {}  # that of this process stays as it is
    return modules


def _exit(code: Any = None) -> None:
    raise SystemExit(code)


def _make_os(hub: Hub) -> Any:  # noqa: C901 - one small function after the other
    ctx, files = hub.ctx, hub.ctx.files
    fake: Any = types.ModuleType("os", "What the fake python knows of os.")
    for name in dir(os):  # constants, exceptions and pure functions; what would touch this machine is left out
        value = getattr(os, name)
        if not name.startswith("__") and (isinstance(value, (int, str)) or name in _PURE):
            setattr(fake, name, value)
    fake.environ = dict(ctx.env)
    fake.getenv = fake.environ.get
    fake.linesep = "\n"

    def on_loop(function: Callable[..., T]) -> Callable[..., T]:
        def call(*args: Any, **options: Any) -> T:
            given = [os.fsdecode(item) if isinstance(item, (bytes, os.PathLike)) else item for item in args]
            return hub.call(lambda: function(*given, **options))

        return call

    def makedirs(path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        del mode
        if not exist_ok and files.exists(path, ctx.cwd):
            raise failure(errno.EEXIST, path)
        files.make_dirs(path, ctx.cwd)

    def change(path: str) -> None:
        files.names(path, ctx.cwd)
        ctx.process.cwd = posixpath.normpath(posixpath.join(ctx.cwd, path))

    def chmod(path: str, mode: int) -> None:
        files.node(path, ctx.cwd).mode = mode & 0o7777

    def open_number(path: str, flags: int, mode: int = 0o777) -> int:
        access = flags & os.O_ACCMODE
        opened = open_file(
            files,
            path,
            ctx.cwd,
            read=access != os.O_WRONLY,
            write=access != os.O_RDONLY,
            append=bool(flags & os.O_APPEND),
            truncate=bool(flags & os.O_TRUNC),
            exclusive=bool(flags & os.O_EXCL),
            create=bool(flags & os.O_CREAT),
            mode=mode & ~0o022,
        )
        return hub.add(opened)

    def close(number: int) -> None:
        ctx.process.open(number)
        ctx.process.close(number)

    def dup2(old: int, new: int, inheritable: bool = True) -> int:
        del inheritable
        if old != new:
            ctx.process.put(new, ctx.process.open(old).dup())
        return new

    def kill(pid: int, number: int) -> None:
        process = ctx.kernel.processes.get(pid)
        if process is None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        process.signal(number)

    functions: dict[str, Callable[..., Any]] = {
        "chdir": change,
        "chmod": chmod,
        "close": close,
        "dup": lambda number: hub.add(ctx.process.open(number).dup()),
        "dup2": dup2,
        "getcwd": lambda: ctx.cwd,
        "getpid": lambda: ctx.pid,
        "kill": kill,
        "listdir": lambda path=".": files.names(path, ctx.cwd),
        "lstat": lambda path: files.node(path, ctx.cwd, follow=False).stat(),
        "makedirs": makedirs,
        "mkdir": lambda path, mode=0o755: files.make_dir(path, mode, ctx.cwd),
        "open": open_number,
        "readlink": lambda path: _link(files.node(path, ctx.cwd, follow=False).target, path),
        "remove": lambda path: files.remove(path, ctx.cwd),
        "rename": lambda old, new: files.rename(old, new, ctx.cwd),
        "replace": lambda old, new: files.rename(old, new, ctx.cwd),
        "rmdir": lambda path: files.remove(path, ctx.cwd, directory=True),
        "stat": lambda path: files.node(path, ctx.cwd).stat(),
        "symlink": lambda target, path: files.link(target, path, ctx.cwd),
        "unlink": lambda path: files.remove(path, ctx.cwd),
    }
    for name, function in functions.items():
        setattr(fake, name, on_loop(function))
    fake._exit = hub.exit  # noqa: SLF001 - its name
    fake.getuid = fake.geteuid = fake.getgid = fake.getegid = lambda: 0
    fake.cpu_count = lambda: 1
    fake.read, fake.write = hub.read, hub.write
    opener = open_for(hub)
    fake.fdopen = opener
    fake.path = _make_path(fake)
    return fake


def _link(target: str, path: str) -> str:
    if not target:
        raise failure(errno.EINVAL, path)
    return target


def _make_path(fake_os: Any) -> Any:
    path = _copy(posixpath)

    def kind(test: Callable[[int], bool]) -> Callable[[Any], bool]:
        def check(name: Any) -> bool:
            try:
                return test(fake_os.stat(name).st_mode)
            except OSError:
                return False

        return check

    path.exists = kind(lambda _mode: True)
    path.isfile, path.isdir = kind(stat.S_ISREG), kind(stat.S_ISDIR)
    path.getsize = lambda name: fake_os.stat(name).st_size
    path.abspath = lambda name: posixpath.normpath(posixpath.join(fake_os.getcwd(), os.fsdecode(name)))
    path.expanduser = lambda name: name.replace("~", fake_os.environ.get("HOME", "~"), 1) if name[:1] == "~" else name
    for name in ("realpath", "islink", "ismount", "samefile", "getmtime", "getatime", "getctime", "lexists"):
        path.__dict__.pop(name, None)
    return path
