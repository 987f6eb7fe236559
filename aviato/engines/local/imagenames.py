"""Names of images: one spelling for each, so that `python` and `docker.io/library/python:latest` are the same."""

from __future__ import annotations

import re
import sys
import warnings

from aviato import validation

HOST = "host"
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(?::[0-9]{1,5})?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_LONGEST = 200


def normalize(name: str) -> str:
    """Return the one spelling of an image's name, with its tag; `host` is this machine's own root.

    Raises:
        TypeError: It is not a string.
        ValueError: It is not the name of an image.
    """
    validation.text("image", name)
    if name == HOST:
        return HOST
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, "latest"
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = ("", rest) if first in ("docker.io", "index.docker.io") else (first, rest)
    else:
        registry = ""
    if not registry:
        path = path.removeprefix("library/")
    good = (not registry or _REGISTRY.match(registry)) and all(map(_PART.match, path.split("/"))) and _TAG.match(tag)
    full = f"{registry}/{path}:{tag}" if registry else f"{path}:{tag}"
    if "@" in name:
        raise ValueError(f"image {name!r}: images are named by tag here, not by digest; write NAME:TAG")
    if not good or len(full) > _LONGEST:
        raise ValueError(f"image must be a name such as 'python:3.11' or 'ghcr.io/owner/app:v1', got {name!r}")
    if path == HOST and not registry:
        raise ValueError(f"image {name!r}: 'host' is this machine's own root file system and has no tags; write 'host'")
    return full


def warn_of_other_python(name: str) -> None:
    """Warn when this machine shall answer to the name of another Python than the one that runs here."""
    match = re.match(r"python:(\d+)(?:\.(\d+))?", name)
    if match is None:
        return
    stated = tuple(int(part) for part in match.groups() if part is not None)
    if stated != sys.version_info[: len(stated)]:
        running = ".".join(map(str, sys.version_info[:3]))
        warnings.warn(f"image {name!r} now means this machine, whose Python is {running}", UserWarning, stacklevel=3)
