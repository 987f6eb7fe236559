"""What the daemon tells as it happens, a line of JSON each; and whether one that is quiet for hours is still there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from aviato.engines.docker.records import SANDBOX_LABEL
from aviato.exceptions import EngineProtocolError

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api


_LONGEST_MESSAGE = 1 << 20


async def parsed(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Iterate over what is told, without what is no mapping; the stream is closed at the end.

    Raises:
        EngineProtocolError: Something else came, or a message without an end.
        EngineError: The stream broke.
    """
    pending = b""
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            *lines, pending = (pending + piece).split(b"\n")
            if len(pending) > _LONGEST_MESSAGE:
                raise EngineProtocolError(f"the Docker daemon sent a message of more than {_LONGEST_MESSAGE >> 20} MiB")
            for message in filter(None, map(_message, lines)):
                yield message
    last = _message(pending)
    if last is not None:
        yield last


def _message(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        message = json.loads(line)
    except ValueError as error:
        raise EngineProtocolError(f"the Docker daemon sent {line[:100]!r} where JSON is due") from error
    return message if isinstance(message, dict) else None


def read_event(event: dict[str, Any]) -> tuple[float, str, str]:
    """Return when it was, what happened, and the sandbox's id, empty for none.

    Raises:
        EngineProtocolError: It is no event.
    """
    try:
        attributes = event["Actor"]["Attributes"] or {}
        return event["timeNano"] / 1e9, str(event["Action"]), str(attributes.get(SANDBOX_LABEL, ""))
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineProtocolError(f"the Docker daemon sent {str(event)[:100]} where an event is due") from error


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
