"""What is said about a pull while it runs."""

from __future__ import annotations

from enum import StrEnum

import attrs


class PullState(StrEnum):
    """How far a layer is."""

    WAITING = "waiting"
    """Another pull downloads it."""
    DOWNLOADING = "downloading"
    PRESENT = "present"
    """It was there before, because another image has it, or an earlier pull got so far."""
    DOWNLOADED = "downloaded"
    UNPACKING = "unpacking"
    UNPACKED = "unpacked"


@attrs.frozen
class PullProgress:
    """One layer of an image that is being pulled.

    Attributes:
        digest: The layer, as it is in the registry.
        bytes_done: Bytes of it that are here.
        bytes_total: Bytes of it.
        state: How far it is.
    """

    digest: str
    bytes_done: int
    bytes_total: int
    state: PullState
