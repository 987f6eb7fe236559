"""What a container has written: lines of the main command, and the agent's last words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aviato.engines.base import LogRecord
from aviato.engines.docker.records import LastWords, is_over
from aviato.engines.docker.stage import TOKEN_VARIABLE
from aviato.exceptions import EngineProtocolError

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api

_HEAD = 8
_STREAMS = {1: "stdout", 2: "stderr"}
WRONG_PROCESSOR = "exec format error"
"""How the log of a container ends whose first program is made for another processor."""
_LONGEST_SAID = 1000
_LAST_LINES = 16
"""How far from the end the last words may be: the main command's last output is written at the same time."""


async def last_words(api: Api, container: Mapping[str, Any]) -> tuple[LastWords | None, str]:
    """Read why the agent ended the sandbox, None when it did not say, and what it or its loader complained of."""
    token = token_of(container)
    found, complaint = None, ""
    for data in await _read_tail(api, container, "stderr"):
        words = data.split()
        if token and len(words) == 3 and words[0] == token:  # noqa: PLR2004 - the token and its two numbers
            with contextlib.suppress(ValueError):
                found = LastWords(int(words[1]), int(words[2]))
        elif (
            words[:1] == [b"aviato:"]
            or words[:2] == [b"aviato", b"agent:"]
            or data.strip().endswith(WRONG_PROCESSOR.encode())
        ):
            complaint = data.decode("utf-8", "replace").strip()
    return found, complaint


async def said_at_end(api: Api, container: Mapping[str, Any]) -> str:
    """Read the end of what a container wrote, in one line and without the token; empty when it wrote nothing."""
    token = token_of(container)
    tail = await _read_tail(api, container, "stdout", "stderr")
    pieces = [data for data in tail if not token or token not in data]
    return " ".join(b"".join(pieces).decode("utf-8", "replace").split())[-_LONGEST_SAID:]


async def _read_tail(api: Api, container: Mapping[str, Any], *streams: str) -> list[bytes]:
    """Read the last lines of a container's log."""
    params = {**dict.fromkeys(streams, "1"), "tail": str(_LAST_LINES)}
    content = await api.request("GET", f"/containers/{container['Id']}/logs", params=params, what="read a log")
    return [data for _, data in _pieces(content or b"")[0]]


def token_of(container: Mapping[str, Any]) -> bytes:
    """Return what stands before the last words, empty for a container whose first process says none."""
    for item in container["Config"].get("Env") or ():
        name, _, value = item.partition("=")
        if name == TOKEN_VARIABLE:
            return str(value).encode()
    return b""


async def read_logs(
    api: Api, container: Mapping[str, Any], *, follow: bool, tail_lines: int | None, since: float | None
) -> AsyncIterator[LogRecord]:
    """Iterate over the main command's output, without the agent's last words."""
    token = token_of(container)
    if tail_lines is not None and tail_lines <= 0 and not follow:
        return
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
    if tail_lines is not None:
        params["tail"] = str(tail_lines + (1 if is_over(container["State"]) else 0))
    if since is not None:
        params["since"] = f"{since:.9f}"
    kept: list[LogRecord] | None = [] if tail_lines is not None and is_over(container["State"]) else None
    pending = b""
    async for piece in api.stream("GET", f"/containers/{container['Id']}/logs", params=params, what="read a log"):
        pieces, pending = _pieces(pending + piece)
        for kind, data in pieces:
            stamp, _, line = data.partition(b" ")
            if token and line.split()[:1] == [token]:
                continue
            record = LogRecord(_seconds(stamp), _STREAMS.get(kind, "stdout"), line)
            if kept is None:
                yield record
            else:
                kept.append(record)
    for record in (kept or [])[-(tail_lines or 0) :]:
        yield record


def _pieces(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Cut a log into its pieces, as `hijack` describes them, and the rest."""
    found = []
    position = 0
    while len(content) - position >= _HEAD:
        kind, length = content[position], int.from_bytes(content[position + 4 : position + _HEAD], "big")
        if kind > max(_STREAMS):
            raise EngineProtocolError("the Docker daemon sent a log of no known format")
        stop = position + _HEAD + length
        if stop > len(content):
            break
        found.append((kind, content[position + _HEAD : stop]))
        position = stop
    return found, content[position:]


def _seconds(stamp: bytes) -> float:
    """Read a time such as 2026-11-23T20:00:00.123456789Z."""
    try:
        whole, _, fraction = stamp.decode().removesuffix("Z").partition(".")
        return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or '0'}")
    except ValueError:
        raise EngineProtocolError("the Docker daemon sent a log line without its time") from None
