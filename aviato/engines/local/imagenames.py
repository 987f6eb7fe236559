"""What is said when this machine takes the name of an image that it is not."""

from __future__ import annotations

import re
import sys
import warnings


def warn_of_other_python(name: str) -> None:
    """Warn when this machine shall answer to the name of another Python than the one that runs here."""
    match = re.match(r"python:(\d+)(?:\.(\d+))?", name)
    if match is None:
        return
    stated = tuple(int(part) for part in match.groups() if part is not None)
    if stated != sys.version_info[: len(stated)]:
        running = ".".join(map(str, sys.version_info[:3]))
        warnings.warn(f"image {name!r} now means this machine, whose Python is {running}", UserWarning, stacklevel=3)
