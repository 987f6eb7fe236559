"""Those who wait for a sandbox, in the order of their coming."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aviato.aio.pooling.kept import Kept


class Queue:
    """Who waits, each by a future that is given a sandbox or an error."""

    def __init__(self) -> None:
        self._futures: OrderedDict[asyncio.Future[Kept], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._futures)

    def join(self) -> asyncio.Future[Kept]:
        """Wait behind all others."""
        future: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._futures[future] = None
        return future

    def leave(self, future: asyncio.Future[Kept]) -> None:
        """Wait no longer; harmless for one whose turn has come."""
        self._futures.pop(future, None)

    def next(self) -> asyncio.Future[Kept] | None:
        """Take out who has waited longest of those who still do; None when nobody does."""
        while self._futures:
            future, _ = self._futures.popitem(last=False)
            if not future.done():
                return future
        return None
