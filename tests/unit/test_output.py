"""The client's side of an output stream."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviato.aio._output import ChunkSource, Cursor, LineSource, OutputBuffer
from aviato.exceptions import OutputLostError


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


async def _lines(data: bytes, cuts: list[int], cap: int) -> tuple[list[str], bytes]:
    buffer = OutputBuffer("stdout", cap, asyncio.get_running_loop(), None)
    cursor = Cursor(buffer)
    cursor.activate()
    source = LineSource(cursor)
    for piece in _pieces(data, cuts):
        buffer.feed(piece)
    buffer.end()
    lines: list[str] = []
    while items := await source.next_items():
        lines += items
    return lines, buffer.joined()


@settings(max_examples=300)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=12), st.integers(0, 300))
def test_joined_lines_equal_the_text_whatever_the_pieces(data: bytes, cuts: list[int], cap: int) -> None:
    """Any bytes in any pieces: the lines join to the decoded text, and only the last lacks its newline."""
    lines, kept = asyncio.run(_lines(data, cuts, cap))
    assert "".join(lines) == data.decode("utf-8", "replace")
    assert all(line.endswith("\n") for line in lines[:-1])
    assert kept == data[:cap]


async def test_credit_waits_for_an_active_reader_only_beyond_the_cap() -> None:
    """Kept bytes count as read; what is not kept waits for the reader, or is dropped without one."""
    granted: list[int] = []
    buffer = OutputBuffer("stdout", 10, asyncio.get_running_loop(), None)
    buffer.grant = granted.append
    cursor = Cursor(buffer)
    buffer.feed(b"x" * 10)
    assert granted[-1] == 10
    cursor.activate()
    buffer.feed(b"y" * 100)
    assert granted[-1] == 0
    source = ChunkSource(cursor)
    assert await source.next_items() == [b"x" * 10]
    assert await source.next_items() == [b"y" * 100]
    assert granted[-1] == 110
    cursor.deactivate()
    buffer.feed(b"z" * 50)
    assert granted[-1] == 160
    with pytest.raises(OutputLostError) as caught:
        await source.next_items()
    assert (caught.value.received, caught.value.sent) == (110, 160)


async def test_a_dropped_reader_holds_nothing_up() -> None:
    """A cursor that is garbage no longer counts."""
    granted: list[int] = []
    buffer = OutputBuffer("stdout", 0, asyncio.get_running_loop(), None)
    buffer.grant = granted.append
    cursor = Cursor(buffer)
    cursor.activate()
    buffer.feed(b"x" * 10)
    assert granted[-1] == 0
    del cursor
    buffer.feed(b"x" * 10)
    assert granted[-1] == 20


async def test_a_gap_is_an_error_with_counts() -> None:
    """Output that is gone for good ends the stream with an error, after what there was."""
    buffer = OutputBuffer("stderr", 100, asyncio.get_running_loop(), "sbx-x")
    buffer.feed(b"abc")
    buffer.gap(7)
    source = ChunkSource(Cursor(buffer))
    assert await source.next_items() == [b"abc"]
    with pytest.raises(OutputLostError) as caught:
        await source.next_items()
    assert (caught.value.stream, caught.value.received, caught.value.sent) == ("stderr", 3, 10)


async def test_reading_goes_on_after_the_result_was_joined() -> None:
    """Joining the kept pieces in the middle of a reading neither repeats nor skips a byte."""
    buffer = OutputBuffer("stdout", 100, asyncio.get_running_loop(), None)
    source = ChunkSource(Cursor(buffer))
    for piece in (b"one", b"two", b"three"):
        buffer.feed(piece)
    assert await source.next_items() == [b"one"]
    assert buffer.joined() == b"onetwothree"
    buffer.feed(b"four")
    buffer.end()
    assert [await source.next_items(), await source.next_items(), await source.next_items()] == [
        [b"twothree"],
        [b"four"],
        [],
    ]
