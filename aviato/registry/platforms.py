"""What machines are called in images, and which of several variants fits this one."""

from __future__ import annotations

import platform

import attrs

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
_PLAINEST = {"amd64": ("", "v1"), "arm64": ("", "v8"), "arm": ("v7", "v6", "v5", "")}
"""Variants in the order of preference; others want a machine that has more than all of its kind have."""


@attrs.frozen
class Platform:
    """What an image was built for."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        """Return the notation of Docker, `linux/arm/v7`."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def here() -> Platform:
    """Return what this machine runs."""
    machine = platform.machine()
    architecture, _, variant = _ARCHITECTURES.get(machine, machine).partition("/")
    return Platform("linux", architecture, variant)


def rank(offered: Platform, machine: Platform) -> int | None:
    """Return how well a variant fits a machine, 0 being best, or None when it does not run there."""
    if (offered.os, offered.architecture) != (machine.os, machine.architecture):
        return None
    variants = _PLAINEST.get(machine.architecture, ("",))
    if machine.variant in variants:
        variants = variants[variants.index(machine.variant) :]
    return variants.index(offered.variant) if offered.variant in variants else None
