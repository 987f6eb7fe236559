"""Bytes that claim to be packed values: hostile, spoilt or in pieces, each is a value or one kind of error."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviato.aio.shipping.inside.carried import pack, unpack
from aviato.aio.shipping.inside.gathered import HEADER, MAGIC, Gathered
from aviato.aio.shipping.inside.makers import MAKERS
from aviato.aio.shipping.inside.refused import BadValue, NotHere
from tests.unit.test_carried import CLASSES, TREES, joined, same


def tagged(document: Any, *blobs: bytes) -> bytes:
    """Make a value with tags by hand."""
    text = json.dumps(document).encode()
    sizes = struct.pack(f"<{len(blobs)}Q", *map(len, blobs))
    return HEADER.pack(MAGIC, 1, len(blobs), len(text)) + sizes + text + b"".join(blobs)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (["$import", "os"], "the tag '\\$import' is not known"),
        (["$bytes", 0], "no blob 0"),
        (["$bytes", -1], "no blob"),
        (["$bytes", True], "part of type bool"),
        (["$float", "1e5"], "a float that is not"),
        (["$int", "zz"], "cannot be made: ValueError"),
        (["$set", []], "unhashable"),
        (["$dict", 1], "key without a value"),
        (["$dict", [], 1], "unhashable"),
        (["$range", 1, 2, 0], "must not be zero"),
        (["$datetime", 2000, 13, 1, 0, 0, 0, 0, 0, None], "month must be"),
        (["$datetime", 2000, 1, 1, 0, 0, 0, 0, 0, 5], "a time zone of type int"),
        (["$datetime"], "cannot be made: IndexError"),
        (["$timedelta", 10**12, 0, 0], "cannot be made"),
        (["$timezone", 5], "part of type int"),
        (["$zone", "../../etc/passwd"], "no time zone"),
        (["$zone", "/etc/passwd"], "not known"),
        (["$path", "Path.home", "x"], "a path of the kind"),
        (["$path", "os", "x"], "a path of the kind"),
        (["$fraction", 1, 0], "ZeroDivisionError"),
        (["$enum", 0, "__class__"], "Colour has no member '__class__'"),
        (["$enum", 3, "x"], "Point has no member"),
        (["$enum", 99, "RED"], "no class 99"),
        (["$flag", 0, 1], "is no Flag"),
        (["$flag", 2, 64], "cannot be made"),
        (["$object", 0, "x", 1], "is not made from fields"),
        (["$object", 3, "total", 1], "has no field 'total'"),
        (["$object", 3, "__class__", 1], "has no field '__class__'"),
        (["$object", 3, 1, 1], "has no field 1"),
        (["$object", 3], "missing 1 required"),
        (["$object", 3, "x"], "key without a value"),
        (["$named", 5, 1], "no named tuple of 1 fields"),
        (["$named", 3, 1], "no named tuple"),
        (["$named"], "cannot be made: IndexError"),
        (["$deque", "x", 1], "maxlen is no int"),
        (["$defaultdict", "eval"], "KeyError"),
        (["$counter", 1], "key without"),
        (["$uuid", "x"], "badly formed"),
        (["$decimal", "x"], "cannot be made"),
        (["$complex", "1", 2], "part of type str"),
        ([["$tuple", ["$nothing"]]], "is not known"),
    ],
)
def test_tags_that_mean_nothing(document: Any, text: str) -> None:
    """A sandbox may send any document; it gets nothing but the kinds there are."""
    with pytest.raises(BadValue, match=text):
        unpack(tagged(document), CLASSES)


def test_a_blob_is_used_once() -> None:
    """Else a few bytes would become gigabytes."""
    with pytest.raises(BadValue, match="used twice"):
        unpack(tagged([["$bytes", 0], ["$bytes", 0]], b"x"), ())
    assert unpack(tagged([["$bytes", 0], "padding"], b"x", b"unused"), ()) == [b"x", "padding"]


def test_a_class_that_is_not_there_says_why() -> None:
    """A table may have a reason in a class's place."""
    with pytest.raises(NotHere, match="because of this"):
        unpack(tagged(["$object", 0]), ("because of this",))
    with pytest.raises(BadValue, match="number 0 is no class"):
        unpack(tagged(["$object", 0]), (print,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        HEADER.pack(b"AVV2", 0, 0, 1) + b"1",
        HEADER.pack(MAGIC, 2, 0, 1) + b"1",
        HEADER.pack(MAGIC, 0, 0, 2) + b"1",
        HEADER.pack(MAGIC, 0, 0, 1) + b"12",
        HEADER.pack(MAGIC, 1, 2**61, 1) + b"1",
        HEADER.pack(MAGIC, 1, 1000, 100) + bytes(8000) + b"1" * 100,
        HEADER.pack(MAGIC, 1, 2**64 - 1, 2**64 - 1) + b"1",
        HEADER.pack(MAGIC, 1, 1, 1) + struct.pack("<Q", 2**64 - 1) + b"1",
        HEADER.pack(MAGIC, 0, 0, 3) + b"NaN",
        HEADER.pack(MAGIC, 0, 0, 2) + "é".encode(),
        HEADER.pack(MAGIC, 0, 0, 200_000) + b"[" * 100_000 + b"]" * 100_000,
        HEADER.pack(MAGIC, 0, 0, 1204) + b"[" * 602 + b"]" * 602,
        HEADER.pack(MAGIC, 1, 0, 1204) + b"[" * 602 + b"]" * 602,
        HEADER.pack(MAGIC, 0, 0, 5000) + b"9" * 5000,
    ],
)
def test_bytes_that_are_no_value(data: bytes) -> None:
    """Lengths that lie, other text and endless nesting are one error, however they come in."""
    with pytest.raises(BadValue) as whole:
        unpack(data, ())
    with pytest.raises(BadValue) as parts:
        unpack(gathered(data, [3, 50]), ())
    assert len(parts.value.args[0]) < 600
    assert type(whole.value) is type(parts.value)


def gathered(data: bytes, cuts: list[int]) -> Gathered:
    """Return what comes in pieces that end at some places."""
    made = Gathered(len(data))
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        made.add(memoryview(data)[at:cut])
        at = cut
    assert (made.missing, bytes(made), len(made)) == (0, data, len(data))
    return made


@settings(max_examples=200, deadline=None)
@given(TREES, st.lists(st.integers(0, 2000), max_size=8))
def test_any_value_comes_back_in_pieces(value: Any, cuts: list[int]) -> None:
    """Cut anywhere, also where the parts of a value end."""
    data = b"".join(pack(value, "", CLASSES))
    assert same(unpack(gathered(data, cuts), CLASSES), value)


@settings(max_examples=200, deadline=None)
@given(TREES, st.data())
def test_a_spoilt_value_in_pieces_is_what_it_is_in_one(value: Any, draw: st.DataObject) -> None:
    """Both readings agree about any bytes: on the value, or on the error."""
    data = bytearray(b"".join(pack(value, "", CLASSES)))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, min(len(data), 60) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    told: list[Any] = []
    for form in (bytes(data), gathered(bytes(data), [cut])):
        try:
            told.append(unpack(form, CLASSES))
        except (BadValue, NotHere) as error:
            told.append(str(error))
    assert same(*told)


def test_a_blob_that_was_gathered_is_not_copied() -> None:
    """Its memory becomes the value's: a large result is in memory once."""
    data = b"".join(pack(bytes(5_000_000), "", ()))
    made = gathered(data, list(range(0, len(data), 65536)))
    assert unpack(made, ()) is made.parts[1]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    """With and without a header that fits."""
    for form in (data, HEADER.pack(MAGIC, 0, 0, len(data)) + data, HEADER.pack(MAGIC, 1, 0, len(data)) + data):
        with contextlib.suppress(BadValue):
            unpack(form, CLASSES)


@settings(max_examples=300, deadline=None)
@given(TREES, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_bytes_are_a_value_or_an_error(value: Any, changes: list[tuple[int, int]]) -> None:
    """Bytes that were a value once."""
    data = bytearray(joined([value, (1, b"x")]))
    for place, byte in changes:
        data[place % len(data)] = byte
    with contextlib.suppress(BadValue):
        unpack(data, CLASSES)


DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["x", "y", "RED", "utc", "UTC", "int", "PosixPath"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.tuples(st.sampled_from(sorted(MAKERS)), st.lists(inner, max_size=9)).map(lambda pair: [pair[0], *pair[1]])
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS, st.lists(st.binary(max_size=40), max_size=2))
def test_any_document_is_a_value_or_an_error(document: Any, blobs: list[bytes]) -> None:
    """Documents with the right tags and the wrong parts."""
    with contextlib.suppress(BadValue):
        unpack(tagged(document, *blobs), CLASSES)
