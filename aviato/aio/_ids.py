"""Ids that the client makes, so that repeating a request is the same request."""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no look-alikes, and sorted as its values
_PATTERN = re.compile(rf"sbx-[{_ALPHABET}]{{16}}")


def _base32(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 32)
        text = _ALPHABET[digit] + text
    return text


def new_sandbox_id() -> str:
    """Make `sbx-` and 16 base32 characters: 40 bits of time in 2**-4 s, so that ids sort by age, and 40 random bits."""
    return f"sbx-{_base32(int(time.time() * 16) & (1 << 40) - 1, 8)}{_base32(secrets.randbits(40), 8)}"


def check_sandbox_id(value: object) -> str:
    """Take a sandbox id.

    Raises:
        TypeError: It is not a string.
        ValueError: It is not of the form of an id.
    """
    if not isinstance(value, str):
        raise TypeError(f"sandbox_id must be a string like 'sbx-0123456789abcdef', not {value!r}")
    if not _PATTERN.fullmatch(value):
        raise ValueError(f"sandbox_id must be like 'sbx-0123456789abcdef' (16 base32 characters), got {value!r}")
    return value
