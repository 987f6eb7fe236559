"""What the process that resets a sandbox answers is the word of a stranger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aviato.aio.pooling.reset import Janitor
from aviato.exceptions import EngineProtocolError


class _Process:
    """Takes every order."""

    def __init__(self) -> None:
        self.stdin = self
        self.orders: list[bytes] = []

    async def write(self, data: bytes) -> None:
        """Take one."""
        self.orders.append(data)


async def _lines(*pieces: str) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece


def _janitor(*pieces: str) -> Janitor:
    process: Any = _Process()
    return Janitor(process, _lines(*pieces))


@pytest.mark.parametrize("text", ["nonsense\n", "[1]\n", "[" * 60_000 + "\n"], ids=["no JSON", "no object", "deep"])
async def test_an_improper_answer_is_one_error(text: str) -> None:
    """Whatever stands there, also what cannot even be parsed, is an error of this library that shows its beginning."""
    with pytest.raises(EngineProtocolError, match="no proper answer") as raised:
        await _janitor(text).reset([], [])
    assert len(str(raised.value)) < 500


async def test_an_answer_may_come_in_pieces() -> None:
    """A line that is cut anywhere is one answer."""
    assert await _janitor('{"alive": 0, ', '"changed": 0}', "\n").reset([], []) is None
