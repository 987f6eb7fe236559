"""The daemon's stream of events, which may be quiet for hours: whether it is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api


async def attended(api: Api, pieces: AsyncGenerator[bytes, None], quiet_seconds: float) -> AsyncGenerator[bytes, None]:
    """Hand a stream on, and see now and then that the daemon is there: a dead connection is as quiet as a live one.

    Args:
        api: The daemon.
        pieces: The stream, closed at the end.
        quiet_seconds: How long nothing may come before the daemon is asked.

    Raises:
        EngineError: It is not there, or the stream broke.
    """
    async with contextlib.aclosing(pieces):
        while True:
            coming = asyncio.ensure_future(anext(pieces))
            try:
                while not (await asyncio.wait([coming], timeout=quiet_seconds))[0]:
                    await api.request("GET", "/_ping", what="say that it is there")
            except BaseException:
                coming.cancel()
                await asyncio.wait([coming])
                raise
            try:
                piece = coming.result()
            except StopAsyncIteration:
                return
            yield piece
