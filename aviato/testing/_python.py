"""`python` in a fake sandbox: code on a thread of this process, with the sandbox's own streams and files."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import ctypes
import io
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any, NoReturn, TypeVar

from aviato.testing._processes import Program
from aviato.testing._pymodules import Hub, make_modules, open_for

T = TypeVar("T")

_FLAGS = ("-u", "-I", "-S", "-E", "-B", "-s", "-P", "-q")
_FLAGS_WITH_VALUE = ("-X", "-W")
_PATIENCE = 0.1
"""Seconds that killed code has to call something of ours."""


class KilledError(BaseException):
    """Ends the code of a process that was killed; not to be caught by it."""


class _Raw(io.RawIOBase):
    """A standard stream of the code: reads and writes the process's open file."""

    def __init__(self, hub: Hub, number: int, mode: str) -> None:
        self._hub = hub
        self._number = number
        self.over = False
        self.mode = mode
        self.name = f"<{('stdin', 'stdout', 'stderr')[number]}>"

    def fileno(self) -> int:
        """Return its number in the sandbox."""
        return self._number

    def readable(self) -> bool:
        """Tell whether it can be read."""
        return self.mode == "r"

    def writable(self) -> bool:
        """Tell whether it can be written."""
        return self.mode == "w"

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        data = self._hub.read(self._number, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Write all of it."""
        raw = bytes(data)
        if not self.over:  # the collector flushes what a killed program had not written, and it goes nowhere
            self._hub.write(self._number, raw)
        return len(raw)


class _Thread(Hub):
    """Runs the code, and is how it reaches the sandbox."""

    def __init__(self, ctx: Program) -> None:
        self.ctx = ctx
        self._loop = asyncio.get_running_loop()
        self._killed = threading.Event()
        self._exit_code = 137
        self._done: asyncio.Future[int] = self._loop.create_future()
        self._ident = 0
        self._running = False

    def check(self) -> None:
        """End the code if its process was killed.

        Raises:
            KilledError: It was.
        """
        if self._killed.is_set():
            raise KilledError

    def exit(self, code: int) -> NoReturn:
        """End at once, as `os._exit` does: nothing is flushed, and what catches the exception gets no further.

        Raises:
            KilledError: Always.
        """
        self._exit_code = code & 0xFF
        self._killed.set()
        raise KilledError

    def sleep(self, seconds: float) -> None:
        """Wait, unless killed."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self._killed.wait(seconds)
        self.check()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop, where everything else of the sandbox happens."""

        async def run() -> T:
            return function()

        return self.wait(run())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            KilledError: The process was killed meanwhile.
        """
        if self._killed.is_set() or self._loop.is_closed():
            coroutine.close()
            raise KilledError
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            try:
                return future.result(0.5)
            except TimeoutError:
                if future.done():
                    raise
                if self._killed.is_set() or self._loop.is_closed():
                    future.cancel()
                    raise KilledError from None
            except asyncio.CancelledError:
                raise KilledError from None

    def kill(self) -> None:
        """Let the code end at its next call of ours; where it only computes, a moment later wherever it is.

        An exception from outside may come up anywhere, also in what belongs to this process, so it is the last resort.
        """
        self._killed.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the thread with it
            self._loop.call_later(_PATIENCE, self._interrupt)

    def _interrupt(self) -> None:
        if self._running:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), ctypes.py_object(KilledError))

    async def run(self, code: CodeType, argv: list[str]) -> int:
        """Run and give the exit code."""
        thread = threading.Thread(target=self._main, args=(code, argv), name=f"aviato-fake-{self.ctx.pid}", daemon=True)
        self.ctx.process.on_kill.append(self.kill)
        thread.start()
        try:
            return await asyncio.shield(self._done)
        finally:
            self.kill_and_forget(thread)
            while not self._done.done():  # killed: the process has ended for all others, the thread ends soon
                try:
                    await asyncio.shield(self._done)
                except asyncio.CancelledError:
                    continue
            thread.join()

    def kill_and_forget(self, thread: threading.Thread) -> None:
        """Kill, if it still runs."""
        if thread.is_alive() and not self._done.done():
            self.kill()

    def _main(self, code: CodeType, argv: list[str]) -> None:
        self._ident = threading.get_ident()
        self._running = True
        result = 1
        raws = [_Raw(self, 0, "r"), _Raw(self, 1, "w"), _Raw(self, 2, "w")]
        try:
            result = self._run(code, argv, raws)
        except KilledError:
            result = self._exit_code
        finally:
            for raw in raws:
                raw.over = True
            self._running = False
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                self._loop.call_soon_threadsafe(self._set_result, result)

    def _set_result(self, result: int) -> None:
        if not self._done.done():
            self._done.set_result(result)

    def _run(self, code: CodeType, argv: list[str], raws: list[_Raw]) -> int:
        out, err = (io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "surrogateescape") for raw in raws[1:])
        source = io.TextIOWrapper(io.BufferedReader(raws[0]), "utf-8", "surrogateescape")
        modules = make_modules(self, argv, (source, out, err))
        fake_sys = modules["sys"]
        scope: dict[str, Any] = {"__name__": "__main__", "__doc__": None, "__file__": code.co_filename}
        scope["__builtins__"] = self._builtins(modules)
        result = 0
        try:
            exec(code, scope)  # noqa: S102 - this is what a fake `python` is for, and its documentation says so
        except SystemExit as exit_:
            if isinstance(exit_.code, str):
                fake_sys.stderr.write(exit_.code + "\n")
                result = 1
            else:
                result = int(exit_.code or 0) & 0xFF
        except KilledError:
            raise
        except BaseException as error:  # noqa: BLE001 - shown as an interpreter would
            trace = error.__traceback__.tb_next if error.__traceback__ else None
            fake_sys.stderr.write("".join(traceback.format_exception(type(error), error, trace)))
            result = 1
        for stream in (fake_sys.stdout, fake_sys.stderr):
            try:
                stream.flush()
            except OSError:
                result = result or 120
        return result

    def _builtins(self, modules: dict[str, Any]) -> dict[str, Any]:
        real = builtins.__import__

        def fake_import(
            name: str, globals_: Any = None, locals_: Any = None, fromlist: Any = (), level: int = 0
        ) -> Any:
            self.check()
            if level == 0 and name in modules:
                if name == "os.path" and not fromlist:
                    return modules["os"]
                return modules[name]
            return real(name, globals_, locals_, fromlist, level)

        def fake_print(*values: Any, file: Any = None, **options: Any) -> None:
            self.check()
            print(*values, file=modules["sys"].stdout if file is None else file, **options)

        def fake_input(prompt: object = "") -> str:
            modules["sys"].stdout.write(str(prompt))
            modules["sys"].stdout.flush()
            line: str = modules["sys"].stdin.readline()
            if not line:
                raise EOFError("EOF when reading a line")
            return line.removesuffix("\n")

        replaced = {"__import__": fake_import, "print": fake_print, "input": fake_input, "open": open_for(self)}
        return {**vars(builtins), **replaced}


async def python(ctx: Program) -> int:
    """Run `-c CODE`, a script, or what comes on standard input."""
    words = ctx.argv[1:]
    while words and words[0] in (*_FLAGS, *_FLAGS_WITH_VALUE):  # they change nothing here
        del words[: 2 if words[0] in _FLAGS_WITH_VALUE else 1]
    if words and words[0] in ("-V", "--version"):
        await ctx.write(1, f"Python {sys.version.split()[0]}\n")
        return 0
    if words and words[0] == "-c":
        if len(words) == 1:
            return await ctx.complain("Argument expected for the -c option", 2)
        text, name, argv = words[1], "<string>", ["-c", *words[2:]]
    elif words and words[0].startswith("-") and words[0] != "-":
        return await ctx.complain(f"the fake python does not know {words[0]}", 2)
    elif words and words[0] != "-":
        try:
            text = ctx.files.node(words[0], ctx.cwd).data.decode()
        except OSError as error:
            return await ctx.complain(f"can't open file {words[0]!r}: [Errno {error.errno}] {error.strerror}", 2)
        name, argv = words[0], words
    else:
        text, name, argv = (await ctx.read()).decode(), "<stdin>", ["-", *words[1:]]
    try:
        code = compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        await ctx.write(2, "".join(traceback.format_exception_only(type(error), error)))
        return 1
    return await _Thread(ctx).run(code, argv)
