"""Reading the main command's output back from the files that the supervisor wrote."""

from __future__ import annotations

import os

from aviato.engines.base import LogRecord
from aviato.engines.local.held import LOG_HEADER

Position = tuple[int, int]
"""Which file, by its inode, and how far in it."""


def read_log(place: str, position: Position | None) -> tuple[list[LogRecord], Position]:
    """Read the records after a position, the older file first; one that is only half written waits."""
    found: list[LogRecord] = []
    latest = position or (0, 0)
    for name in ("log.1", "log"):
        try:
            fd = os.open(f"{place}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        with os.fdopen(fd, "rb") as file:
            inode = os.fstat(fd).st_ino
            if position is not None and position[0] == inode:
                file.seek(position[1])
                found.clear()  # what stands before was read already
            at = file.tell()
            while len(header := file.read(LOG_HEADER.size)) == LOG_HEADER.size:
                when, stream, length = LOG_HEADER.unpack(header)
                data = file.read(length)
                if len(data) < length:
                    break
                at = file.tell()
                found.append(LogRecord(when, "stdout" if stream == 1 else "stderr", data))
            latest = (inode, at)
    return found, latest


def select_lines(found: list[LogRecord], tail_lines: int | None, since: float | None) -> list[LogRecord]:
    """Cut the records into lines, and keep those asked for."""
    lines = [
        LogRecord(record.timestamp, record.stream, piece)
        for record in found
        if since is None or record.timestamp > since
        for piece in record.data.splitlines(keepends=True)
    ]
    if tail_lines is None or tail_lines >= len(lines):
        return lines
    return lines[len(lines) - tail_lines :]
