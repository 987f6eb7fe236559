"""The modules of `inside` as the one file that a sandbox gets."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from aviato.aio.shipping import inside

_MODULES = ("refused", "arrays", "frames", "kinds", "makers", "carried", "messages", "definitions", "runner")
"""In the order in which they need each other."""
_OWN_IMPORTS = re.compile(r"^from (?:__future__|aviato[.\w]*) import .*\n", re.MULTILINE)


@functools.cache
def program() -> bytes:
    """Return the program as UTF-8."""
    folder = Path(inside.__file__).parent
    texts = ((folder / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES)
    return "\n".join(["from __future__ import annotations", *(_OWN_IMPORTS.sub("", text) for text in texts)]).encode()
