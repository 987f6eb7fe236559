"""One call of a function inside a sandbox: what it gives, what it raises, and how the client is told; Python 3.8 on.

Everything the client hears is a *frame* among what the function prints on standard output::

    MARK TOKEN KIND LENGTH PAYLOAD        1, 16, 1, 8 (big-endian) and LENGTH bytes

TOKEN is a secret of one call, which comes with it, so that what a function prints is never taken for a frame by
accident, and what an earlier call left running cannot speak for this one; code that looks for it can forge its own
answer. What stands between frames is what the function printed. Before its last frame a call writes `MARK TOKEN` to
standard error, which tells where that ends.
"""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB - what Python 3.8 has, and as few imports as can be

from __future__ import annotations

import _thread
import atexit
import json
import os
import sys

from aviato.aio.shipping.inside.refused import NotCarried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Answer = tuple[bytes, list[Any]]
    Write = Callable[[Any, str], list[Any]]

MARK = b"\0"
TOKEN_BYTES = 16
READY, BEGUN, VALUE, ITEM, ERROR, NOT_CARRIED = b"r", b"b", b"v", b"i", b"e", b"n"
"""Kinds of frames.

The definitions are made; a call was read; it returned; it yielded; it raised; it gave what cannot travel.
"""
ONCE = b"once"
"""Says, with `READY`, that the interpreter ends after one call."""
MESSAGE_LIMIT = 64 * 1024
TRACEBACK_LIMIT = 256 * 1024
OWN_FILE = "<aviato>"


def write_all(number: int, pieces: list[Any]) -> None:
    """Write all pieces, however large."""
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while len(view):
            view = view[os.write(number, view) :]


def short(text: str, limit: int) -> str:
    """Keep both ends of a long text."""
    return text if len(text) <= limit else text[: limit // 2] + "\n[...]\n" + text[-limit // 2 :]


def describe(error: BaseException, stage: str) -> list[Any]:
    """Return, as JSON, what the client is told of an exception."""
    import traceback

    try:
        message = str(error)
    except Exception as inner:  # the class is the function's own and may do anything
        message = "<its text cannot be had: %s>" % type(inner).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == OWN_FILE:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception as inner:  # likewise
        text = "<the traceback cannot be shown: %s>" % type(inner).__name__
    told = {
        "type": type(error).__qualname__,
        "module": str(type(error).__module__),
        "message": short(message, MESSAGE_LIMIT),
        "traceback": short(text, TRACEBACK_LIMIT),
        "stage": stage,
    }
    return [json.dumps(told).encode("ascii")]


class Teller:
    """Writes frames, to descriptors that stay what they are when the function redirects its output."""

    def __init__(self, out: int, err: int) -> None:
        self.head = MARK
        self.out = out
        self.err = err

    def frame(self, kind: bytes, pieces: list[Any]) -> None:
        """Write one frame after what was printed before."""
        flush()
        size = sum(map(len, pieces))
        head = self.head + kind + size.to_bytes(8, "big")
        if size < 65536:
            write_all(self.out, [head + b"".join(pieces)])
        else:
            write_all(self.out, [head] + pieces)

    def last(self, kind: bytes, pieces: list[Any]) -> None:
        """Write the frame that ends a call."""
        flush()
        write_all(self.err, [self.head])
        self.frame(kind, pieces)


def flush() -> None:
    """Let go of what was printed and still lies in buffers."""
    streams = [sys.stdout, sys.stderr]
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        streams += [sys.__stdout__, sys.__stderr__]
    for stream in streams:
        try:
            stream.flush()  # type: ignore[union-attr]  # None is an AttributeError, as anything else that has none
        except Exception:
            pass


def finish() -> None:
    """Do what an interpreter does at its end: wait for threads, then run what the call registered for it."""
    if _thread._count() and "threading" in sys.modules:
        sys.modules["threading"]._shutdown()  # type: ignore[attr-defined]  # what the interpreter calls
    if atexit._ncallbacks():
        atexit._run_exitfuncs()


def refuse(error: NotCarried) -> Answer:
    """Say that what the function gave cannot travel."""
    return NOT_CARRIED, [("it ran, but %s" % error).encode("utf-8", "backslashreplace")]


def answer(function: Any, args: Any, kwargs: Any, teller: Teller, write: Write) -> Answer:
    """Call a function and return the last frame of its outcome; the items of a generator are told as they come."""
    try:
        value = function(*args, **kwargs)
        if hasattr(value, "__await__") or hasattr(value, "__anext__"):
            import asyncio

            value = asyncio.run(wait(value, teller, write))
        elif type(value).__name__ == "generator":
            for item in value:
                teller.frame(ITEM, write(item, "item"))
            value = None
    except NotCarried as error:
        return refuse(error)
    except BaseException as error:  # sys.exit and KeyboardInterrupt are the function's as well
        return ERROR, describe(error, "call")
    try:
        return VALUE, write(value, "result")
    except NotCarried as error:
        return refuse(error)


async def wait(value: Any, teller: Teller, write: Write) -> Any:
    """Wait for what an asynchronous function gives."""
    if hasattr(value, "__await__"):
        return await value
    async for item in value:
        teller.frame(ITEM, write(item, "item"))
    return None
