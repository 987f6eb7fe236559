"""Many short tests look at what a few sandboxes said; only the sandboxes take long."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_collected() -> Iterator[None]:
    """Spare the collector, which runs after each test, everything that was there before a module."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
