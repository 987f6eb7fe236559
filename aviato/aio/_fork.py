"""What a forked child must know: nothing that it inherited is its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aviato.exceptions import ForkError

if TYPE_CHECKING:
    from collections.abc import Callable

generation = 0
"""Number of forks between the process that imported this and the running one."""

_hooks: list[Callable[[], object]] = []


def in_child(hook: Callable[[], object]) -> None:
    """Run `hook` in every child that `os.fork` makes."""
    _hooks.append(hook)


def _after_in_child() -> None:
    global generation  # noqa: PLW0603 - the fact is one per process
    generation += 1
    for hook in _hooks:
        hook()


def is_stale(made_in: int) -> bool:
    """Tell whether something made in generation `made_in` belongs to a parent."""
    return made_in != generation


def check(made_in: int, label: str) -> None:
    """Refuse a handle that was inherited over a fork.

    Raises:
        ForkError: It was.
    """
    if made_in != generation:
        raise ForkError(
            f"{label} belongs to the parent of this forked process",
            hint="Make sandboxes of the child's own, or attach with Sandbox.from_id().",
        )


os.register_at_fork(after_in_child=_after_in_child)
