"""How sandboxes that are no longer kept are stopped, and which of them still run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from aviato.exceptions import AviatoError

if TYPE_CHECKING:
    from aviato.aio.pooling.kept import Kept

_PAUSES = (0.2, 1.0)
"""Seconds before each further attempt to stop a sandbox whose place is needed."""
_log = logging.getLogger("aviato")


class Stopping:
    """Stops sandboxes in the background; the place of each is free when it was stopped, or cannot be.

    Attributes:
        tasks: The sandboxes that are being stopped.
        stuck: Those that could not be stopped, and why.
        left: Those that nobody tried to stop to the end, because of what happened to the loop or the task.
        hurried: Whether each is tried no more than once from now on.
    """

    def __init__(self, label: str) -> None:
        self._label = label  # of those whose sandboxes they are
        self.hurried = False
        self.tasks: dict[Kept, asyncio.Task[None]] = {}
        self.stuck: dict[Kept, AviatoError] = {}
        self.left: set[Kept] = set()

    def begin(self, kept: Kept, over: Callable[[asyncio.Task[None]], object]) -> asyncio.Task[None]:
        """Stop one that is not being stopped, in the background; `over` gets the task when the place is free."""
        task = asyncio.get_running_loop().create_task(self._stop(kept), name="aviato-retire")
        self.tasks[kept] = task
        task.add_done_callback(lambda task: self._free(kept, task, over))
        return task

    def leave(self, kept: Kept) -> None:
        """Let one be, for no task can begin, and free its place."""
        self.left.add(kept)
        kept.release()

    async def _stop(self, kept: Kept) -> None:
        self.stuck.pop(kept, None)
        for pause in (*_PAUSES, None):
            try:
                await kept.sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True)
            except AviatoError as error:
                if pause is None or self.hurried:
                    self.stuck[kept] = error
                    _log.warning(
                        "a sandbox of %s could not be stopped; its session tries again: %s", self._label, error
                    )
                    return
                await asyncio.sleep(pause)
            else:
                return

    def _free(self, kept: Kept, task: asyncio.Task[None], over: Callable[[asyncio.Task[None]], object]) -> None:
        """Free the place of one that was stopped; if its task was cancelled, before its first step too, it is left."""
        if task.cancelled():
            self.left.add(kept)
        del self.tasks[kept]
        kept.release()
        over(task)
