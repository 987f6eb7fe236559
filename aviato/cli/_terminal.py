"""Takes from a sandbox's output what could command a terminal."""

from __future__ import annotations

import codecs
import re

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, the cursor, modes
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # strings: titles, links, the clipboard; never over a line's end
    r"|\x1b[ -/]*[0-~]?"  # all other escapes
    r"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"  # control characters but tab, newline and carriage return
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?|[ -/]*)?\Z")
_LONGEST = 4096


class TerminalFilter:
    """Removes control sequences from one stream of bytes, however it is cut into pieces.

    The text is read as UTF-8; what is not becomes a replacement character, because 8-bit control characters may
    hide in it.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """Return what may be shown of the next piece; `final` gives what was held back."""
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        if not final:
            unfinished = _UNFINISHED.search(text, max(0, len(text) - _LONGEST))
            if unfinished is not None:
                self._held = unfinished.group()
                text = text[: unfinished.start()]
        return _SEQUENCE.sub("", text).encode()


def printable(text: str) -> str:
    """Return one line of text in which nothing controls the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
