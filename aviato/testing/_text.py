"""Escapes and formats as the shell's echo and printf read them."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(?:0?([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_LETTERS = {"n": b"\n", "t": b"\t", "r": b"\r", "a": b"\a", "b": b"\b", "f": b"\f", "v": b"\v", "\\": b"\\"}
_DIRECTIVE = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d+))?([sdibxXoucfeEgG%])")


def unescape(text: str) -> bytes:
    """Read backslash escapes; unknown ones stay as they are."""

    def value(match: re.Match[str]) -> bytes:
        octal, hexadecimal, letter = match.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        return _LETTERS.get(letter, b"\\" + letter.encode("utf-8", "surrogateescape"))

    parts: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[position : match.start()].encode("utf-8", "surrogateescape"))
        parts.append(value(match))
        position = match.end()
    parts.append(text[position:].encode("utf-8", "surrogateescape"))
    return b"".join(parts)


def format_printf(template: str, arguments: list[str]) -> bytes:
    """Fill a format, again and again while arguments are left.

    Raises:
        ValueError: A directive is unknown, or an argument is not the number that it asks for.
    """
    words = list(arguments)
    parts: list[bytes] = []
    while True:
        before = len(words)
        position = 0
        while position < len(template):
            percent = template.find("%", position)
            if percent < 0:
                parts.append(unescape(template[position:]))
                break
            parts.append(unescape(template[position:percent]))
            match = _DIRECTIVE.match(template, percent)
            if match is None:
                raise ValueError(f"the fake printf does not know {template[percent : percent + 3]!r}")
            parts.append(_fill(match, words))
            position = match.end()
        if not words or len(words) == before:
            return b"".join(parts)


def _fill(match: re.Match[str], words: list[str]) -> bytes:
    flags, width, precision, letter = match.groups()
    if letter == "%":
        return b"%"
    word = words.pop(0) if words else ""
    pattern = f"%{flags}{width}" + (f".{precision}" if precision is not None else "")
    if letter == "s":
        return (pattern + "s").encode() % word.encode("utf-8", "surrogateescape")
    if letter == "b":
        return (pattern + "s").encode() % unescape(word)
    if letter == "c":
        return word[:1].encode("utf-8", "surrogateescape")
    if letter in "feEgG":
        return ((pattern + letter) % float(word or 0)).encode()
    number = ord(word[1:2] or "\0") if word[:1] in ("'", '"') else int(word or "0", 0)
    return ((pattern + ("d" if letter in "iu" else letter)) % number).encode()
