"""The wire format between a client and the agent in a sandbox, without any I/O.

One byte stream carries everything. A frame is a 13 byte header, big-endian, and a payload::

    length u32 | type u8 | stream u64 | payload (length bytes, at most MAX_PAYLOAD)

`stream` is chosen by the client (random, never 0) and names one process or one file transfer, so
repeating a `START` is the same start. Frames about the agent itself use stream 0. Payloads are fixed
structs, followed where needed by string lists (u32 count, then u32 length and bytes each). There
is no JSON and nothing nested, so a hostile peer has nothing to nest: whatever bytes arrive, the
reader gives a frame or raises `AgentProtocolError`.

Output carries the byte offset of its first byte, credit is given as the absolute offset up to which
the peer may send, and the totals stand in `EXIT`. A dropped connection is therefore continued by
`ATTACH` with the offsets reached, and a byte that is missing or repeated cannot go unnoticed.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

from aviato.exceptions import AgentProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAGIC = b"AVTO"
VERSION_MIN = 1
VERSION_MAX = 1
HEADER = struct.Struct("!IBQ")
MAX_PAYLOAD = 1 << 20
DATA_CHUNK = 64 * 1024
"""Most bytes of data that either side puts in one frame."""
WINDOW = 512 * 1024
"""Bytes of one output stream that may be unread by the client before the writer in the sandbox blocks."""
STDIN_WINDOW = 256 * 1024
"""Bytes of input that may be on their way before `ACK`."""


UNABLE = 1 << 16
"""In the place of an errno in `ERROR`, and no system's number: this agent cannot do what was asked for, ever."""


class FrameType(IntEnum):
    """Frame types; the lower half is sent by the client, the upper half by the agent."""

    HELLO = 1  # c>a  magic, min version, max version
    START = 2  # c>a  StartRequest
    ATTACH = 3  # c>a  stdout and stderr offsets held, stdout and stderr limits
    STDIN = 4  # c>a  offset, data (for a process or an open file write)
    STDIN_EOF = 5  # c>a  total length
    CREDIT = 6  # c>a  which, absolute limit
    SIGNAL = 7  # c>a  signal number, scope
    RELEASE = 8  # c>a  forget the stream; aborts a file transfer, leaves a process running
    PING = 9  # c>a  up to 64 bytes, echoed
    SHUTDOWN = 10  # c>a  grace in milliseconds
    EXTEND = 11  # c>a  milliseconds until the lifetime ends, from now
    FILE_READ = 12  # c>a  offset, length (2**64-1: to the end), limit, [path]
    FILE_WRITE = 13  # c>a  flags, mode, [path]; then STDIN frames and STDIN_EOF

    WELCOME = 128  # a>c  magic, version, features, [python version, machine]
    STARTED = 129  # a>c  pid inside, stdin bytes accepted
    STDOUT = 130  # a>c  offset, data (of a process or of a file being read)
    STDERR = 131  # a>c  offset, data
    GAP = 132  # a>c  which, next offset still available
    ACK = 133  # a>c  stdin bytes accepted so far
    STDIN_CLOSED = 134  # a>c  the process closed its end; later input is refused
    EXIT = 135  # a>c  ExitStatus
    FILE_END = 136  # a>c  size: read to the end, or written and in place
    ERROR = 137  # a>c  errno (0: none), [message]; ends the stream
    PONG = 138  # a>c  the ping's payload
    CLOSING = 139  # a>c  reason, main command's return code (-1: none); the agent ends
    EXTENDED = 140  # a>c  done


class Which(IntEnum):
    """Which output of a process."""

    STDOUT = 1
    STDERR = 2


class StartFlags(IntFlag):
    """Options of `START`."""

    STDIN = 1  # keep stdin open for STDIN frames; else it is /dev/null


class ExitFlags(IntFlag):
    """What is known about how a process ended."""

    TIMED_OUT = 1
    NOT_STARTED = 2  # it could not be executed; returncode is 126 or 127


class SignalScope(IntEnum):
    """Whom a signal reaches."""

    PROCESS = 0
    TREE = 1  # the command and everything it started, in whatever session


class WriteFlags(IntFlag):
    """Options of `FILE_WRITE`."""

    ATOMIC = 1
    PARENTS = 2


class CloseReason(IntEnum):
    """Why the agent ended."""

    MAIN_EXITED = 1
    SHUTDOWN = 2
    IDLE = 3
    LIFETIME = 4
    ORPHANED = 5


S_HELLO = struct.Struct("!4sHH")
S_WELCOME = struct.Struct("!4sHI")
S_START = struct.Struct("!IQQQ")  # flags, timeout in ms (0: none), stdout limit, stderr limit
S_STARTED = struct.Struct("!IQ")
S_ATTACH = struct.Struct("!QQQQ")
S_OFFSET = struct.Struct("!Q")
S_CREDIT = struct.Struct("!BQ")
S_SIGNAL = struct.Struct("!BB")
S_MILLISECONDS = struct.Struct("!Q")
S_EXIT = struct.Struct("!iBBQQQ")  # returncode, signal, flags, duration in us, stdout total, stderr total
S_ERROR = struct.Struct("!I")
S_CLOSING = struct.Struct("!Bi")
S_FILE_READ = struct.Struct("!QQQ")
S_FILE_WRITE = struct.Struct("!II")
S_COUNT = struct.Struct("!I")


class Frame(NamedTuple):
    """One frame; `payload` is the caller's to keep."""

    type: int
    stream: int
    payload: bytes


class ExitStatus(NamedTuple):
    """How a process ended, as the agent reports it."""

    returncode: int
    signal: int
    flags: int
    duration_us: int
    stdout_total: int
    stderr_total: int


_NO_STRINGS = S_COUNT.pack(0)


def pack_strings(strings: Sequence[bytes]) -> bytes:
    """Encode a list of byte strings."""
    if not strings:
        return _NO_STRINGS
    parts = [S_COUNT.pack(len(strings))]
    for item in strings:
        parts.append(S_COUNT.pack(len(item)))
        parts.append(item)
    return b"".join(parts)


def unpack_strings(payload: bytes, offset: int) -> tuple[list[bytes], int]:
    """Decode a list of byte strings at `offset`; give the list and the offset behind it.

    Raises:
        AgentProtocolError: The payload ends inside the list.
    """
    end = len(payload)
    if offset + 4 > end:
        raise AgentProtocolError("string list is cut short")
    (count,) = S_COUNT.unpack_from(payload, offset)
    offset += 4
    if count * 4 > end - offset:
        raise AgentProtocolError(f"string list announces {count} items, more than the frame holds")
    items: list[bytes] = []
    for _ in range(count):
        if offset + 4 > end:
            raise AgentProtocolError("string list is cut short")
        (length,) = S_COUNT.unpack_from(payload, offset)
        offset += 4
        if offset + length > end:
            raise AgentProtocolError("string is cut short")
        items.append(payload[offset : offset + length])
        offset += length
    return items, offset


def pack_frame(type_: int, stream: int, *parts: bytes) -> bytes:
    """Encode one frame from the parts of its payload.

    Raises:
        ValueError: The payload is larger than `MAX_PAYLOAD`.
    """
    length = sum(map(len, parts))
    if length > MAX_PAYLOAD:
        raise ValueError(f"a frame carries at most {MAX_PAYLOAD} bytes, this one has {length}")
    return b"".join((HEADER.pack(length, type_, stream), *parts))


def pack_start(
    stream: int,
    argv: Iterable[bytes],
    *,
    env: Iterable[bytes] = (),
    cwd: bytes = b"",
    user: bytes = b"",
    flags: int = 0,
    timeout_ms: int = 0,
    stdout_limit: int = WINDOW,
    stderr_limit: int = WINDOW,
) -> bytes:
    """Encode `START`: env items are `NAME=value` over the sandbox's own; empty cwd and user mean its defaults."""
    return pack_frame(
        FrameType.START,
        stream,
        S_START.pack(flags, timeout_ms, stdout_limit, stderr_limit),
        pack_strings(list(argv)),
        pack_strings(list(env)),
        pack_strings([cwd, user]),
    )


class FrameReader:
    """Cut a byte stream into frames, whatever the pieces it arrives in.

    The reader checks the announced length before it keeps any payload, so what a peer can make it hold
    is one frame and one piece.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._pending = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the unfinished frame held now."""
        return len(self._pending)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes and yield the frames they complete; iterate to the end before feeding again.

        Raises:
            AgentProtocolError: A frame announces more than the allowed payload.
        """
        for type_, stream, payload in self.views(memoryview(data)):
            yield Frame(type_, stream, bytes(payload))

    def views(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Do the same without copying: type, stream, and a payload that is only valid until the next is asked for.

        However small the pieces, each byte of an unfinished frame is copied a bounded number of times.

        Raises:
            AgentProtocolError: A frame announces more than the allowed payload.
        """
        position = 0
        if self._pending:
            position = self._fill(data)
            frame = self._take()
            if frame is None:
                return
            yield frame
        end = len(data)
        try:
            while end - position >= HEADER.size:
                length, type_, stream = HEADER.unpack_from(data, position)
                self._check(length)
                stop = position + HEADER.size + length
                if stop > end:
                    break
                payload = data[position + HEADER.size : stop]
                position = stop
                yield type_, stream, payload
        finally:
            self._pending += data[position:]

    def _check(self, length: int) -> None:
        if length > self._max_payload:
            raise AgentProtocolError(f"frame of {length} bytes announced, at most {self._max_payload} are allowed")

    def _fill(self, data: memoryview) -> int:
        """Add to the unfinished frame what it still needs; give the number of bytes taken."""
        pending = self._pending
        taken = max(0, HEADER.size - len(pending))
        pending += data[:taken]
        if len(pending) < HEADER.size:
            return len(data)
        length: int = HEADER.unpack_from(pending)[0]
        self._check(length)
        missing = HEADER.size + length - len(pending)
        pending += data[taken : taken + missing]
        return taken + missing

    def _take(self) -> tuple[int, int, memoryview] | None:
        """Give the held frame if it is complete."""
        pending = self._pending
        if len(pending) < HEADER.size:
            return None
        length, type_, stream = HEADER.unpack_from(pending)
        if len(pending) < HEADER.size + length:
            return None
        self._pending = bytearray()
        return type_, stream, memoryview(pending)[HEADER.size :]
