"""Values made to fit annotations, and refused where they do not."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Protocol, TypedDict, TypeVar

import attrs
import pytest

from aviato.aio.shipping.annotations import classes_of, hints, item_type, result_type
from aviato.aio.shipping.carrier import Carrier
from aviato.aio.shipping.fitting import MismatchError
from aviato.aio.shipping.inside.carried import pack
from aviato.aio.shipping.inside.messages import read_call
from aviato.aio.shipping.inside.refused import BadValue, NotHere
from aviato.aio.shipping.typed import fit
from aviato.exceptions import FunctionSerializationError
from aviato.models import Serialization

T = TypeVar("T")
N = TypeVar("N", bound=int)
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    """An enumeration."""

    RED = "r"


class Level(enum.IntEnum):
    """An enumeration of numbers."""

    LOW = 1


class Mode(enum.StrEnum):
    """An enumeration of texts."""

    READ = "read"


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    y: float = 0.0


@attrs.frozen
class Order:
    """An attrs class with a check, and others inside."""

    when: dt.datetime
    points: list[Point] = attrs.field(factory=list)
    count: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    back: Order | None = None


@dataclasses.dataclass
class Box(Generic[T]):
    """A generic."""

    inside: T


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: Point | None = None


class Options(TypedDict):
    """A dict of known keys."""

    name: str
    size: NotRequired[int]


class Holder(TypedDict):
    """A dict with an object in it."""

    order: Order


class Closable(Protocol):
    """What nothing can be checked against."""

    def close(self) -> None:
        """Close."""


class Lost:
    """A class whose fields' annotations name nothing."""


@dataclasses.dataclass
class Vague:
    """A dataclass with an annotation that cannot be evaluated."""

    a: Missing  # type: ignore[name-defined]  # noqa: F821 - what is tested
    b: int = 1


NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
POINT = Point(1, 2.0)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, True, True),
        (float, 1, 1.0),
        (complex, 1, complex(1)),
        (bytes, bytearray(b"x"), b"x"),
        (bytearray, b"x", bytearray(b"x")),
        (None, None, None),
        (list[int], (1, 2), [1, 2]),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (list, (1,), [1]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[float, ...], [1, 2], (1.0, 2.0)),
        (tuple, [1], (1,)),
        (tuple[()], [], ()),
        (set[int], [1, 2, 2], {1, 2}),
        (frozenset[str], {"a"}, frozenset("a")),
        (collections.deque[int], [1], collections.deque([1])),
        (Sequence[int], (1,), (1,)),
        (Sequence[int], [1], [1]),
        (Iterable[float], {1}, {1.0}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[int, tuple[int, int]], {1: [2, 3]}, {1: (2, 3)}),
        (Mapping[str, set[int]], {"a": [1]}, {"a": {1}}),
        (collections.OrderedDict[str, int], {"a": 1}, collections.OrderedDict(a=1)),
        (collections.Counter[str], {"a": 1}, collections.Counter("a")),
        (int | None, None, None),
        (int | float, 1, 1),
        (float | None, 1, 1.0),
        (float | str, 2, 2.0),
        (str | pathlib.Path, "x", "x"),
        (dict[str, int] | Point, {"x": 1}, {"x": 1}),
        (Point | None, {"x": 1}, Point(1)),
        (list[int] | list[str], ["a"], ["a"]),
        (Literal["a", 1, Colour.RED], 1, 1),
        (Annotated[float, "metres"], 1, 1.0),
        (UserId, 5, 5),
        (N, 5, 5),
        (T, "any", "any"),
        (Any, [1], [1]),
        (object, [1], [1]),
        (dt.datetime, NOW, NOW),
        (dt.datetime, "2024-01-01T00:00:00+00:00", NOW),
        (dt.date, "2024-01-01", dt.date(2024, 1, 1)),
        (uuid.UUID, str(uuid.UUID(int=1)), uuid.UUID(int=1)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (pathlib.Path, "/a", pathlib.Path("/a")),
        (Colour, "r", Colour.RED),
        (Colour, Colour.RED, Colour.RED),
        (Level, 1, Level.LOW),
        (Level, Level.LOW, Level.LOW),
        (list[Level], [1], [Level.LOW]),
        (Mode, "read", Mode.READ),
        (Mode | None, "read", Mode.READ),
        (int, Level.LOW, Level.LOW),
        (Point, {"x": 1, "y": 2}, POINT),
        (Point, Point(1, 2), POINT),
        (list[Point], [{"x": 1}, Point(2)], [Point(1), Point(2)]),
        (Order, {"when": NOW, "points": [{"x": 1}]}, Order(NOW, [Point(1)])),
        (Order, {"when": NOW, "back": {"when": NOW}}, Order(NOW, back=Order(NOW))),
        (Box[int], {"inside": 1}, Box(1)),
        (Box[list[float]], Box([1]), Box([1.0])),
        (Pair, [1, {"x": 2}], Pair(1, Point(2))),
        (Pair, Pair(1, Point(1, 1)), Pair(1, Point(1, 1.0))),
        (Options, {"name": "a"}, {"name": "a"}),
        (Closable, 5, 5),
        (Callable[[int], int], print, print),
        (Vague, Vague("any"), Vague("any")),
    ],
    ids=repr,
)
def test_a_value_is_made_to_fit(kind: Any, value: Any, expected: Any) -> None:
    """What stands for a value of the type becomes one; what is one stays."""
    made = fit(value, kind, "result")
    assert made == expected
    assert type(made) is type(expected)
    if isinstance(made, (list, tuple)):
        assert list(map(type, made)) == list(map(type, expected))


def test_what_fits_is_not_made_again() -> None:
    """An instance whose fields fit is the same one after, and its constructor does not run twice."""
    order = Order(NOW, [POINT])
    assert fit(order, Order, "x") is order
    pair = Pair(1, POINT)
    assert fit(pair, Pair, "x") is pair


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (int, "5", r"^result: expected int, got str '5'"),
        (int, 2.0, r"^result: expected int, got float 2\.0"),
        (int, None, r"^result: expected int, got None"),
        (float, "1", r"^result: expected float, got str"),
        (float, 10**400, r"^result: OverflowError"),
        (bool, 1, r"^result: expected bool, got int 1"),
        (str, b"x", r"^result: expected str, got bytes"),
        (None, 0, r"^result: expected None, got int 0"),
        (list[int], "12", r"^result: expected list\[int\], got str '12'"),
        (list[int], {1}, r"^result: expected list\[int\], got set"),
        (list[int], [1, "x"], r"^result\[1\]: expected int, got str 'x'"),
        (tuple[int, int], [1], r"^result: expected tuple\[int, int\], got 1 items"),
        (dict[str, int], {"a b": None}, r"^result\['a b'\]: expected int, got None"),
        (dict[str, int], {"a": None}, r"^result\.a: expected int, got None"),
        (dict[str, int], {1: 1}, r"^result \(the key 1\): expected str, got int 1"),
        (dict[str, int], [], r"^result: expected dict\[str, int\], got list"),
        (int | None, "x", r"^result: expected int \| None, got str 'x'"),
        (Point | None, Point("x"), r"^result\.x: expected int, got str 'x'"),  # type: ignore[arg-type]  # the slip
        (Literal["a"], "b", r"^result: expected Literal\['a'\], got str 'b'"),
        (Literal[1], True, r"^result: expected Literal\[1\], got bool True"),
        (Colour, "x", r"^result: expected Colour, got str 'x'"),
        (Level, 5, r"^result: expected Level, got int 5"),
        (Mode, "write", r"^result: expected Mode, got str 'write'"),
        (dt.date, "yesterday", r"^result: expected date, got str"),
        (decimal.Decimal, "x", r"^result: expected Decimal, got str"),
        (decimal.Decimal, 1.5, r"^result: expected Decimal, got float"),
        (Point, {"y": 1.0}, r"^result\.x: this field is missing"),
        (Point, {"x": 1, "z": 1}, r"^result: Point has no field 'z'"),
        (Point, [1], r"^result: expected Point, got list"),
        (Order, {"when": NOW, "points": [POINT, {"x": "a"}]}, r"^result\.points\[1\]\.x: expected int, got str 'a'"),
        (Order, {"when": NOW, "count": 0}, r"^result.*: ValueError: 'count' must be >= 1"),
        (Box[int], Box("x"), r"^result\.inside: expected int, got str 'x'"),
        (Pair, (1, 2, 3), r"^result: expected Pair, got tuple"),
        (Pair, (1, Point(None)), r"^result\.right\.x: expected int, got None"),  # type: ignore[arg-type]  # the slip
        (Options, {"name": 1}, r"^result\.name: expected str, got int 1"),
        (Options, {"name": "a", "other": 1}, r"^result: Options has no field 'other'"),
        (Options, [], r"^result: expected Options, got list"),
        (Lost, 5, r"^result: expected Lost, got int 5"),
        (Vague, {"a": 1}, r"^result: "),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_named(kind: Any, value: Any, text: str) -> None:
    """The error has the path, the type and what there was; nothing is cut, rounded or read as something else."""
    with pytest.raises(MismatchError, match=text):
        fit(value, kind, "result")


def test_a_value_in_itself_is_an_error() -> None:
    """A type that contains itself, and a value that does."""
    order = Order(NOW)
    object.__setattr__(order, "back", order)
    with pytest.raises(MismatchError, match=r"nested too deep"):
        fit(order, Order, "result")


@dataclasses.dataclass
class Left:
    """A class that another cannot be told from."""

    child: Left | Right | int
    last: int = 0


@dataclasses.dataclass
class Right:
    """The other."""

    child: Left | Right | int
    last: int = 0


@pytest.mark.parametrize("end", [{"child": "x"}, {"child": 1, "last": "x"}])
def test_unions_in_unions_are_not_tried_without_end(end: Any) -> None:
    """Two ways at each of 60 levels would be more than anybody can wait for."""
    value: Any = end
    for _ in range(60):
        value = {"child": value, "last": "x"}
    with pytest.raises(MismatchError, match=r"^result"):
        fit(value, Left | Right, "result")
    value = 1
    for _ in range(60):
        value = {"child": value}
    made = fit(value, Left | Right, "result")
    assert isinstance(made.child, Left)


def test_annotations_that_cannot_be_evaluated_are_told() -> None:
    """Who annotated, and is told to annotate, wants to know."""

    def function(a: NotGlobal, b: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - what is tested

    with pytest.raises(FunctionSerializationError) as caught:
        Carrier(function, ()).pack_arguments((POINT, 1), {})
    assert "cannot be evaluated, as their names are not global: a." in str(caught.value.hint)


def test_annotations_are_evaluated_as_far_as_they_go() -> None:
    """One that fails leaves the others; the closure's names count."""
    local = int

    def function(a: Missing, b: Point, c: local, *d: list[Colour]) -> Box[Pair]:  # type: ignore[name-defined, valid-type]  # noqa: F821 - what is tested
        return local(c)  # type: ignore[return-value]  # it uses the name

    assert hints(function) == {"b": Point, "c": int, "d": list[Colour], "return": Box[Pair]}


def test_classes_are_found_through_everything() -> None:
    """Generics, unions, marks, fields of fields, members of literals, keys of typed dicts."""

    def function(
        a: dict[str, Annotated[list[Holder], 1] | None], b: Literal[Colour.RED], c: tuple[Lost, ...]
    ) -> Pair | None:
        return None

    assert set(classes_of(function)) == {Order, Point, Colour, Pair}
    assert set(classes_of(function, without_fields=True)) == {Order, Point, Colour, Lost, Pair}


def test_the_type_of_results_and_items() -> None:
    """What is awaited, and what a generator gives."""
    assert result_type({"return": Awaitable[int]}) is int
    assert result_type({"return": Coroutine[Any, Any, str]}) is str
    assert result_type({}) is Any
    assert item_type({"return": Iterator[int]}) is int
    assert item_type({"return": int}) is Any


def sent(carrier: Carrier, *args: Any, **kwargs: Any) -> Any:
    """Give what the other side would get."""
    return read_call(b"".join(carrier.pack_arguments(args, kwargs)), (Point, Order, Pair, Colour))[:2]


def test_arguments_go_to_their_parameters() -> None:
    """By place and by name, the rest too; what has no parameter is refused."""

    def function(a: float, /, b: set[int], *rest: float, c: Point = POINT, **more: tuple[int, ...]) -> Any: ...

    carrier = Carrier(function, (Point, Order, Pair, Colour))
    assert sent(carrier, 1, [2], 3, 4, c={"x": 1}, d=[5], a=[6]) == (
        [1.0, {2}, 3.0, 4.0],
        {"c": Point(1), "d": (5,), "a": (6,)},
    )
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (("x", {2}), {}, r"function: args\[0\]: expected float, got str 'x'"),
        ((1, {2}, 3, "y"), {}, r"args\[3\]: expected float"),
        ((1,), {"b": [1, "z"]}, r"kwargs\.b\[1\]: expected int, got str 'z'"),
        ((1, {2}), {"e": 5}, r"kwargs\.e: expected tuple\[int, \.\.\.\], got int 5"),
    ]
    for args, kwargs, text in wrong:
        with pytest.raises(FunctionSerializationError, match=text) as caught:
            carrier.pack_arguments(args, kwargs)
        assert "annotation" in str(caught.value.hint)

    def narrow(a: int) -> None: ...

    for arguments, names in (((1, "many"), {}), ((1,), {"b": 2}), ((), {})):
        with pytest.raises(TypeError, match=r"a call of .*narrow: .*; it takes \(a\)"):
            Carrier(narrow, ()).pack_arguments(arguments, names)


def test_under_a_decorator_nothing_is_assumed() -> None:
    """The annotations are those of the function inside, which the wrapper may call with other values."""
    import functools

    def inside(a: int) -> int:
        return a

    @functools.wraps(inside)
    def outside(*args: Any) -> str:
        return str(args)

    carrier = Carrier(outside, ())
    assert sent(carrier, "x") == (["x"], {})
    assert carrier.unpack_result(b"".join(pack("text", "", ()))) == "text"


def test_results_and_items_are_made_to_fit() -> None:
    """And an error when they do not, or when they are nothing."""

    def function() -> list[tuple[int, float]]:
        return []

    def generator() -> Iterator[set[int]]:
        yield set()

    carrier = Carrier(function, ())
    assert carrier.unpack_result(b"".join(pack([[1, 2]], "", ()))) == [(1, 2.0)]
    with pytest.raises(BadValue, match=r"^result\[0\]: expected tuple\[int, float\], got int 1"):
        carrier.unpack_result(b"".join(pack([1], "", ())))
    with pytest.raises(BadValue, match="less than a header"):
        carrier.unpack_result(b"")
    carrier = Carrier(generator, ())
    assert carrier.unpack_item(b"".join(pack([1], "", ()))) == {1}
    with pytest.raises(BadValue, match=r"^item: expected"):
        carrier.unpack_item(b"".join(pack(5, "", ())))


def test_a_pickled_result_needs_trust() -> None:
    """Without it the bytes of a pickle are bytes; with it a class of the table is the client's own."""

    def function() -> Any: ...

    from aviato.aio.shipping.inside.messages import write_result

    message = b"".join(write_result([Lost], "result", (Lost,), trusted=True))
    trusting = Carrier(function, (Lost,), Serialization.PICKLE, trust_result=True)
    assert trusting.unpack_result(message) == [Lost]
    assert isinstance(Carrier(function, (Lost,), Serialization.PICKLE).unpack_result(message), bytes)
    assert "trust_result=True" in Carrier(function, (), Serialization.PICKLE).result_hint
    assert "trust_result" not in trusting.result_hint


def test_what_this_side_lacks_is_said() -> None:
    """It is no fault of the sandbox."""

    def function() -> Any: ...

    message = b"".join(pack(POINT, "", (Point,)))
    with pytest.raises(NotHere, match=r"^result cannot be made on this side: no Point"):
        Carrier(function, ("no Point",)).unpack_result(message)


def test_plain_annotations_load_no_converter() -> None:
    """cattrs is for those who need it."""
    program = """
import sys
from aviato.aio.shipping.carrier import Carrier
from aviato.aio.shipping.inside.carried import pack
def function(a: int, b: str) -> float: ...
carrier = Carrier(function, ())
carrier.pack_arguments((1,), {"b": "x"})
carrier.unpack_result(b"".join(pack(2.5, "", ())))
assert "aviato.aio.shipping.typed" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
