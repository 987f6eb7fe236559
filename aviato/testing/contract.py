"""The contract of an engine as checks that any engine's author can run.

::

    report = await check_engine(MyEngine)
    report.raise_on_failure()

or one test a check, under pytest::

    @pytest.mark.parametrize("name", contract_checks())
    async def test_contract(name):
        (await check_engine(MyEngine, only=[name])).raise_on_failure()
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterable

import attrs

from aviato.testing import _contract_exec, _contract_life, _contract_limits
from aviato.testing._ground import CHECK_SECONDS, Abandon, ContractError, Ground, MakeEngine, NotApplicable

__all__ = ["CheckResult", "ContractError", "ContractReport", "check_engine", "contract_checks"]

_CHECKS = {**_contract_life.CHECKS, **_contract_exec.CHECKS, **_contract_limits.CHECKS}


@attrs.frozen
class CheckResult:
    """What came of one check.

    Attributes:
        name: The check's.
        outcome: `passed`, `failed`, or `skipped` where it has nothing to say about this engine.
        detail: Why it failed or was skipped, else empty.
        error: What it failed with, else None.
        seconds: How long it took.
    """

    name: str
    outcome: str
    detail: str
    error: BaseException | None
    seconds: float


@attrs.frozen
class ContractReport:
    """What came of all checks, in their order."""

    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Those that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    @property
    def ok(self) -> bool:
        """True when none failed."""
        return not self.failures

    def __str__(self) -> str:
        """Show a line for each check."""
        return "\n".join(
            f"{result.outcome:<8}{result.seconds:7.2f} s  {result.name}"
            + (f": {result.detail}" if result.detail else "")
            for result in self.results
        )

    def raise_on_failure(self) -> None:
        """Fail as a test does.

        Raises:
            ContractError: At least one check failed; it lists them, and the first error is its cause.
        """
        if self.failures:
            lines = "\n".join(f"{result.name}: {result.detail}" for result in self.failures)
            raise ContractError(f"{len(self.failures)} checks failed\n{lines}") from self.failures[0].error


def contract_checks() -> tuple[str, ...]:
    """Return the names of all checks."""
    return tuple(_CHECKS)


async def check_engine(
    make_engine: MakeEngine,
    *,
    only: Iterable[str] | None = None,
    image: str | None = None,
    missing_image: str | None = None,
    abandon: Abandon | None = None,
) -> ContractReport:
    """Check that an engine keeps the contract; makes and deletes about fifty sandboxes.

    Args:
        make_engine: Opens an engine. All that it opens share one substrate: what one makes, the others find.
        only: Names of checks to run; None: all.
        image: Image to use; it needs `sh`, `echo`, `cat`, `sleep`, `true`, `false` and `head`. None: the default one.
        missing_image: Name of an image that is not there; None skips the check of it.
        abandon: Lets an engine go as if its process had been killed; None skips the check of orphans.

    Raises:
        ValueError: A name in `only` is not a check's.
    """
    names = contract_checks() if only is None else tuple(only)
    unknown = [name for name in names if name not in _CHECKS]
    if unknown:
        raise ValueError(f"only must hold names of checks, got {unknown}; known: {', '.join(_CHECKS)}")
    results: list[CheckResult] = []
    for name in names:
        ground = Ground(make_engine, image=image, missing_image=missing_image, abandon=abandon)
        results.append(await _run(name, ground))
    return ContractReport(tuple(results))


async def _run(name: str, ground: Ground) -> CheckResult:
    began = time.monotonic()
    outcome, detail, error = "passed", "", None
    try:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await _CHECKS[name](ground)
        finally:
            async with asyncio.timeout(CHECK_SECONDS):
                await ground.clear()
    except NotApplicable as reason:
        outcome, detail = "skipped", str(reason)
    except Exception as caught:  # noqa: BLE001 - whatever an engine raises, it is the check's failure
        outcome, error = "failed", caught
        place = traceback.extract_tb(caught.__traceback__)[-1]
        text = "it did not finish in time" if isinstance(caught, TimeoutError) and not str(caught) else str(caught)
        detail = (
            text
            if isinstance(caught, ContractError)
            else f"{type(caught).__name__}: {text} ({place.name}:{place.lineno})"
        )
    return CheckResult(name, outcome, detail, error, time.monotonic() - began)
