"""Telling on standard error how far a map is."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY_SECONDS = 30.0
"""How often a line is written where there is no terminal."""


class Progress:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def begin(self) -> None:
        """Show that it begins."""
        self._began = self._told = time.monotonic()
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
            from rich.progress import Progress as Bar  # noqa: PLC0415 - likewise

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[extra]}"), console=Console(stderr=True)
            )
            self._task = self._bar.add_task(self._name, total=self._total, extra="")
            self._bar.start()

    def advance(self, retried: int) -> None:
        """Note one more result."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, extra=f"{retried} retried" if retried else "")
        elif time.monotonic() - self._told >= EVERY_SECONDS:
            self._tell(retried)

    def _tell(self, retried: int) -> None:
        self._told = time.monotonic()
        if sys.stderr is None:
            return
        of = "" if self._total is None else f" of {self._total}"
        more = f", {retried} retried" if retried else ""
        sys.stderr.write(f"{self._name}: {self._done}{of} done{more}, {self._told - self._began:.0f} s\n")

    def close(self, retried: int) -> None:
        """Say the last."""
        if self._bar is not None:
            self._bar.stop()
        else:
            self._tell(retried)
