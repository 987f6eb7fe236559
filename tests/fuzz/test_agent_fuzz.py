"""Frames by the hundred thousand: any bytes are values or `AgentProtocolError`, and cost a bounded amount of memory.

`AVIATO_FUZZ=10` runs ten times as much as a usual run.
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviato.agent.frames import HEADER, pack_frame
from tests.agent.enemy import STREAM, Streams
from tests.fuzz.conversations import Conversation, codec, cut, right_answers, spoil

FACTOR = int(os.environ.get("AVIATO_FUZZ", "1"))
MEMORY = 16 << 20
CONVERSATIONS = 80
STREAMS = Streams(STREAM, 2, 3, 4, 5)

pytestmark = pytest.mark.timeout(120 * FACTOR)
seeds = given(st.integers(0, 2**64 - 1))
many = settings(
    max_examples=100 * FACTOR, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)  # a failure is repeated with its seed, which is printed


def noise(chance: Random) -> bytes:
    """Give frames with random headers, some of which say the truth about their length."""
    parts = []
    for _ in range(60):
        payload = chance.randbytes(chance.choice((0, 1, 9, 60)))
        length = chance.choice((len(payload),) * 30 + (chance.randrange(70), chance.randrange(2**32)))
        parts.append(HEADER.pack(length, chance.randrange(256), chance.randrange(2**64)) + payload)
    return b"".join(parts)


def test_codec() -> None:
    """Noise and spoilt frames, in any pieces, through the reader and every decoder."""
    frames = 0

    @settings(many, max_examples=60 * FACTOR)
    @seeds
    def check(seed: int) -> None:
        nonlocal frames
        chance = Random(seed)
        for _ in range(CONVERSATIONS):
            said = right_answers(chance, STREAMS)
            frames += codec(cut(chance, b"".join(spoil(chance, said))))
            frames += codec(cut(chance, noise(chance)))
            codec(cut(chance, chance.randbytes(chance.randrange(300))))

    tracemalloc.start()
    try:
        check()
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert frames >= 100_000 * FACTOR


@pytest.mark.parametrize("spoilt", [True, False])
def test_client(*, spoilt: bool) -> None:
    """A client with everything under way hears a spoilt conversation: all of it ends, and nothing is raised aside.

    One that is not spoilt is taken to its end, or the test would be about the first frame only.
    """
    conversation = Conversation()
    with asyncio.Runner() as runner:

        @settings(many, max_examples=(100 if spoilt else 5) * FACTOR)
        @seeds
        def check(seed: int) -> None:
            async def hold() -> None:
                chance = Random(seed)
                for _ in range(CONVERSATIONS):
                    await conversation.hold(chance, spoilt=spoilt)

            runner.run(hold())

        tracemalloc.start()
        try:
            check()
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()
    assert conversation.frames >= (50_000 if spoilt else 4_000) * FACTOR


@settings(max_examples=200 * FACTOR, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.builds(pack_frame, st.integers(0, 255), st.sampled_from([0, STREAM, 5]), st.binary(max_size=40)), max_size=9
    )
)
def test_small_frames_shrink(frames: list[bytes]) -> None:
    """The same for frames that hypothesis makes itself, so that what it finds is small."""
    codec(frames)
    codec([b"".join(frames)])
