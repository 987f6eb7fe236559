"""One verb for several sandboxes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import click

from aviato.cli._exits import describe


async def each(ids: Sequence[str], verb: Callable[[str], Awaitable[None]]) -> int:
    """Try all at the same time, print the ids that succeeded, say why others did not; return the exit code."""
    unique = list(dict.fromkeys(ids))
    outcomes = await asyncio.gather(*(verb(item) for item in unique), return_exceptions=True)
    worst = 0
    for item, outcome in zip(unique, outcomes, strict=True):
        if outcome is None:
            click.echo(item)
        elif isinstance(outcome, Exception):
            text, code = describe(outcome)
            click.echo(text, err=True)
            worst = max(worst, code)
        else:
            raise outcome
    return worst
