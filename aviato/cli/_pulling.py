"""Shows how far a pull is, on stderr: bars on a terminal, else one line for each step."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from aviato.cli._tables import size

if TYPE_CHECKING:
    from rich.progress import TaskID

    from aviato.models import PullProgress

Show = Callable[["PullProgress"], None]


@contextlib.contextmanager
def shown() -> Iterator[Show]:
    """Give what is to be called with each progress, from any thread; after this it shows nothing more."""
    made: list[Show] = []
    guard = threading.Lock()
    with contextlib.ExitStack() as stack:

        def show(progress: PullProgress) -> None:
            with guard:
                if not over:
                    if not made:
                        made.append(stack.enter_context(_bars()) if sys.stderr.isatty() else _Lines().show)
                    made[0](progress)

        over = False
        try:
            yield show
        finally:
            with guard:
                over = True


class _Lines:
    """Writes a line when a layer reaches another state."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def show(self, progress: PullProgress) -> None:
        if self._states.get(progress.digest) == progress.state:
            return
        self._states[progress.digest] = progress.state
        click.echo(f"{_short(progress.digest)} {progress.state} {_amount(progress)}".rstrip(), err=True)


@contextlib.contextmanager
def _bars() -> Iterator[Show]:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn  # noqa: PLC0415 - likewise

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    rows: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as display:

        def show(progress: PullProgress) -> None:
            text = f"{_short(progress.digest)} {progress.state:<11}"
            row = rows.get(progress.digest)
            if row is None:
                row = rows[progress.digest] = display.add_task(text, total=progress.bytes_total or None)
            display.update(row, description=text, completed=progress.bytes_done, total=progress.bytes_total or None)

        yield show


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _amount(progress: PullProgress) -> str:
    if not progress.bytes_total:
        return ""
    whole = size(progress.bytes_total)
    return whole if progress.bytes_done in {0, progress.bytes_total} else f"{size(progress.bytes_done)} of {whole}"
