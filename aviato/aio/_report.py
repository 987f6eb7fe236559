"""Hand changes to a user's callback without letting it hold anything up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from aviato.models import SandboxInfo

_log = logging.getLogger("aviato")
LARGEST_BACKLOG = 1000
"""Changes that wait for a slow callback before further ones are dropped, with a warning."""


class Reporter:
    """Calls back on a thread of its own, in order."""

    def __init__(self, callback: Callable[[SandboxInfo], object]) -> None:
        if not callable(callback):
            raise TypeError(f"report_to must be a callable that takes a SandboxInfo, not {callback!r}")
        self._callback = callback
        self._queue: queue.Queue[SandboxInfo | None] = queue.Queue(LARGEST_BACKLOG)
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def __call__(self, info: SandboxInfo) -> None:
        """Queue one change; never blocks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aviato-report", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(info)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                _log.warning("report_to is too slow: changes of sandboxes are dropped from its queue")

    def close(self) -> None:
        """Let the thread end when it has called back for what is queued; does not wait for it."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                _log.warning("report_to is too slow: the rest of its queue is dropped")
                while not self._queue.empty():
                    self._queue.get_nowait()
                self._queue.put_nowait(None)

    def _run(self) -> None:
        while (info := self._queue.get()) is not None:
            try:
                self._callback(info)
            except Exception:  # noqa: BLE001 - a user's callback must not end the reporting
                _log.exception("report_to failed")
