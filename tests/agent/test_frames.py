"""The codec: any bytes, in any pieces."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviato.agent import frames, payload_system
from aviato.agent._link import unpack_welcome
from aviato.agent.frames import Frame, FrameReader, FrameType, pack_frame, pack_strings, unpack_strings
from aviato.agent.remote import unpack_error
from aviato.exceptions import AgentProtocolError

FRAMES = st.lists(
    st.builds(Frame, st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=12
)


def feed(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Frame]:
    """Feed in pieces."""
    places = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    return [frame for start, stop in itertools.pairwise(places) for frame in reader.feed(data[start:stop])]


@given(FRAMES, st.lists(st.integers(0, 4000), max_size=30))
def test_any_split_gives_the_same_frames(expected: list[Frame], cuts: list[int]) -> None:
    """Pieces do not matter, and at the end nothing is held."""
    reader = FrameReader()
    data = b"".join(pack_frame(frame.type, frame.stream, frame.payload) for frame in expected)
    assert feed(reader, data, cuts) == expected
    assert reader.buffered == 0


@given(FRAMES)
def test_byte_by_byte(expected: list[Frame]) -> None:
    """One byte at a time is one of the splits."""
    data = b"".join(pack_frame(frame.type, frame.stream, frame.payload) for frame in expected)
    assert feed(FrameReader(), data, list(range(len(data)))) == expected


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=20))
def test_any_bytes_are_frames_or_an_error(data: bytes, cuts: list[int]) -> None:
    """Noise gives frames or the one error, and holds no more than came."""
    reader = FrameReader(max_payload=500)
    with contextlib.suppress(AgentProtocolError):
        for frame in feed(reader, data, cuts):
            assert len(frame.payload) <= 500
    assert reader.buffered <= len(data)


@pytest.mark.parametrize("split", [0, 5, 12])
def test_announced_length_is_checked_first(split: int) -> None:
    """A frame that is too large is refused at its header, again and again."""
    reader = FrameReader()
    header = frames.HEADER.pack(frames.MAX_PAYLOAD + 1, 1, 1)
    list(reader.feed(header[:split]))
    for piece in (header[split:] or b"x", b"x"):
        with pytest.raises(AgentProtocolError, match="at most 1048576"):
            list(reader.feed(piece))


def test_largest_frame_dripped_in() -> None:
    """A megabyte that comes byte by byte costs time in proportion, not its square."""
    data = pack_frame(1, 1, bytes(frames.MAX_PAYLOAD))
    reader = FrameReader()
    began = time.process_time()
    got = [frame for index in range(len(data)) for frame in reader.feed(data[index : index + 1])]
    assert len(got) == 1
    assert len(got[0].payload) == frames.MAX_PAYLOAD
    assert time.process_time() - began < 20  # the square would be minutes


def test_payload_too_large_is_not_packed() -> None:
    """What the other side would refuse is refused here."""
    with pytest.raises(ValueError, match="at most 1048576"):
        pack_frame(1, 1, bytes(frames.MAX_PAYLOAD), b"x")


@given(st.lists(st.binary(max_size=50), max_size=20), st.binary(max_size=10))
def test_strings_round_trip(items: list[bytes], before: bytes) -> None:
    """A list of strings comes back, with the place behind it."""
    packed = pack_strings(items)
    assert unpack_strings(before + packed, len(before)) == (items, len(before) + len(packed))


@given(st.binary(max_size=200), st.integers(0, 210))
def test_any_bytes_are_strings_or_an_error(data: bytes, offset: int) -> None:
    """Noise as a list of strings is a list or the one error."""
    with contextlib.suppress(AgentProtocolError):
        items, end = unpack_strings(data, offset)
        assert offset + 4 <= end <= len(data)
        assert sum(map(len, items)) + 4 * len(items) + 4 == end - offset


@given(st.binary(max_size=200))
def test_any_bytes_as_welcome_and_error(data: bytes) -> None:
    """Noise in the texts that an agent sends is a value or the one error."""
    for parse in (unpack_welcome, unpack_error):
        with contextlib.suppress(AgentProtocolError):
            parse(data)


def test_payload_speaks_the_same_numbers() -> None:
    """The constants inside the sandbox are those of the contract."""
    renamed = {"STDOUT": "OUTPUT", "STDERR": "_STDERR"}
    for kind in FrameType:
        assert getattr(payload_system, renamed.get(kind.name, kind.name)) == kind
    for name in ("MAGIC", "MAX_PAYLOAD", "DATA_CHUNK", "WINDOW", "STDIN_WINDOW"):
        assert getattr(payload_system, name) == getattr(frames, name)
    for name in ("HEADER", "S_HELLO", "S_WELCOME", "S_START", "S_ATTACH", "S_CREDIT", "S_SIGNAL", "S_CLOSING"):
        assert getattr(payload_system, name).format == getattr(frames, name).format
    assert payload_system.S_EXIT_FRAME.format == frames.HEADER.format + frames.S_EXIT.format[1:]
    assert payload_system.S_STARTED_FRAME.format == frames.HEADER.format + frames.S_STARTED.format[1:]
    assert payload_system.START_STDIN == frames.StartFlags.STDIN
    assert (payload_system.TIMED_OUT, payload_system.NOT_STARTED) == (1, 2)
    reasons = ("MAIN_EXITED", "BY_REQUEST", "IDLE", "LIFETIME", "ORPHANED")
    assert [getattr(payload_system, name) for name in reasons] == [int(reason) for reason in frames.CloseReason]
