"""The modules of `inside` as the one text that a sandbox gets, and the few lines that take it in."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from aviato.aio.shipping import inside
from aviato.aio.shipping.inside.runner import OWN_FILE

_MODULES = (
    "refused",
    "arrays",
    "frames",
    "kinds",
    "makers",
    "carried",
    "messages",
    "definitions",
    "runner",
    "warm",
)
"""In the order in which they need each other."""
_OWN_IMPORTS = re.compile(r"^from (?:__future__|aviato[.\w]*) import (?:\([^)]*\)|.*)\n", re.MULTILINE)

BOOT = f"""\
import os
def _take(n):
    b=b''
    while len(b)<n:
        c=os.read(0,n-len(b))
        if not c:os._exit(0)
        b+=c
    return b
exec(compile(_take(int.from_bytes(_take(8),'big')),{OWN_FILE!r},'exec'))
"""
"""Reads exactly the program from the input, so that what follows is left for it."""
COMMAND = ("python3", "-X", "utf8", "-c", BOOT)


@functools.cache
def program() -> bytes:
    """Return the program as UTF-8."""
    folder = Path(inside.__file__).parent
    texts = ((folder / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES)
    return "\n".join(["from __future__ import annotations", *(_OWN_IMPORTS.sub("", text) for text in texts)]).encode()


def message(*pieces: bytes) -> bytes:
    """Put the length before a message, as the program expects it."""
    return sum(map(len, pieces)).to_bytes(8, "big") + b"".join(pieces)
