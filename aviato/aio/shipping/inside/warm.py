"""The interpreter that waits in a sandbox for calls of one function; stdlib only, Python 3.8 and later.

It is started once, as `python3 -c BOOT`, and given on its standard input what it needs and then one call after the
other, each preceded by its length in 8 bytes, big-endian::

    program  bundle  token  fresh  call  call  ...

Each call begins with a token of its own, and is told as begun before it runs. If `fresh` is `1`, each runs in a fork of
its own, made before the call is there, so that no state of one is ever seen by another and a call waits for no fork.
When a call is over, everything it started in its process group is killed. A call that ends without an answer takes the
interpreter with it, in the same way, so that the client sees how it ended. Where there is no fork, an interpreter
serves one call and ends. Without `fresh` calls run one after the other in the interpreter itself.
"""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB, S110, SIM105 - what Python 3.8 has

from __future__ import annotations

import _signal as signal  # the one in C: what a fork touches it has to copy, page by page
import atexit
import gc
import importlib
import json
import os
import sys

from aviato.aio.shipping.inside.definitions import Bundle
from aviato.aio.shipping.inside.gathered import LARGE_BYTES, Gathered
from aviato.aio.shipping.inside.messages import read_call, write_call, write_result
from aviato.aio.shipping.inside.refused import BadValue
from aviato.aio.shipping.inside.runner import (
    BEGUN,
    ERROR,
    MARK,
    NOT_CARRIED,
    ONCE,
    READY,
    TOKEN_BYTES,
    Teller,
    answer,
    describe,
    finish,
    flush,
)

if hasattr(os, "fork"):
    import fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

TURN, DONE = b"t", b"d"
"""What a fork is told when a call is its own, and what it says after the call."""
FAR = 1000
READ_BYTES = 256 * 1024
REHEARSALS = 20
"""After so many an interpreter has looked up what a call needs and specialized its code, which no fork does again."""
ASYNCHRONOUS = 0x280
"""Flags of the code of a coroutine and of an asynchronous generator (inspect is slow to import)."""


def apart(number: int) -> int:
    """Copy a descriptor to where nobody closes or replaces it by accident."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FAR) if hasattr(os, "fork") else os.dup(number)


class Input:
    """What the client sends; apart from descriptor 0, where the function finds nothing."""

    def __init__(self) -> None:
        self.number = apart(0)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)

    def read(self, most: int) -> bytes:
        """Read what is there, no more than `most` bytes; at the end of the input the process is over."""
        piece = os.read(self.number, min(most, READ_BYTES))
        if not piece:
            os._exit(0)
        return piece

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        pieces = []
        while size:
            piece = self.read(size)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def message(self) -> bytes:
        """Read one message."""
        return self.take(int.from_bytes(self.take(8), "big"))

    def call(self) -> tuple[bytes, Any]:
        """Read the message of a call: its token, and what it says."""
        head = self.take(8 + TOKEN_BYTES)
        size = int.from_bytes(head[:8], "big") - TOKEN_BYTES
        if size < LARGE_BYTES:
            return head[8:], self.take(size)
        gathered = Gathered(size)
        while gathered.missing:
            gathered.add(self.read(gathered.missing))
        return head[8:], gathered


class Work:
    """The function, or why it could not be made."""

    def __init__(self, document: Any, teller: Teller, source: Input, forks: bool) -> None:
        self.teller = teller
        self.source = source
        self.forks = forks
        self.nothing = b"".join(write_call((), {}, ()))
        self.failure: list[Any] | None = None
        self.function: Any = None
        self.classes: Any = ()
        try:
            parts = json.loads(document.decode("ascii"))
            made = Bundle(parts)
            self.function, self.classes = made.value(parts["entry"]), made.classes
            code = getattr(self.function, "__code__", None)
            if code is not None and code.co_flags & ASYNCHRONOUS:
                importlib.import_module("asyncio")  # once, and not for each call
        except BaseException as error:  # a bundle runs the user's code
            self.failure = describe(error, "define")

    def rehearse(self, nowhere: int) -> None:
        """Go through a call of nothing, so that the fork copies the pages it will touch now, before its turn."""
        self.run([self.nothing], lambda: None, Teller(nowhere, nowhere))

    def call(self) -> None:
        """Read one call, run it and tell what came of it."""
        token, message = self.source.call()
        self.teller.head = MARK + token
        if self.forks:
            os.close(self.source.number)
        self.teller.frame(BEGUN, [])
        if self.failure is not None:
            self.teller.last(ERROR, self.failure)
        else:
            held = [message]
            del message
            self.run(held, self.function, self.teller, ends=self.forks)

    def run(self, held: list[Any], function: Any, teller: Teller, ends: bool = False) -> None:
        """Run the call in a list, which is emptied; `ends` tells whether the process is over then."""
        me = os.getpid()
        try:
            args, kwargs, trusted = read_call(held.pop(), self.classes)
        except BadValue as error:
            reason = "its arguments cannot be made in the sandbox: %s" % error
            teller.last(NOT_CARRIED, [reason.encode("utf-8", "backslashreplace")])
            return

        def write(value: Any, path: str) -> list[Any]:
            return write_result(value, path, self.classes, trusted)

        kind, pieces = answer(function, args, kwargs, teller, write)
        if os.getpid() != me:  # a child that the function forked came back through here
            flush()
            os._exit(0)
        if ends:
            try:
                finish()
            except BaseException as error:
                kind, pieces = ERROR, describe(error, "call")
        teller.last(kind, pieces)


class Fork:
    """A process that waits for its turn to serve one call."""

    def __init__(self, work: Work, nowhere: int) -> None:
        turn, self.go = os.pipe()
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(turn)
            os.close(tell)
            return
        status = 1
        try:
            os.close(self.go)
            os.close(self.told)
            far = apart(tell)
            os.close(tell)
            atexit._clear()  # what the definitions registered is not for the end of a call
            os.setsid()
            work.rehearse(nowhere)
            if os.read(turn, 1):
                os.close(turn)
                work.call()
                os.write(far, DONE)
            status = 0
        finally:
            os._exit(status)

    def serve(self) -> None:
        """Let it serve a call that nobody else has read."""
        try:
            os.write(self.go, TURN)
        except OSError:  # somebody killed it while it waited
            pass
        os.close(self.go)

    def wait(self) -> None:
        """Wait for the end of its call, and leave nothing of it; without an answer, end as it did."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # it keeps its number until its group is dead
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.set_blocking(self.told, False)
        try:
            done = os.read(self.told, 1) == DONE
        except BlockingIOError:  # what it started holds the other end, and it said nothing
            done = False
        os.close(self.told)
        if not done:
            end_like(status)


def end_like(status: int) -> NoReturn:
    """End as a child did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def serve_by_forks(work: Work) -> NoReturn:
    """Serve each call in a fork, with the next one always made ahead, until the input ends."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for _ in range(REHEARSALS):
        work.rehearse(nowhere)
    gc.collect()
    gc.freeze()
    spare = Fork(work, nowhere)
    while True:
        serving = spare
        serving.serve()
        spare = Fork(work, nowhere)
        serving.wait()


def main() -> None:
    """Serve calls."""
    source = Input()
    document = source.message()
    teller = Teller(apart(1), apart(2)) if hasattr(os, "fork") else Teller(1, 2)
    teller.head = MARK + source.message()
    fresh = source.message() == b"1"
    sys.argv = [""]
    sys.path[0] = os.getcwd()
    forks = fresh and hasattr(os, "fork")
    work = Work(document, teller, source, forks)
    del document
    teller.frame(READY, [ONCE] if fresh and not forks else [])
    if forks:
        serve_by_forks(work)
    work.call()
    while not fresh:
        work.call()


if __name__ == "__main__":
    _own = sys.modules["__main__"]  # kept alive: the function's own module may take the name
    main()
