"""Conversations of an agent with a client, right and then spoilt, for whatever drives a fuzz test.

Everything is drawn from one `random.Random`, so a failure is repeated with its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

from aviato.agent._link import Link, unpack_welcome
from aviato.agent.channel import Channel
from aviato.agent.frames import (
    S_CREDIT,
    S_OFFSET,
    S_STARTED,
    FrameReader,
    FrameType,
    pack_frame,
    unpack_strings,
)
from aviato.agent.remote import unpack_error
from aviato.exceptions import AgentProtocolError, AviatoError
from tests.agent.enemy import STREAM, Enemy, Streams, end, error, frame, out
from tests.agent.harness import Recorder

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
HEAD = 13


def right_answers(chance: Random, streams: Streams) -> list[bytes]:
    """Say what an honest agent may say to a client that has asked for everything, in one of many orders."""
    lines = [_command(chance), _read(chance, streams.read), _write(chance, streams.write)]
    lines += [[pack_frame(FrameType.PONG, streams.ping)], [pack_frame(FrameType.EXTENDED, streams.extend)]]
    said = []
    while lines:
        line = chance.choice(lines)
        said.append(line.pop(0))
        if not line:
            lines.remove(line)
    return said


def _command(chance: Random) -> list[bytes]:
    said = [frame(FrameType.STARTED, S_STARTED.pack(chance.randrange(1, 2**32), 0))]
    totals = [0, 0]
    for _ in range(chance.randrange(12)):
        index = chance.randrange(2)
        size = chance.choice((1, 2, 100, 5000))
        if chance.random() < 0.1:
            said.append(frame(FrameType.GAP, S_CREDIT.pack(index + 1, totals[index] + size)))
        else:
            said.append(out(totals[index], chance.randbytes(size), FrameType.STDOUT + index))
        totals[index] += size
    said += chance.choice(([], [frame(FrameType.ACK, S_OFFSET.pack(2))], [frame(FrameType.STDIN_CLOSED)]))
    ends: tuple[list[bytes], ...] = (
        [end(out=totals[0], err=totals[1])],
        [end(137, 9, 0, *totals)],
        [error(5, b"lost")],
        [],
    )
    return said + chance.choice(ends)


def _read(chance: Random, stream: int) -> list[bytes]:
    sizes = [chance.randrange(1, 4) for _ in range(chance.randrange(4))]
    said = [out(sum(sizes[:number]), bytes(size), stream=stream) for number, size in enumerate(sizes)]
    if chance.random() < 0.2:
        return [*said, error(chance.choice((0, 2, 13, 2**32 - 1)), b"no", stream=stream)]
    return [*said, frame(FrameType.FILE_END, S_OFFSET.pack(sum(sizes)), stream=stream)]


def _write(chance: Random, stream: int) -> list[bytes]:
    said = [frame(FrameType.ACK, S_OFFSET.pack(size), stream=stream) for size in (1, 3) if chance.random() < 0.5]
    return [*said, frame(FrameType.FILE_END, S_OFFSET.pack(3), stream=stream)]


def spoil(chance: Random, frames: list[bytes]) -> list[bytes]:
    """Change one thing, more likely late than early so that the state before it is deep."""
    frames = list(frames)
    place = max(chance.randrange(len(frames)), chance.randrange(len(frames)))
    victim = bytearray(frames[place])
    if len(victim) < HEAD:
        return frames  # it was spoilt before
    how = chance.randrange(8)
    if how == 0:
        victim[chance.randrange(len(victim))] ^= 1 << chance.randrange(8)
    elif how == 1:
        victim[chance.randrange(len(victim))] = chance.choice(INTERESTING)
    elif how == 2:
        del victim[chance.randrange(len(victim)) :]
    elif how == 3:
        start = chance.randrange(len(victim))
        victim[start : start + chance.randrange(1, 9)] = chance.randbytes(chance.randrange(9))
    elif how == 4:
        frames.insert(chance.randrange(len(frames)), bytes(victim))
    elif how == 5:
        other = chance.randrange(len(frames))
        frames[place], frames[other] = frames[other], frames[place]
        return frames
    elif how == 6:  # the frame is whole, and its payload is another one's
        other_payload = chance.choice(frames)[HEAD:]
        kind = chance.choice((victim[4], chance.choice(list(FrameType)), chance.randrange(256)))
        victim = bytearray(pack_frame(kind, int.from_bytes(victim[5:HEAD], "big"), other_payload))
    else:
        victim[HEAD:] = chance.randbytes(chance.choice((0, 1, 8, 9, 12, 30)))
        victim[:4] = (len(victim) - HEAD).to_bytes(4, "big")
    frames[place] = bytes(victim)
    return frames


def cut(chance: Random, data: bytes) -> list[bytes]:
    """Cut bytes into pieces of any size."""
    pieces, start = [], 0
    while start < len(data):
        size = chance.choice((1, 2, 13, 14, 100, 3000, len(data)))
        pieces.append(data[start : start + size])
        start += size
    return pieces


def codec(pieces: list[bytes]) -> int:
    """Read pieces as frames, and each frame as everything it could be; give the number of frames.

    Raises:
        Exception: Anything but `AgentProtocolError`, which is what a caller is promised.
    """
    reader = FrameReader()
    count = 0
    with contextlib.suppress(AgentProtocolError):
        for piece in pieces:
            for _, _, payload in reader.feed(piece):
                count += 1
                for read in (unpack_welcome, unpack_error, lambda data: unpack_strings(data, 0)):
                    with contextlib.suppress(AgentProtocolError):
                        read(payload)
    assert reader.buffered <= sum(map(len, pieces))
    return count


async def _read_all(channel: Channel) -> None:
    async for _ in channel.read_file("/f", length=10):
        pass


async def _chunks() -> AsyncIterator[bytes]:
    yield b"abc"


class Conversation:
    """A client that has asked for everything, with its enemy; `frames` counts those that the client took up."""

    frames = 0

    async def hold(self, chance: Random, *, spoilt: bool, last: bytes = b"") -> list[BaseException | None]:
        """Speak, at last with what a fuzzer made, close, and give how each operation ended.

        Raises:
            AssertionError: Something ended as it may not, or an exception went where nobody looks.
        """
        unexpected: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: unexpected.append(context))
        asked: asyncio.Future[Streams] = loop.create_future()
        enemy = Enemy(script=lambda _pipe, streams: asked.set_result(streams))
        channel = enemy.channel
        await channel.open(30)
        recorder = Recorder()
        recorder.remote = channel.exec(["true"], recorder, stdin=True, process_id=STREAM)
        recorder.remote.send_stdin(b"in")
        requests = [_read_all(channel), channel.write_file("/f", _chunks()), channel.ping(30), channel.extend(30)]
        tasks = [asyncio.ensure_future(request) for request in requests]
        said = right_answers(chance, await asked)
        assert enemy.pipe is not None
        self._count(enemy.pipe.protocol)
        if last:
            said = [*said[: chance.randrange(len(said))], last]
        elif spoilt:
            said = spoil(chance, said)
        for piece in cut(chance, b"".join(said)):
            enemy.pipe.say(piece)
        if not spoilt:
            assert not channel.closed
        await asyncio.sleep(0)
        await channel.close()
        results = await asyncio.gather(recorder.end, *tasks, return_exceptions=True)
        failures = [result if isinstance(result, BaseException) else None for result in results]
        assert all(failure is None or isinstance(failure, AviatoError) for failure in failures), failures
        assert unexpected == []
        return failures

    def _count(self, link: asyncio.Protocol) -> None:
        assert isinstance(link, Link)
        on_frame = link._on_frame

        def counted(type_: int, stream: int, payload: memoryview) -> None:
            self.frames += 1
            on_frame(type_, stream, payload)

        link._on_frame = counted
