"""Each contract test runs on both faces of every engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.faces import Face


@pytest.fixture(params=["aio", "front"])
def face(request: pytest.FixtureRequest, engine: Any) -> Face:
    """The names of one face, bound to one engine."""
    return Face(request.param, engine)
