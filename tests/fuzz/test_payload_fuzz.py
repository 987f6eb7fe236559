"""The other direction: frames of a client that nobody should send, to a real agent, which must stay as it is."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviato.agent.frames import (
    MAGIC,
    S_ATTACH,
    S_CREDIT,
    S_FILE_READ,
    S_HELLO,
    S_OFFSET,
    S_SIGNAL,
    WINDOW,
    FrameReader,
    FrameType,
    StartFlags,
    pack_frame,
    pack_start,
    pack_strings,
)
from aviato.agent.payload_system import Bad, strings
from tests.agent.harness import AgentProcess, names, process_status, run
from tests.fuzz.conversations import cut, spoil

FACTOR = int(os.environ.get("AVIATO_FUZZ", "1"))
CONNECTIONS = 1000
HELLO = pack_frame(FrameType.HELLO, 0, S_HELLO.pack(MAGIC, 1, 1))
CAT = pack_start(5, [b"cat"], flags=StartFlags.STDIN)
ASKING = pack_frame(FrameType.PING, 99, b"are you there")
LEFT_ALONE = {FrameType.START, FrameType.FILE_WRITE, FrameType.SHUTDOWN, FrameType.EXTEND}
"""What does something outside the agent, or rightly ends it, when a spoilt frame happens to ask for it."""
RIGHT = [
    pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(0), b"abc"),
    pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(1), b"bcd"),
    pack_frame(FrameType.CREDIT, 5, S_CREDIT.pack(1, WINDOW + 9)),
    pack_frame(FrameType.CREDIT, 5, S_CREDIT.pack(2, 2**64 - 1)),
    pack_frame(FrameType.ATTACH, 5, S_ATTACH.pack(0, 0, WINDOW, WINDOW)),
    pack_frame(FrameType.FILE_READ, 6, S_FILE_READ.pack(0, 100, 50), pack_strings([b"/etc/services"])),
    pack_frame(FrameType.CREDIT, 6, S_CREDIT.pack(1, 100)),
    pack_frame(FrameType.FILE_READ, 7, S_FILE_READ.pack(2**63, 2**64 - 1, 0), pack_strings([b"/dev/zero"])),
    pack_frame(FrameType.RELEASE, 6),
    pack_frame(FrameType.PING, 8, b"x"),
    pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(4)),
    pack_frame(FrameType.SIGNAL, 5, S_SIGNAL.pack(15, 1)),
    pack_frame(FrameType.RELEASE, 5),
]


def held(agent: AgentProcess) -> int:
    """Count the agent's descriptors; an ordinary user may not look, because the agent cannot be read, and gets 0."""
    return len(names(Path(f"/proc/{agent.process.pid}/fd"))) if os.geteuid() == 0 else 0


async def converse(agent: AgentProcess, chance: Random) -> int:
    """Say spoilt frames until the agent hangs up or answers what comes after them; give how many were said."""
    reader, writer = await agent.raw()
    said = list(RIGHT)
    for _ in range(chance.randrange(1, 4)):
        said = spoil(chance, said)
    said = [frame for frame in said if len(frame) > 4 and frame[4] not in LEFT_ALONE]
    try:
        for piece in cut(chance, b"".join([HELLO, CAT, *said])):
            writer.write(piece)
        writer.write(ASKING)
        writer.write_eof()  # or the agent would wait for the rest of a frame that was announced too long
        heard = FrameReader()
        while data := await reader.read(65536):
            if any(frame.stream == 99 for frame in heard.feed(data)):
                break
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return len(said)


@pytest.mark.timeout(120 * FACTOR)
async def test_agent_survives_spoilt_frames(tmp_path: Path) -> None:
    """However many clients talk nonsense, the agent serves the next, holds no descriptor of theirs and stays small."""
    chance = Random(os.urandom(8))
    async with AgentProcess(tmp_path, lifetime_ms=600_000 * FACTOR) as agent:
        channel = await agent.channel()
        assert (await run(channel, "true").end).returncode == 0
        descriptors = held(agent)
        count = 0
        for _ in range(CONNECTIONS * FACTOR):
            count += await converse(agent, chance)
        assert count > 10 * CONNECTIONS * FACTOR
        assert (await run(channel, "true").end).returncode == 0
        resident = int(next(line for line in process_status(agent).splitlines() if line.startswith("VmRSS")).split()[1])
        assert resident < 40_000
        async with asyncio.timeout(10):  # the last hang-ups may still be on their way
            while held(agent) > descriptors + 3:  # `cat`, if it is still there
                await channel.ping(5)


@given(st.binary(max_size=200), st.integers(0, 210), st.integers(1, 3))
def test_any_bytes_are_strings_or_one_error(data: bytes, offset: int, lists: int) -> None:
    """The agent's own decoder gives lists that lie within the frame, or the errors that close the connection."""
    try:
        found = strings(data, offset, lists)  # type: ignore[no-untyped-call]  # code of the sandbox has no types
    except (Bad, struct.error):
        return
    assert sum(map(len, (item for items in found for item in items))) <= len(data)
