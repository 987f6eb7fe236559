"""Errors as the user sees them: the same object, without the library's own frames, and with where the work began."""

from __future__ import annotations

import asyncio
import os
import sys
from types import CodeType, TracebackType
from typing import TypeVar

import aviato

E = TypeVar("E", bound=BaseException)

_NOTE = "started at "
_OWN = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - code objects name their files with strings
_LIBRARY = (_OWN, os.path.dirname(aviato.__file__) + os.sep, os.path.dirname(asyncio.__file__) + os.sep)  # noqa: PTH120 - likewise

Origin = tuple[CodeType, int]
"""A place in the user's program: a frame would keep its variables alive, and its line is only looked up when needed."""


ELSEWHERE: Origin = (compile("", "elsewhere", "exec"), 0)
"""The place of what began on the loop's own thread."""


def origin() -> Origin:
    """Return the innermost place outside this package."""
    frame = sys._getframe(2)  # noqa: SLF001 - inspect would read the source
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def describe(place: Origin) -> str:
    """Write a place as `file:line`."""
    code, instruction = place
    line: int | None = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end:
            line = number
    return f"{code.co_filename}:{line}"


def trimmed(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the library's frames, unless `AVIATO_FULL_TRACEBACK=1` asks for them."""
    kept: list[TracebackType] = []
    full = os.environ.get("AVIATO_FULL_TRACEBACK") == "1"
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith(_OWN if full else _LIBRARY):
            kept.append(traceback)
        traceback = traceback.tb_next
    result = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def raisable(error: E) -> E:
    """Prepare an error that came from the loop for being raised in the caller's thread."""
    return error.with_traceback(trimmed(error.__traceback__))


def noted(error: E, place: Origin) -> E:
    """Note where the work began; an error that several operations share has the note of the last one that raised it."""
    note = _NOTE + describe(place)
    notes = getattr(error, "__notes__", ())
    if note not in notes:
        if notes:
            error.__notes__ = [other for other in notes if not other.startswith(_NOTE)]
        error.add_note(note)
    return error
