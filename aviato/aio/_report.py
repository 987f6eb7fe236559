"""Hand news to a user's callback without letting it hold anything up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

_log = logging.getLogger("aviato")
LARGEST_BACKLOG = 1000
"""News that wait for a slow callback before further ones are dropped, with a warning."""


class Reporter(Generic[Value]):
    """Calls back on a thread of its own, in order.

    Args:
        callback: Gets each piece of news.
        name: What the user knows the callback by.
    """

    def __init__(self, callback: Callable[[Value], object], name: str) -> None:
        self._callback = callback
        self._name = name
        self._queue: queue.Queue[Value | None] = queue.Queue(LARGEST_BACKLOG)
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def __call__(self, news: Value) -> None:
        """Queue one piece of news; never blocks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aviato-report", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(news)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                _log.warning("%s is too slow: what is new is dropped from its queue", self._name)

    def close(self) -> None:
        """Let the thread end when it has called back for what is queued; does not wait for it."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                _log.warning("%s is too slow: the rest of its queue is dropped", self._name)
                while not self._queue.empty():
                    self._queue.get_nowait()
                self._queue.put_nowait(None)

    def _run(self) -> None:
        while (news := self._queue.get()) is not None:
            try:
                self._callback(news)
            except Exception:  # noqa: BLE001 - a user's callback must not end the reporting
                _log.exception("%s failed", self._name)
