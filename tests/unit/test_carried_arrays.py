"""Arrays of numpy and data frames in the packed form, with packages that not every machine has."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import io
import json
import random
import struct
import subprocess
import sys
from typing import Any

import pytest

from aviato.aio.shipping.inside.carried import pack, unpack
from aviato.aio.shipping.inside.gathered import HEADER, MAGIC
from aviato.aio.shipping.inside.refused import BadValue, NotCarried


def joined(value: Any) -> bytes:
    """Pack into one piece."""
    return b"".join(pack(value, "value", ()))


def tagged(document: Any, *blobs: bytes) -> bytes:
    """Make a value with tags by hand."""
    text = json.dumps(document).encode()
    sizes = struct.pack(f"<{len(blobs)}Q", *map(len, blobs))
    return HEADER.pack(MAGIC, 1, len(blobs), len(text)) + sizes + text + b"".join(blobs)


@pytest.fixture
def np() -> Any:
    """The package numpy."""
    return pytest.importorskip("numpy", exc_type=ImportError)


@pytest.fixture
def pa() -> Any:
    """The package pyarrow."""
    return pytest.importorskip("pyarrow", exc_type=ImportError)


def test_arrays_come_back(np: Any) -> None:
    """Every plain dtype, order and shape; what comes back is writable and its own."""
    arrays = [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::3],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.array(5, dtype=">i2"),
        np.zeros((0, 3), "c16"),
        np.zeros((2, 0)),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array([True, False]),
        np.array(["2024-01-01", "NaT"], "M8[us]"),
        np.array([1, 2], "m8[s]"),
        np.array([(1, 2.0)], [("x", "<i4"), ("y", "<f8")]),
        np.ones(3, "f2"),
    ]
    for array in arrays:
        back = unpack(joined([array]), ())[0]
        assert type(back) is np.ndarray
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array) or array.dtype.kind == "M"
        assert back.tobytes() == array.tobytes()
        assert back.flags.writeable
    for scalar in (
        np.float32(1.5),
        np.int64(-1),
        np.bool_(True),
        np.str_("x"),
        np.datetime64(1, "s"),
        np.complex64(1j),
    ):
        back = unpack(joined({"k": scalar}), ())["k"]
        assert (type(back), back) == (type(scalar), scalar)


def test_arrays_that_need_pickle_are_refused(np: Any) -> None:
    """The path and the dtype are said."""
    for array in (np.array([object()]), np.zeros(1, [("x", object)]), np.array(["x"], np.dtypes.StringDType())):
        with pytest.raises(NotCarried, match=r"^value\.k\[0\] is a numpy array of dtype"):
            pack({"k": [array]}, "value", ())
    with pytest.raises(NotCarried, match=r"is of type numpy\.ma\.MaskedArray, which cannot be carried"):
        pack(np.ma.array([1]), "value", ())


def test_an_array_that_pickles_is_never_unpickled(np: Any) -> None:
    """An npy file of objects is a pickle, and is not read."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([print]), version=(2, 0), allow_pickle=True)
    with pytest.raises(BadValue, match="an array of dtype object"):
        unpack(tagged(["$ndarray", 0], file.getvalue()), ())


def test_arrays_of_hostile_shapes(np: Any) -> None:
    """A header that says more than there is makes nothing."""
    for described in (
        {"descr": "<f8", "fortran_order": False, "shape": (10**12,)},
        {"descr": "<f8", "fortran_order": False, "shape": (-1, -1)},
        {"descr": "<f8", "fortran_order": False, "shape": (True,)},
        {"descr": "|V0", "fortran_order": False, "shape": (2**40, 2**40)},
        {"descr": "<f8", "fortran_order": False, "shape": (0, 2**62, 2**62)},
        {"descr": ("<f8", (10**6,)), "fortran_order": False, "shape": ()},
    ):
        header = repr(described).encode() + b"\n"
        blob = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + bytes(8)
        with pytest.raises(BadValue):
            unpack(tagged(["$ndarray", 0], blob), ())
    del np


def test_changed_arrays_are_a_value_or_an_error(np: Any) -> None:
    """Any byte of it may be another."""
    whole = joined([np.arange(6.0), np.array([(1, 2.0)], [("x", "<i4"), ("y", "<f8")])])
    generator = random.Random(1)
    for _ in range(2000):
        data = bytearray(whole)
        data[generator.randrange(len(data))] = generator.randrange(256)
        with contextlib.suppress(BadValue):
            unpack(data, ())


MEMORY = """
import tracemalloc
import numpy as np
from aviato.aio.shipping.inside.carried import pack, unpack
value = np.ones(6_000_000)
tracemalloc.start()
pieces = pack([value], "value", ())
packing = tracemalloc.get_traced_memory()[1]
data = b"".join(pieces)
del pieces
tracemalloc.reset_peak()
back = unpack(data, ())[0]
assert back.nbytes == value.nbytes
print(packing / value.nbytes, tracemalloc.get_traced_memory()[1] / value.nbytes)
"""


@pytest.mark.slow
def test_large_arrays_are_not_copied_to_be_packed(np: Any) -> None:
    """The pieces are views of the array; unpacked it is there beside its bytes."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    packing, unpacking = map(float, done.stdout.split())
    assert packing < 0.1
    assert unpacking < 2.1
    del np


def test_frames_of_pandas_come_back(pa: Any) -> None:
    """Columns of every type that Arrow keeps, and the index."""
    pd = pytest.importorskip("pandas", exc_type=ImportError)
    frame = pd.DataFrame(
        {
            "a": [1, 2],
            "s": ["x", None],
            "c": pd.Categorical(["u", "v"]),
            "t": pd.to_datetime(["2020-01-01", "2021-01-01"]).tz_localize("UTC"),
            "n": [None, None],
            "d": [decimal.Decimal("1.5"), None],
            "day": [dt.date(2020, 1, 1), None],
            "f": [1.5, float("nan")],
            "b": [True, False],
            "raw": [b"x", b"y"],
        },
        index=["r", "q"],
    )
    for value in (frame, frame[["a"]].rename(columns={"a": 5}), pd.DataFrame(), frame.set_index(["a", "s"])):
        pd.testing.assert_frame_equal(unpack(joined([value]), ())[0], value)
    for column, text in (
        (pd.Series([1, None], dtype=object), "has the column 'k', whose values would arrive as"),
        ([[1], [2]], r"has the column 'k' of the type list<item: int64>, which cannot be carried"),
        ([object()], "cannot be written as Arrow"),
    ):
        with pytest.raises(NotCarried, match=rf"^value\[0\] {text}"):
            pack([pd.DataFrame({"k": column})], "value", ())
    with pytest.raises(NotCarried, match=r"cannot be written as Arrow: .*Duplicate column names"):
        pack(pd.DataFrame([[1, 2]], columns=["a", "a"]), "value", ())
    with pytest.raises(NotCarried, match=r"is of type pandas.*Series, which cannot be carried"):
        pack(frame["a"], "value", ())
    del pa


def test_frames_of_polars_and_tables_come_back(pa: Any) -> None:
    """With lists and structures in them."""
    table = pa.table({"a": [1, None], "l": [[1], [2, 3]], "s": [{"x": "y"}, None]})
    assert unpack(joined(table), ()).equals(table)
    pl = pytest.importorskip("polars", exc_type=ImportError)
    frame = pl.DataFrame({"a": [1, None], "l": [[1], [2, 3]], "s": ["x", "y"]})
    assert unpack(joined(frame), ()).equals(frame)


def stream(pa: Any, table: Any, **options: Any) -> bytes:
    """Write a table as an Arrow stream."""
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return file.getvalue()


def test_streams_that_would_grow_are_refused(pa: Any) -> None:
    """Compressed bodies, types that take no room, and views of one text: small streams of much data."""
    zeros = pa.table({"a": pa.array([0.0] * 100_000)})
    words = pa.table({"a": pa.array(["x"] * 1000).dictionary_encode()})
    for table in (zeros, words):
        for compression in ("lz4", "zstd"):
            with pytest.raises(BadValue, match="a compressed body"):
                unpack(tagged(["$pyarrow", 0], stream(pa, table, compression=compression)), ())
        assert unpack(tagged(["$pyarrow", 0], stream(pa, table)), ()).equals(table)
    for column in (
        pa.RunEndEncodedArray.from_arrays(pa.array([10**6], pa.int32()), pa.array([1])),
        pa.array(["x" * 100], pa.string_view()),
        pa.FixedSizeListArray.from_arrays(pa.nulls(1000), 1000),
        pa.array([[None] * 1000]),
    ):
        with pytest.raises(BadValue, match="an Arrow stream with the type"):
            unpack(tagged(["$pyarrow", 0], stream(pa, pa.table({"a": column}))), ())
    with pytest.raises(BadValue, match="for 10000000 rows"):
        unpack(tagged(["$pyarrow", 0], stream(pa, pa.table({"a": pa.nulls(10_000_000)}))), ())


def test_changed_streams_are_a_value_or_an_error(pa: Any) -> None:
    """Any byte of one may be another."""
    table = pa.table(
        {"a": [1, None], "s": ["x", "yy"], "c": pa.array(["u", "u"]).dictionary_encode(), "l": [[1], [2, 3]]}
    )
    whole = joined(table)
    generator = random.Random(1)
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        with contextlib.suppress(BadValue):
            unpack(data, ())


def test_packages_are_not_loaded_to_pack() -> None:
    """A value of none of them costs none of them."""
    program = """
import sys, datetime, decimal
from aviato.aio.shipping.inside.carried import pack, unpack
before = set(sys.modules)
data = b"".join(pack([1, (2,), {3}, datetime.date(2000, 1, 1), decimal.Decimal(1), b"x"], "value", ()))
unpack(data, ())
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
