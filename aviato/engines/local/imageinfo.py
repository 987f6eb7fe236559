"""What the image store says about an image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from aviato.engines.local.storefiles import SHARED, explained, is_current, lock
from aviato.exceptions import ImageNotFoundError


@dataclass(frozen=True)
class ResolvedImage:
    """What a name means at this moment.

    Attributes:
        name: The name in its one spelling.
        kind: `"host"` for this machine's own root file system, or `"image"`.
        root: Directory of an image's files, never written to; None for the host.
        environment: Variables that the image sets.
        working_dir: Where commands start, or None when the image does not say.
        digest: As in `ImageInfo`.
    """

    name: str
    kind: str
    root: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    digest: str = ""

    def hold(self) -> int | None:
        """Keep the image's root from being removed, for as long as the returned descriptor, or a copy, is open.

        Returns:
            A descriptor to be closed by the caller, or None for the host.

        Raises:
            ImageNotFoundError: It has been removed meanwhile.
            EngineError: The store cannot be read.
        """
        if self.root is None:
            return None
        path = os.path.join(os.path.dirname(self.root), "lock")
        with explained(path):
            try:
                descriptor = lock(path, SHARED)
            except FileNotFoundError:
                raise unknown(self.name) from None
            assert descriptor is not None  # noqa: S101 - it waited
            if not is_current(descriptor, path):
                os.close(descriptor)
                raise unknown(self.name)
            return descriptor


def unknown(name: str) -> ImageNotFoundError:
    """Make the error for a name that the store does not have."""
    remedy = f"aviato image pull {name}   (or from an archive: aviato image import {name} TAR)"
    if name.startswith("python:"):
        remedy = f"aviato image tag host {name}   (or from its registry: aviato image pull {name})"
    return ImageNotFoundError(f"image {name!r} is not in the local store", image=name, hint=remedy)
