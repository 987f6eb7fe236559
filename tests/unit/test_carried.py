"""The packed form of values: what goes in comes out, what cannot is named, and hostile bytes do no harm."""

from __future__ import annotations

import ast
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import pathlib
import subprocess
import sys
import uuid
import zoneinfo
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviato.aio.shipping import inside
from aviato.aio.shipping.inside import messages
from aviato.aio.shipping.inside.carried import pack, unpack
from aviato.aio.shipping.inside.gathered import HEADER, MAGIC
from aviato.aio.shipping.inside.messages import (
    read_call,
    read_result,
    write_call,
    write_pickled_call,
    write_result,
)
from aviato.aio.shipping.inside.refused import BadValue, NotCarried


class Colour(enum.Enum):
    """An enumeration."""

    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    """An enumeration that is also an int."""

    LOW = 1


class Right(enum.Flag):
    """A set of bits."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    """A dataclass with a field that its constructor does not take."""

    x: Any
    y: Any = 0
    total: Any = dataclasses.field(init=False, default=7)


@attrs.frozen
class Secret:
    """An attrs class whose parameter has another name than its field."""

    _key: Any
    plain: Any = None


class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    """A generic dataclass, which can be a key."""

    inside: T


class Below(Point):
    """A subclass that adds nothing."""


class Plain:
    """No fields that anybody knows of."""


@dataclasses.dataclass
class Made:
    """A dataclass that is made from what it does not keep."""

    x: int
    seed: dataclasses.InitVar[int]


class Picky(NamedTuple):
    """A named tuple with a field of its own kind."""

    point: Point


CLASSES: tuple[Any, ...] = (Colour, Level, Right, Point, Secret, Pair, Box, Below, Picky)


def joined(value: Any, classes: Any = CLASSES) -> bytes:
    """Pack into one piece."""
    return b"".join(pack(value, "value", classes))


def there_and_back(value: Any, classes: Any = CLASSES) -> Any:
    """Pack and unpack."""
    return unpack(joined(value, classes), classes)


def same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - a table of kinds
    """Compare values and types; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, c) and same(b, d) for (a, b), (c, d) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, Point):
        return same(vars(one), vars(other))
    if isinstance(one, Secret):
        return same([one._key, one.plain], [other._key, other.plain])
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    return bool(one == other)


VALUES: list[Any] = [
    None,
    True,
    -(10**5000),
    1 << 10000,
    (1 << 10000) - 1,
    2.5,
    -0.0,
    math.nan,
    -math.inf,
    complex(1, math.inf),
    "é\ud800\x00",
    "long \ud800 ü" * 20_000,
    b"\x00\xff",
    bytearray(b"ab"),
    [],
    ["$tuple", 1],
    ["$", ["$list"]],
    {"$": "$tuple", "": []},
    (),
    (1, (2, [3])),
    {1, "a", (2, frozenset({3}))},
    frozenset(),
    {1: 2, (3, 4): {None: [True]}, "x": 1.5},
    {"$tuple": (1,)},
    collections.OrderedDict([("b", 1), ("a", (2,))]),
    collections.Counter("abca"),
    collections.defaultdict(list, {1: [2]}),
    collections.defaultdict(None, {"a": 1}),
    collections.deque([1, (2,)], 3),
    collections.deque(),
    range(1, 10**30, 7),
    dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(1, 1, 1),  # noqa: DTZ001 - without a zone is what is tested
    dt.date(9999, 12, 31),
    dt.time(23, 59, 59, 999999, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=1), "odd")),
    dt.timedelta(days=-1, microseconds=1),
    dt.timezone(dt.timedelta(hours=2)),
    dt.timezone(dt.timedelta(0), "zero"),
    zoneinfo.ZoneInfo("America/Argentina/Buenos_Aires"),
    uuid.UUID(int=7),
    decimal.Decimal("1.500"),
    decimal.Decimal("-NaN123"),
    fractions.Fraction(-1, 3),
    pathlib.Path("/a/b"),
    pathlib.PurePosixPath("../x"),
    pathlib.PureWindowsPath("c:\\x"),
    Colour.RED,
    Level.LOW,
    Right.READ | Right.WRITE,
    Right(0),
    Point([Pair(1, Colour.BLUE)], {2: Secret((3,), b"4")}),
    Below(1),
    {Box(1): Box("a")},
    Picky(Point(1)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Value and type are kept, alone and inside others."""
    for form in (value, [value], {"k": (value, value)}):
        assert same(there_and_back(form), form)
    assert same(unpack(bytearray(joined(value)), CLASSES), value)
    assert same(unpack(memoryview(joined(value)), CLASSES), value)


def test_what_a_constructor_makes_is_made_again() -> None:
    """Fields that the constructor does not take are not carried: its checks run on what came."""
    point = Point(1)
    point.total = 9
    assert there_and_back(point).total == 7


def test_views_of_bytes_arrive_as_bytes() -> None:
    """A view is of memory that the other side has not."""
    assert there_and_back([memoryview(b"abc")[1:]]) == [b"bc"]


def test_plain_values_stay_plain_json() -> None:
    """What is JSON has no tags, so that it costs no walk on the other side."""
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}
    data = joined(value)
    magic, tagged, blobs, length = HEADER.unpack_from(data)
    assert (magic, tagged, blobs) == (MAGIC, 0, 0)
    assert json.loads(data[-length:]) == value
    data[-length:].decode("ascii")


def test_bytes_are_never_encoded() -> None:
    """They stand beside the document, and are not copied to get there."""
    value = bytes(range(256)) * 4096
    pieces = pack({"a": [value]}, "value", ())
    assert any(piece is value for piece in pieces)
    assert sum(map(len, pieces)) < len(value) + 100


@dataclasses.dataclass
class Stray:
    """A class that no table has."""


CIRCLE: list[Any] = [1]
CIRCLE.append({"again": (CIRCLE,)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"items": [1, 2, {"when": object()}]}, r"^value\.items\[2\]\.when is of type builtins\.object, which cannot"),
        ({"a b": [{}, print]}, r"^value\['a b'\]\[1\] is of type builtins\.builtin_function_or_method"),
        ((1, Plain()), r"^value\[1\] is of type .*Plain, which cannot be carried"),
        ([Stray()], r"^value\[0\] is of type .*Stray, which is not known to the function: annotate the parameter"),
        ({1: {(2, 3): Plain()}}, r"^value\[1\]\[\.\.\.\] is of type"),
        ({b"k": Plain()}, r"^value\[b'k'\] is of type"),
        ({(1, Plain): 1}, r"^value \(the key \.\.\.\)\[1\] is of type builtins\.type"),
        ({"s": {frozenset({Plain})}}, r"^value\.s\{\.\.\.\}\{\.\.\.\} is of type"),
        (Point(1, [Pair(Secret(0, Plain()), 2)]), r"^value\.y\[0\]\.left\.plain is of type"),
        (Point(Secret(Plain())), r"^value\.x\._key is of type"),
        (collections.deque([0, Plain()]), r"^value\[1\] is of type"),
        (collections.OrderedDict(a=Plain()), r"^value\['a'\] is of type"),
        (collections.defaultdict(lambda: 1), r"^value is a defaultdict whose default_factory"),
        (collections.defaultdict[str, Any](list, k=Plain()), r"^value\['k'\] is of type"),
        (Made(1, 2), r"^value is of type .*Made, which is not known"),
        (fractions.Fraction(1, 3**20000), r"^value is a fraction of numbers with more than"),
        (memoryview(b"abcd")[::2], r"^value is a memoryview of more"),
        (dt.datetime(2000, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()), r"^value\.tzinfo is of type .*Zone"),
        (CIRCLE, r"^value contains itself"),
        ([0, CIRCLE], r"^value\[1\] contains itself"),
        (type("Text", (str,), {})("x"), r"^value is of type .*Text, which cannot be carried"),
    ],
)
def test_a_value_that_cannot_travel_is_named(value: Any, text: str) -> None:
    """The error has the way to the value, so that nobody has to search."""
    with pytest.raises(NotCarried, match=text):
        pack(value, "value", CLASSES)


def test_what_its_constructor_cannot_make_is_refused() -> None:
    """A class of the table whose instances cannot be made from their fields says why, before anything is sent."""
    with pytest.raises(NotCarried, match=r"^x cannot be carried: Made has the InitVar 'seed'"):
        pack(Made(1, 2), "x", (Made,))
    point = Point(1)
    del point.x
    with pytest.raises(NotCarried, match=r"^x has no value in its field 'x'"):
        pack(point, "x", CLASSES)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: {1: x}, Point])
def test_depth_has_a_limit(wrap: Any) -> None:
    """500 levels travel, of every kind; more is refused, and never a RecursionError."""
    value: Any = 0
    for _ in range(500):
        value = wrap(value)
    back = there_and_back(value)
    for _ in range(500):
        back = next(iter(back.values())) if isinstance(back, dict) else back.x if isinstance(back, Point) else back[0]
    assert back == 0
    for _ in range(3000):
        value = wrap(value)
    with pytest.raises(NotCarried, match="is nested more than 500 deep"):
        pack(value, "value", CLASSES)


def test_a_circle_that_doubles_is_found_at_once() -> None:
    """A search that followed every way would never end."""
    circle: list[Any] = []
    circle += [circle, circle]
    with pytest.raises(NotCarried, match="contains itself"):
        pack(circle, "value", ())
    shared: list[Any] = [1]
    assert there_and_back([shared, shared]) == [[1], [1]]


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.sampled_from(Colour)
    | st.sampled_from(["$", "$tuple", "$list"])
)
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.dates() | st.sampled_from(Colour)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.builds(Point, inner, inner)
        | st.builds(Secret, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_any_value_comes_back(value: Any) -> None:
    """Whatever is made of the kinds that travel."""
    assert same(there_and_back(value), value)


def test_calls_and_results() -> None:
    """Arguments are named by their paths; a pickle has the classes of the table by number."""
    message = b"".join(write_call((1, Point(2)), {"k": b"x"}, CLASSES))
    assert read_call(message, CLASSES) == ([1, Point(2)], {"k": b"x"}, False)
    with pytest.raises(NotCarried, match=r"^args\[1\]\.x is of type"):
        write_call((1, Point(object())), {}, CLASSES)
    with pytest.raises(NotCarried, match=r"^kwargs\.k is of type"):
        write_call((), {"k": object()}, CLASSES)
    message = b"".join(write_pickled_call(({Plain},), {"k": Colour.RED}, (Plain, Colour), trusted=True))
    assert b"Plain" not in message
    assert read_call(message, (Stray, Colour))[0] == ({Stray},)
    assert read_call(message, (Plain, Colour)) == (({Plain},), {"k": Colour.RED}, True)
    with pytest.raises(BadValue, match="no such class"):
        read_call(message, ("no such class", Colour))
    with pytest.raises(NotCarried, match="an argument cannot be pickled"):
        write_pickled_call((lambda: 1,), {}, (), trusted=False)
    result = b"".join(write_result(Plain, "result", (Plain,), trusted=True))
    assert read_result(result, (Plain,), trusted=True) is Plain
    with pytest.raises(BadValue, match="a pickle was expected"):
        read_result(joined(1), (), trusted=True)
    assert isinstance(read_result(result, (Plain,), trusted=False), bytes)  # never unpickled without trust
    with pytest.raises(BadValue, match="cannot be unpickled"):
        read_result(joined(b"junk"), (), trusted=True)


MEMORY = """
import sys, tracemalloc
from aviato.aio.shipping.inside.carried import pack, unpack
size = 50_000_000
value = {kind}
tracemalloc.start()
data = b"".join(pack([value], "value", ()))
packing = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
back = unpack(data, ())
unpacking = tracemalloc.get_traced_memory()[1]
assert len(back[0]) == size
print(packing / size, unpacking / size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes(size)", "bytearray(size)", "'x' * size"])
def test_large_values_are_few_times_in_memory(kind: str) -> None:
    """Joined for a pipe a value is there twice, packed; unpacked it is there beside its bytes."""
    program = MEMORY.replace("{kind}", kind)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packing, unpacking = map(float, done.stdout.split())
    assert packing < 2.1  # beside the value itself, which was made before
    assert unpacking < 2.1


@pytest.mark.parametrize("path", sorted(Path(inside.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_what_runs_inside_is_of_python_3_8(path: Path) -> None:
    """It must at least be its grammar; `test_shipping` runs it under the Pythons there are."""
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_a_result_of_too_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where it is made, and where it comes from a stranger; bytes do not count."""
    monkeypatch.setattr(messages, "RESULT_TEXT_LIMIT", 1000)
    assert (
        messages.read_result(b"".join(messages.write_result(b"x" * 5000, "result", (), False)), (), False)
        == b"x" * 5000
    )
    with pytest.raises(NotCarried, match="result has 2"):
        messages.write_result([1] * 1000, "result", (), False)
    with pytest.raises(BadValue, match="at most 1000"):
        messages.read_result(b"".join(pack([1] * 1000, "x", ())), (), False)
