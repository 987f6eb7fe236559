"""The main process's output as a stream of text."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from aviato.engines.base import LogRecord


class LogSource:
    """Items for a `StreamReader` from an engine's log records."""

    def __init__(self, records: AsyncGenerator[LogRecord, None], *, timestamps: bool) -> None:
        self._records = records
        self._timestamps = timestamps
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        self._at_line_start = True

    async def next_items(self) -> list[str]:
        """Return the next line or piece of one, `[]` at the end."""
        async for record in self._records:
            text = self._decoders[record.stream].decode(record.data)
            if not text:
                continue
            if self._timestamps and self._at_line_start:
                text = f"{datetime.fromtimestamp(record.timestamp, UTC).isoformat(timespec='milliseconds')} {text}"
            self._at_line_start = text.endswith("\n")
            return [text]
        rest = "".join(decoder.decode(b"", final=True) for decoder in self._decoders.values())
        return [rest] if rest else []

    async def close(self) -> None:
        """Stop following."""
        await self._records.aclose()
