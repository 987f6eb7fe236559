"""Names of images: one spelling for each, so that `python` and `docker.io/library/python:latest` are the same."""

from __future__ import annotations

import ipaddress
import re

import attrs

from aviato import validation

HOST = "host"
DOCKER_HUB = "docker.io"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HUB_NAMES = (DOCKER_HUB, "index.docker.io")
_HUB_API = "registry-1.docker.io"
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(?::([0-9]{1,5}))?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_LONGEST = 200
_LARGEST_PORT = 65535


@attrs.frozen
class Reference:
    """Where an image is to be found.

    Attributes:
        registry: As people write it: `docker.io`, `ghcr.io`, `localhost:5000`.
        repository: Path in the registry, such as `library/python`.
        version: A tag, or a digest `sha256:…`.
    """

    registry: str
    repository: str
    version: str

    @classmethod
    def parse(cls, name: str) -> Reference:
        """Read an image's name in any of its spellings.

        Raises:
            TypeError: It is not a string.
            ValueError: It is not the name of an image, or `host`, which is in no registry.
        """
        if normalize(name) == HOST:
            raise ValueError("image 'host' is this machine's own root file system and is in no registry")
        registry, path, version = _split(name)
        if not registry and "/" not in path:
            path = f"library/{path}"
        return cls(registry or DOCKER_HUB, path, version)

    @property
    def host(self) -> str:
        """Name and port of the server that speaks for the registry."""
        return _HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def by_digest(self) -> bool:
        """Whether `version` is a digest."""
        return ":" in self.version


def normalize(name: str) -> str:
    """Return the one spelling of an image's name, with its tag or digest; `host` is this machine's own root.

    Raises:
        TypeError: It is not a string.
        ValueError: It is not the name of an image.
    """
    validation.text("image", name)
    if name == HOST:
        return HOST
    registry, path, version = _split(name)
    mark = "@" if ":" in version else ":"
    full = f"{registry}/{path}{mark}{version}" if registry else f"{path}{mark}{version}"
    if not (_is_registry(registry) and all(map(_PART.match, path.split("/"))) and _is_version(version, name)):
        raise ValueError(f"image must be a name such as 'python:3.11' or 'ghcr.io/owner/app:v1', got {name!r}")
    if len(full) > _LONGEST:
        raise ValueError(f"image must be a name of at most {_LONGEST} characters, got {len(full)}: {name!r}")
    if path == HOST and not registry:
        raise ValueError(f"image {name!r}: 'host' is this machine's own root file system and has no tags; write 'host'")
    return full


def is_loopback(host: str) -> bool:
    """Tell whether a server, with or without a port, is this machine by its name."""
    name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _split(name: str) -> tuple[str, str, str]:
    """Return registry, path and tag or digest, as they are; the registry is empty for Docker Hub."""
    rest, at, digest = name.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, "latest"
    first, slash, inner = path.partition("/")
    registry = ""
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = ("", inner) if first in _HUB_NAMES else (first, inner)
    if not registry:
        path = path.removeprefix("library/")
    return registry, path, digest if at else tag  # as everywhere, a digest makes a tag beside it meaningless


def _is_registry(registry: str) -> bool:
    match = _REGISTRY.match(registry)
    return not registry or (match is not None and 0 < int(match[1] or 1) <= _LARGEST_PORT)


def _is_version(version: str, name: str) -> bool:
    if "@" in name:
        if not DIGEST.match(version):
            raise ValueError(f"image {name!r}: a digest is written NAME@sha256: and 64 hexadecimal digits")
        return True
    return _TAG.match(version) is not None
