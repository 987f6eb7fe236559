"""The interpreter that waits in a sandbox for calls of one function; stdlib only, Python 3.8 and later.

It is started once, as `python3 -c BOOT`, and given on its standard input what it needs and then one call after the
other, each preceded by its length in 8 bytes, big-endian::

    program  bundle  token  fresh  call  call  ...

If `fresh` is `1`, each call runs in a fork of its own, made before the call is there, so that no state of one is ever
seen by another and a call waits for no fork. When a call is over, everything it started in its process group is killed.
A call that ends without an answer takes the interpreter with it, in the same way, so that the client sees how it ended.
Where there is no fork, an interpreter serves one call and ends. Without `fresh` calls run one after the other in the
interpreter itself.
"""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB, S110, SIM105 - what Python 3.8 has

from __future__ import annotations

import _signal as signal  # the one in C: what a fork touches it has to copy, page by page
import gc
import importlib
import json
import os
import sys

from aviato.aio.shipping.inside.definitions import Bundle
from aviato.aio.shipping.inside.messages import read_call, write_call, write_result
from aviato.aio.shipping.inside.refused import BadValue
from aviato.aio.shipping.inside.runner import (
    ERROR,
    NOT_CARRIED,
    ONCE,
    READY,
    Teller,
    answer,
    describe,
    finish,
    flush,
    room,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

DONE, END = b"d", b"e"
ASYNCHRONOUS = 0x280
"""Flags of the code of a coroutine and of an asynchronous generator (inspect is slow to import)."""


class Input:
    """What the client sends; apart from descriptor 0, where the function finds nothing."""

    def __init__(self) -> None:
        self.number = os.dup(0)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)

    def take(self, size: int) -> Any:
        """Read so many bytes, no more; at the end of the input the process is over."""
        found = room(size)
        view, got = memoryview(found), 0
        while got < size:
            if hasattr(os, "readv"):
                count = os.readv(self.number, [view[got : got + 1048576]])
            else:
                piece = os.read(self.number, min(size - got, 65536))
                count = len(piece)
                view[got : got + count] = piece
            if not count:
                os._exit(0)
            got += count
        view.release()
        return found

    def message(self) -> Any:
        """Read one message."""
        return self.take(int.from_bytes(self.take(8), "big"))


class Work:
    """The function, or why it could not be made."""

    def __init__(self, document: Any, teller: Teller, source: Input, forks: bool) -> None:
        self.teller = teller
        self.source = source
        self.forks = forks
        self.failure: list[Any] | None = None
        self.function: Any = None
        self.classes: Any = ()
        try:
            parts = json.loads(bytes(document).decode("ascii"))
            made = Bundle(parts)
            self.function, self.classes = made.value(parts["entry"]), made.classes
            code = getattr(self.function, "__code__", None)
            if code is not None and code.co_flags & ASYNCHRONOUS:
                importlib.import_module("asyncio")  # once, and not for each call
        except BaseException as error:  # a bundle runs the user's code
            self.failure = describe(error, "define")

    def rehearse(self, nowhere: int) -> None:
        """Go through a call of nothing, so that the fork copies the pages it will touch now, before its turn."""
        message = b"".join(write_call((), {}, ()))
        self.run(bytearray(message), lambda: None, Teller(self.teller.head[1:], nowhere, nowhere))

    def call(self) -> None:
        """Read one call, run it and tell what came of it."""
        body = self.source.message()
        if self.forks:
            os.close(self.source.number)
        if self.failure is not None:
            self.teller.last(ERROR, self.failure)
        else:
            self.run(body, self.function, self.teller)

    def run(self, body: Any, function: Any, teller: Teller) -> None:
        """Run one call."""
        me = os.getpid()
        try:
            args, kwargs, trusted = read_call(body, self.classes)
        except BadValue as error:
            reason = "its arguments cannot be made in the sandbox: %s" % error
            teller.last(NOT_CARRIED, [reason.encode("utf-8", "backslashreplace")])
            return
        del body

        def write(value: Any, path: str) -> list[Any]:
            return write_result(value, path, self.classes, trusted)

        kind, pieces = answer(function, args, kwargs, teller, write)
        if os.getpid() != me:  # a child that the function forked came back through here
            flush()
            os._exit(0)
        if self.forks:  # else the interpreter does it at its own end
            try:
                finish()
            except BaseException as error:
                kind, pieces = ERROR, describe(error, "call")
        teller.last(kind, pieces)


class Forks:
    """Runs each call in a fork, with the next fork always made ahead."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.news, self.tell = os.pipe()
        os.set_blocking(self.tell, False)
        self.nowhere = os.open(os.devnull, os.O_RDWR)
        self.ended: dict[int, int] = {}
        self.spare = 0, 0
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.tell, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Serve until the input ends."""
        gc.collect()
        gc.freeze()
        self.spare = self.fork()
        while True:
            pid, go = self.spare
            try:
                os.write(go, DONE)
            except OSError:  # somebody killed it while it waited
                pid = 0
            os.close(go)
            self.spare = self.fork()
            if pid:
                self.wait(pid)

    def fork(self) -> tuple[int, int]:
        """Make a process that waits for its turn, and return it with what gives it the turn."""
        turn, go = os.pipe()
        pid = os.fork()
        if pid:
            os.close(turn)
            return pid, go
        status = 1
        try:
            os.close(go)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self.news)
            os.setsid()
            self.work.rehearse(self.nowhere)
            if os.read(turn, 1):
                os.close(turn)
                self.work.call()
                os.write(self.tell, DONE)
            status = 0
        finally:
            os._exit(status)

    def wait(self, pid: int) -> None:
        """Wait for the end of a call, and leave nothing of it."""
        while DONE not in os.read(self.news, 4096):
            self.reap()
            if pid in self.ended:
                os.write(self.tell, END)  # behind what it may have said before its end
                if DONE in os.read(self.news, 4096):
                    break
                self.end_like(self.ended[pid])
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass
        self.reap()
        self.ended.clear()

    def reap(self) -> None:
        """Note who has ended."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self.ended[pid] = status
        except ChildProcessError:
            return

    def end_like(self, status: int) -> NoReturn:
        """End as a child did."""
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def main() -> None:
    """Serve calls."""
    source = Input()
    document = source.message()
    teller = Teller(bytes(source.message()))
    fresh = source.message() == b"1"
    sys.argv = [""]
    sys.path[0] = os.getcwd()
    forks = fresh and hasattr(os, "fork")
    work = Work(document, teller, source, forks)
    del document
    teller.frame(READY, [ONCE] if fresh and not forks else [])
    if forks:
        Forks(work).serve()
    work.call()
    while not fresh:
        work.call()


if __name__ == "__main__":
    _own = sys.modules["__main__"]  # kept alive: the function's own module may take the name
    main()
