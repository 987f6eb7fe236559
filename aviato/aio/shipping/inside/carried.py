"""What values travel between client and sandbox, and their form; both sides use this module. Python 3.8 and later."""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB - what Python 3.8 has, and as few imports as can be

from __future__ import annotations

import json
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SCALARS = frozenset((type(None), bool, int, str))


class NotCarried(TypeError):
    """A value that JSON cannot carry; the text names its path."""


def check(value: Any, path: str) -> None:
    """Refuse what would not arrive as it was sent; a tuple is let through and arrives as a list.

    Raises:
        NotCarried: Something in `value` is not None, bool, int, finite float, str, list, tuple or dict with str keys.
    """
    stack: list[tuple[Any, str, tuple[int, ...]]] = [(value, path, ())]
    while stack:
        item, where, above = stack.pop()
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is float:
            if not math.isfinite(item):
                raise NotCarried("%s is %r, which JSON has no form for" % (where, item))
            continue
        if kind not in (list, tuple, dict):
            raise NotCarried(
                "%s is of type %s.%s, which JSON cannot carry" % (where, kind.__module__, kind.__qualname__)
            )
        if id(item) in above:
            raise NotCarried("%s contains itself" % where)
        within = above + (id(item),)
        if len(within) > 500:
            raise NotCarried("%s... is nested more than 500 deep" % where[:200])
        if kind is not dict:
            for index, part in enumerate(item):
                if type(part) not in _SCALARS:
                    stack.append((part, "%s[%d]" % (where, index), within))
            continue
        for key, part in item.items():
            if type(key) is not str:
                raise NotCarried("%s has the key %r; keys must be str" % (where, key))
            if type(part) not in _SCALARS:
                name = ".%s" % key if key.isidentifier() else "[%r]" % key
                stack.append((part, where + name, within))


def dumps(value: Any, path: str) -> bytes:
    """Return a value as JSON in ASCII bytes, in which a lone surrogate survives.

    Raises:
        NotCarried: As `check`; or an int has more digits than this interpreter writes.
    """
    check(value, path)
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise NotCarried("%s cannot be written as JSON: %s" % (path, error)) from error
