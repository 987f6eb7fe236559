"""The modules of `inside` as the one text that a sandbox gets, and the few lines that take it in."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from aviato.aio.shipping import inside
from aviato.aio.shipping.inside.runner import OWN_FILE

_MODULES = (
    "refused",
    "gathered",
    "arrays",
    "dataframes",
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
def _compiled(text):
    return compile(text,{OWN_FILE!r},'exec')
def _code(text):
    if not hasattr(os,'fork'):return _compiled(text)
    import marshal
    r,w=os.pipe()
    with open(r,'rb')as f:
        with open(w,'wb')as g:
            try:p=os.fork()
            except OSError:return _compiled(text)
            if not p:
                try:
                    g.write(marshal.dumps(_compiled(text)))
                    g.flush()
                finally:os._exit(0)
        b=f.read()
    os.waitpid(p,0)
    try:return marshal.loads(b)
    except(EOFError,ValueError,TypeError):return _compiled(text)
exec(_code(_take(int.from_bytes(_take(8),'big'))))
"""
"""Reads exactly the program from the input, so that what follows is left for it.

A fork compiles it: what that takes, some 4 MiB, would have to be handed on to each fork that serves a call.
"""
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
