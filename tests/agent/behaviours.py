"""Everything that an enemy in the agent's place is known to try, as one table of named cases.

When an enemy speaks, the client has a command, another command, a read, a write, a ping and an extension open, so each
case also says what becomes of those that it does not concern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aviato.agent.frames import (
    HEADER,
    MAX_PAYLOAD,
    S_CLOSING,
    S_COUNT,
    S_CREDIT,
    S_ERROR,
    S_EXIT,
    S_OFFSET,
    S_STARTED,
    S_WELCOME,
    WINDOW,
    FrameType,
    pack_frame,
    pack_strings,
)
from aviato.exceptions import (
    AgentProtocolError,
    AviatoError,
    EngineConnectionError,
    SandboxExecutionError,
    SandboxFileError,
    SandboxLostError,
    SandboxNotRunningError,
    SandboxTerminatedError,
)
from tests.agent.enemy import FLOOD, STARTED, STREAM, WELCOME, Streams, end, error, frame, out, welcome

Say = Callable[[Streams], bytes]


@dataclass(frozen=True)
class Behaviour:
    """One case.

    Attributes:
        say: What it says, given the streams of what it was asked.
        errors: All that any operation may end with.
        piece: Bytes that arrive at a time; 0: all at once.
        hangs_up: It closes the connection after that.
        survives: The channel goes on; only the operation that was answered ends.
    """

    say: Say
    errors: tuple[type[AviatoError], ...] = (AgentProtocolError,)
    piece: int = 0
    hangs_up: bool = False
    survives: bool = False


def _lies(table: dict[str, bytes]) -> dict[str, Behaviour]:
    return {name: Behaviour(lambda _streams, data=data: data) for name, data in table.items()}  # type: ignore[misc]  # bound now


def _about(table: dict[str, Say]) -> dict[str, Behaviour]:
    return {name: Behaviour(say) for name, say in table.items()}


FRAMING = {
    "unknown type": frame(200),
    "type 0": frame(0),
    "client's own type": frame(FrameType.START, b""),
    "empty frame": HEADER.pack(0, 0, 0),
    "unknown stream": out(0, b"x", stream=78),
    "stream nobody opened ends": pack_frame(FrameType.EXIT, 99, S_EXIT.pack(0, 0, 0, 0, 0, 0)),
    "second welcome": WELCOME,
    "too large": HEADER.pack(MAX_PAYLOAD + 1, FrameType.STDOUT, STREAM),
    "length of 4 GiB": b"\xff" * 13 + bytes(100_000),
    "noise": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20,
    "zeros": bytes(100_000),
    "flood of unasked answers": pack_frame(FrameType.PONG, 0) * 50_000,
    "flood of empty frames": frame(FrameType.STDOUT) * 50_000,
    "end for an unknown reason": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(9, 0)),
    "end for reason 0": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(0, 0)),
    "end with an impossible code": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(1, 999)),
    "end with a negative code": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(1, -(2**31))),
    "end cut short": pack_frame(FrameType.CLOSING, 0, b"\1"),
    "end of a command's stream": frame(FrameType.CLOSING, S_CLOSING.pack(1, 0)),
    "error about everything": error(5, b"give up", stream=0),
}

COMMANDS = {
    "offset ahead": STARTED + out(1, b"x"),
    "offset repeated": STARTED + out(0, b"x") + out(0, b"x"),
    "offset backwards": STARTED + out(0, b"abcd") + out(2, b"cd"),
    "offset huge": STARTED + out(2**64 - 1, b"x"),
    "offset negative": STARTED + out(2**63, b"x"),
    "empty output": STARTED + out(0, b""),
    "output without offset": STARTED + frame(FrameType.STDOUT, b"1234"),
    "more than credit": STARTED + FLOOD,
    "two starts": STARTED + STARTED,
    "another pid": STARTED + frame(FrameType.STARTED, S_STARTED.pack(6, 0)),
    "pid 0": frame(FrameType.STARTED, S_STARTED.pack(0, 0)),
    "input that was not sent": frame(FrameType.STARTED, S_STARTED.pack(5, 3)),
    "short start": frame(FrameType.STARTED, b"\0"),
    "long start": frame(FrameType.STARTED, S_STARTED.pack(5, 0), b"x"),
    "ack of what was not sent": STARTED + frame(FrameType.ACK, S_OFFSET.pack(3)),
    "ack backwards": STARTED + b"".join(frame(FrameType.ACK, S_OFFSET.pack(n)) for n in (2, 1)),
    "ack overflow": STARTED + frame(FrameType.ACK, S_OFFSET.pack(2**64 - 1)),
    "ack of nothing": STARTED + frame(FrameType.ACK, S_OFFSET.pack(0)),
    "long ack": STARTED + frame(FrameType.ACK, bytes(9)),
    "two ends": STARTED + end() + end(),
    "end before the start": end(),
    "end of what was not started, but was": STARTED + end(127, flags=2),
    "timeout of a command without": STARTED + end(137, 9, flags=1),
    "output after the end": STARTED + end() + out(0, b"x"),
    "start after the end": STARTED + end() + STARTED,
    "error after the end": STARTED + end() + error(5, b"late"),
    "totals too large": STARTED + end(out=1),
    "totals too small": STARTED + out(0, b"x") + end(),
    "totals huge": STARTED + end(out=2**64 - 1, err=2**64 - 1),
    "stderr missing": STARTED + end(err=5),
    "short exit": STARTED + frame(FrameType.EXIT, bytes(5)),
    "negative code": STARTED + end(-1),
    "code of 256": STARTED + end(256),
    "smallest code": STARTED + end(-(2**31)),
    "signal without its code": STARTED + end(0, 9),
    "unknown exit flag": STARTED + end(flags=4),
    "gap backwards": STARTED + out(0, b"xy") + frame(FrameType.GAP, S_CREDIT.pack(1, 1)),
    "gap of nothing": STARTED + frame(FrameType.GAP, S_CREDIT.pack(1, 0)),
    "gap beyond credit": STARTED + frame(FrameType.GAP, S_CREDIT.pack(1, WINDOW + 1)),
    "gap huge": STARTED + frame(FrameType.GAP, S_CREDIT.pack(2, 2**64 - 1)),
    "gap in a third output": STARTED + frame(FrameType.GAP, S_CREDIT.pack(3, 5)),
    "input closed twice": STARTED + frame(FrameType.STDIN_CLOSED) * 2,
    "input closed with data": STARTED + frame(FrameType.STDIN_CLOSED, b"x"),
    "file end of a command": STARTED + frame(FrameType.FILE_END, S_OFFSET.pack(0)),
    "error cut short": frame(FrameType.ERROR, b"\0"),
    "error with a million texts": frame(FrameType.ERROR, S_ERROR.pack(1), b"\x00\x0f\xff\xff"),
    "error with 4 billion texts": frame(FrameType.ERROR, S_ERROR.pack(1), S_COUNT.pack(2**32 - 1) + bytes(1000)),
    "error with a text of 4 GiB": frame(FrameType.ERROR, S_ERROR.pack(1), S_COUNT.pack(1), S_COUNT.pack(2**32 - 1)),
    "error with no text": error(1),
    "error with two texts": error(1, b"a", b"b"),
    "error with more behind": frame(FrameType.ERROR, S_ERROR.pack(1), pack_strings([b"a"]), b"b"),
    "error with a long text": error(1, bytes(5000)),
    "pong on a command": frame(FrameType.PONG),
}

ANSWERS: dict[str, Say] = {
    "pong to nothing": lambda _: pack_frame(FrameType.PONG, 0, b""),
    "extended unasked": lambda _: pack_frame(FrameType.EXTENDED, 0),
    "pong twice": lambda s: pack_frame(FrameType.PONG, s.ping) * 2,
    "pong with what was not sent": lambda s: pack_frame(FrameType.PONG, s.ping, b"x"),
    "pong for an extension": lambda s: pack_frame(FrameType.PONG, s.extend),
    "extended twice": lambda s: pack_frame(FrameType.EXTENDED, s.extend) * 2,
    "output for a ping": lambda s: out(0, b"x", stream=s.ping),
    "a command's end for a read": lambda s: pack_frame(FrameType.EXIT, s.read, bytes(S_EXIT.size)),
    "read: offset": lambda s: out(5, b"x", stream=s.read),
    "read: offset backwards": lambda s: out(0, b"xy", stream=s.read) + out(1, b"y", stream=s.read),
    "read: offset huge": lambda s: out(2**64 - 1, b"x", stream=s.read),
    "read: no offset": lambda s: frame(FrameType.STDOUT, b"1234567", stream=s.read),
    "read: empty": lambda s: out(0, b"", stream=s.read),
    "read: beyond length": lambda s: out(0, b"x" * 11, stream=s.read),
    "read: errors of a file": lambda s: out(0, b"x", FrameType.STDERR, stream=s.read),
    "read: other end": lambda s: frame(FrameType.FILE_END, S_OFFSET.pack(5), stream=s.read),
    "read: start": lambda s: frame(FrameType.STARTED, S_STARTED.pack(5, 0), stream=s.read),
    "read: two ends": lambda s: frame(FrameType.FILE_END, S_OFFSET.pack(0), stream=s.read) * 2,
    "read: data after the end": lambda s: (
        frame(FrameType.FILE_END, S_OFFSET.pack(0), stream=s.read) + out(0, b"x", stream=s.read)
    ),
    "read: short": lambda s: frame(FrameType.FILE_END, b"", stream=s.read),
    "write: ack too much": lambda s: frame(FrameType.ACK, S_OFFSET.pack(4), stream=s.write),
    "write: ack overflow": lambda s: frame(FrameType.ACK, S_OFFSET.pack(2**64 - 1), stream=s.write),
    "write: ack nothing": lambda s: frame(FrameType.ACK, S_OFFSET.pack(0), stream=s.write),
    "write: ack backwards": lambda s: b"".join(frame(FrameType.ACK, S_OFFSET.pack(n), stream=s.write) for n in (3, 2)),
    "write: end too small": lambda s: frame(FrameType.FILE_END, S_OFFSET.pack(2), stream=s.write),
    "write: two ends": lambda s: frame(FrameType.FILE_END, S_OFFSET.pack(3), stream=s.write) * 2,
    "write: output": lambda s: out(0, b"x", stream=s.write),
    "write: error without text": lambda s: error(5, stream=s.write),
}

LOST = (SandboxLostError, EngineConnectionError)
WHOLE = STARTED + out(0, b"abc")
MANNERS = {
    "dies at once": Behaviour(lambda _: b"", LOST, hangs_up=True),
    "dies in a header": Behaviour(lambda _: WHOLE[:20], LOST, hangs_up=True),
    "dies in a payload": Behaviour(lambda _: WHOLE[:-2], LOST, hangs_up=True),
    "dies in a frame, byte by byte": Behaviour(lambda _: WHOLE[:-2], LOST, piece=1, hangs_up=True),
    "lies byte by byte": Behaviour(lambda _: STARTED + out(0, b"x") * 2, piece=1),
    "lies in threes": Behaviour(lambda _: STARTED + end() + end(), piece=3),
    "floods in small pieces": Behaviour(lambda _: STARTED + FLOOD, piece=1000),
    "says it ended, and goes on": Behaviour(
        lambda _: pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(1, 7)) + FLOOD, (SandboxNotRunningError,)
    ),
    "says it was stopped": Behaviour(
        lambda _: pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(2, -1)), (SandboxTerminatedError,)
    ),
    "says nothing": Behaviour(lambda _: b"", (), survives=True),
    "never ends a frame": Behaviour(
        lambda _: HEADER.pack(MAX_PAYLOAD, 130, STREAM) + bytes(500_000), (), survives=True
    ),
    "accepts input that it had closed": Behaviour(
        lambda _: STARTED + frame(FrameType.STDIN_CLOSED) + frame(FrameType.ACK, S_OFFSET.pack(1)), (), survives=True
    ),
    "only accepts input": Behaviour(
        lambda s: frame(FrameType.ACK, S_OFFSET.pack(3), stream=s.write), (), survives=True
    ),
    "two errors of a read": Behaviour(
        lambda s: error(5, b"x", stream=s.read) * 2, (SandboxFileError, AgentProtocolError)
    ),
    "absurd errno": Behaviour(lambda _: error(2**32 - 1, b"no"), (SandboxExecutionError,), survives=True),
    "error without a text's bytes": Behaviour(lambda _: error(0, b""), (SandboxExecutionError,), survives=True),
    "error that is no text": Behaviour(lambda _: error(5, b"\xff\0\x1b[2J"), (SandboxExecutionError,), survives=True),
    "absurd errno of a read": Behaviour(
        lambda s: error(2**32 - 1, b"\0\xff", stream=s.read), (SandboxFileError,), survives=True
    ),
    "absurd errno of a write": Behaviour(
        lambda s: error(2**31, b"\n", stream=s.write), (SandboxFileError,), survives=True
    ),
}

BEHAVIOURS: dict[str, Behaviour] = {**_lies(FRAMING), **_lies(COMMANDS), **_about(ANSWERS), **MANNERS}

HELLOS = {
    "not a welcome": STARTED,
    "magic": welcome(b"", b"", magic=b"EVIL"),
    "version": welcome(b"", b"", version=2),
    "version 0": welcome(b"", b"", version=0),
    "version 65535": welcome(b"", b"", version=65535),
    "no facts": welcome(),
    "three facts": welcome(b"", b"", b""),
    "long fact": welcome(b"", b"x" * 300),
    "terminal escape": welcome(b"\x1b[2J", b""),
    "NUL in a fact": welcome(b"3.11\0", b""),
    "facts announced only": pack_frame(FrameType.WELCOME, 0, WELCOME[13 : 13 + S_WELCOME.size], b"\xff" * 4),
    "more behind the facts": pack_frame(FrameType.WELCOME, 0, WELCOME[13:], b"x"),
    "cut short": pack_frame(FrameType.WELCOME, 0, b"AV"),
    "empty": pack_frame(FrameType.WELCOME, 0),
    "other stream": pack_frame(FrameType.WELCOME, 5, WELCOME[13:]),
    "refusal": error(71, b"no common version", stream=0),
    "refusal cut short": pack_frame(FrameType.ERROR, 0, b"\0"),
    "too large": HEADER.pack(2**32 - 1, FrameType.WELCOME, 0),
    "noise": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(100),
    "output first": out(0, b"x") + WELCOME,
}
