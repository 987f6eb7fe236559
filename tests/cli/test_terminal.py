"""The filter between a sandbox's output and a terminal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviato.cli._terminal import TerminalFilter, printable


def clean(*pieces: bytes) -> bytes:
    """Filter pieces."""
    filter_ = TerminalFilter()
    return b"".join([filter_.feed(piece) for piece in pieces] + [filter_.feed(b"", final=True)])


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\ttext\r\n", b"plain\ttext\r\n"),
        ("grüße 名".encode(), "grüße 名".encode()),
        (b"\x1b[31mred\x1b[0m", b"red"),
        (b"\x1b[2J\x1b[Hgone", b"gone"),
        (b"\x1b[?1049hx", b"x"),
        (b"\x1b]0;title\x07x", b"x"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", b"link"),
        (b"\x1b]52;c;Zm9v\x07x", b"x"),
        (b"\x1bP+q544e\x1b\\x", b"x"),
        (b"\x1bcx", b"x"),
        (b"\x1b(0x", b"x"),
        (b"a\x08b\x07\x00\x7f", b"ab"),
        ("\u009b31mx".encode(), b"31mx"),
        (b"\x9b31mx", "\N{REPLACEMENT CHARACTER}31mx".encode()),
        (b"\x1b]0;never ended\nnext line", b"\nnext line"),
        (b"end\x1b", b"end"),
        (b"\x1b\x1b[31mx", b"x"),
    ],
)
def test_control_sequences_are_removed(data: bytes, shown: bytes) -> None:
    """Text stays, and what commands a terminal goes."""
    assert clean(data) == shown


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_nothing_that_commands_a_terminal_passes(data: bytes, cuts: list[int]) -> None:
    """Whatever the bytes and wherever they are cut, no control character but tab, newline and return is shown."""
    places = [0, *sorted(cuts), len(data)]
    shown = clean(*(data[start:end] for start, end in itertools.pairwise(places)))
    for character in shown.decode():
        assert character in "\t\n\r" or not (ord(character) < 32 or 127 <= ord(character) < 160)


@given(st.text(alphabet="ab\x1b[]0;m\x07\n\\?P", max_size=80), st.integers(0, 80))
def test_where_the_output_is_cut_does_not_matter(text: str, cut: int) -> None:
    """Two pieces are filtered as one."""
    data = text.encode()
    assert clean(data[:cut], data[cut:]) == clean(data)


def test_an_endless_sequence_is_not_kept() -> None:
    """A sequence that never ends costs no memory."""
    filter_ = TerminalFilter()
    for _ in range(100):
        filter_.feed(b"\x1b]0;" + b"x" * 10_000)
    assert len(filter_._held) < 100_000


def test_cells_of_tables_are_printable() -> None:
    """A name in a table cannot command the terminal."""
    assert printable("a\x1b[31m\nb") == "a\ufffd[31m\ufffdb"
