"""Every engine keeps the contract of engines, check by check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aviato.engines import open_engine
from aviato.engines.base import Engine
from aviato.testing import FakeEngine, check_engine, contract_checks
from tests.contract.faces import missing_image


def _opener(engine: Any) -> Callable[[], Engine]:
    """Return what opens an engine on one substrate, again and again."""
    if isinstance(engine, FakeEngine):
        return engine.another_client
    return lambda: open_engine(engine)


async def _abandon(engine: Engine) -> None:
    """Let an engine go without a word, as a killed process does."""
    if isinstance(engine, FakeEngine):
        engine.abandon()
    elif engine.name == "docker":
        vars(engine)["_made"].clear()
        await engine.close()
    else:
        own = vars(engine).pop("_own")
        engine._own = None  # type: ignore[attr-defined]  # LocalEngine's connection to its supervisor
        own.close()


@pytest.mark.parametrize("check", contract_checks())
async def test_contract(check: str, engine: Any) -> None:
    """The engine does what the contract says."""
    report = await check_engine(_opener(engine), only=[check], missing_image=missing_image(engine), abandon=_abandon)
    report.raise_on_failure()
    assert report.results[0].outcome == "passed", report.results[0].detail
