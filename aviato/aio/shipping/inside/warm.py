"""The interpreter that waits in a sandbox for calls of one function; stdlib only, Python 3.8 and later.

It is started once, as `python3 -c BOOT`, and given on its standard input what it needs and then one call after the
other, each preceded by its length in 8 bytes, big-endian::

    program  bundle  token  call  call  ...

Each call runs in a fork of its own, made before the call is there, so that no state of one is ever seen by another
and a call waits for no fork. When a call is over, everything it started in its process group is killed. A call that
ends without an answer takes the interpreter with it, in the same way, so that the client sees how it ended.
Where there is no fork, an interpreter serves one call and ends.
"""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB, S110, SIM105 - what Python 3.8 has

from __future__ import annotations

import _signal as signal  # the one in C: what a fork touches it has to copy, page by page
import gc
import json
import os
import sys

from aviato.aio.shipping.inside.definitions import Bundle
from aviato.aio.shipping.inside.runner import ERROR, READY, Teller, answer, describe, finish, flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

DONE, END = b"d", b"e"
AHEAD = int(os.environ.get("AHEAD","1"))
"""Forks that wait for their turn."""


def take(size: int) -> bytearray:
    """Read so many bytes of the input, no more; at its end the process is over."""
    found = bytearray(size)
    view, got = memoryview(found), 0
    while got < size:
        if size - got > 65536 and hasattr(os, "readv"):
            count = os.readv(0, [view[got : got + 1048576]])
        else:
            piece = os.read(0, min(size - got, 65536))
            count = len(piece)
            view[got : got + count] = piece
        if not count:
            os._exit(0)
        got += count
    return found


def take_message() -> bytearray:
    """Read one message."""
    return take(int.from_bytes(take(8), "big"))


class Work:
    """The function, or why it could not be made."""

    def __init__(self, document: bytearray, teller: Teller) -> None:
        self.teller = teller
        self.failure: list[Any] | None = None
        self.function: Any = None
        try:
            parts = json.loads(document.decode("ascii"))
            self.function = Bundle(parts).value(parts["entry"])
        except BaseException as error:  # a bundle runs the user's code
            self.failure = describe(error, "define")

    def rehearse(self, nowhere: int) -> None:
        """Go through a call of nothing: a fork copies what it touches page by page, and does so now, ahead of its turn."""
        self.run(bytearray(b"[[],{}]"), lambda: None, Teller(self.teller.head[1:], nowhere, nowhere))

    def call(self) -> None:
        """Read one call, run it and tell what came of it."""
        body = take_message()
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        if self.failure is not None:
            self.teller.last(ERROR, self.failure)
        else:
            self.run(body, self.function, self.teller)

    def run(self, body: bytearray, function: Any, teller: Teller) -> None:
        """Run one call."""
        me = os.getpid()
        args, kwargs = json.loads(body.decode("ascii"))
        body.clear()
        kind, pieces = answer(function, args, kwargs, teller)
        if os.getpid() != me:  # a child that the function forked came back through here
            flush()
            os._exit(0)
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
        self.spares: list[tuple[int, int]] = []
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.tell, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Serve until the input ends."""
        for _ in range(int(os.environ.get("WARM","16"))):
            self.work.rehearse(self.nowhere)
        gc.collect()
        gc.freeze()
        while True:
            while len(self.spares) < AHEAD:
                self.spares.append(self.fork())
            pid, go = self.spares.pop(0)
            try:
                os.write(go, DONE)
            except OSError:  # somebody killed it while it waited
                pid = 0
            os.close(go)
            if pid:
                self.spares.append(self.fork())
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
            for _, other in self.spares:
                os.close(other)
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
    document = take_message()
    teller = Teller(bytes(take_message()))
    sys.argv = [""]
    sys.path[0] = os.getcwd()
    work = Work(document, teller)
    del document
    teller.frame(READY, [])
    if hasattr(os, "fork"):
        Forks(work).serve()
    work.call()


if __name__ == "__main__":
    _own = sys.modules["__main__"]  # kept alive: the function's own module may take the name
    main()
