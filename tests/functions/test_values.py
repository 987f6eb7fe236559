"""What the arguments and results of remote functions may be, on every engine."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import importlib
import math
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import AsyncIterator
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import pytest

from aviato import aio
from aviato.exceptions import FunctionSerializationError, SandboxExecutionError
from aviato.models import Serialization
from tests.helpers.fakes import interpreters_ended

T = TypeVar("T")


class Colour(enum.Enum):
    """An enumeration."""

    RED = "r"
    BLUE = "b"


class Right(enum.Flag):
    """A set of bits."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    """A dataclass with a method."""

    x: float
    y: float = 0.0

    def length(self) -> float:
        """Use the fields."""
        return math.hypot(self.x, self.y)


class Pair(NamedTuple):
    """A named tuple of another class."""

    left: Point
    right: Point | None = None


@attrs.frozen
class Order:
    """An attrs class with others inside."""

    number: int
    when: dt.datetime
    pairs: list[Pair] = attrs.field(factory=list)
    colours: frozenset[Colour] = frozenset()
    extra: dict[str, decimal.Decimal | None] = attrs.field(factory=dict)


@dataclasses.dataclass
class Box(Generic[T]):
    """A generic class."""

    inside: T


class Limits(TypedDict):
    """A dict of known keys."""

    low: float
    high: float


@dataclasses.dataclass
class Unnamed:
    """A class that no annotation names."""

    value: int


class Plain:
    """A class of which nothing but pickle knows what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]  # it is never a key


ORDER = Order(
    7,
    dt.datetime(2024, 2, 29, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    [Pair(Point(1.5)), Pair(Point(1), Point(2))],
    frozenset({Colour.RED}),
    {"price": decimal.Decimal("1.50"), "none": None},
)


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session
    await interpreters_ended()


async def test_types_of_the_standard_library(session: aio.Session) -> None:
    """They go and come as they are, without an annotation."""

    @session.function(concurrency=1)
    def echo(*values: Any, **named: Any) -> Any:
        return values, named

    values = (
        (1, (2, [3])),
        {1, 2},
        frozenset({(1, 2)}),
        b"\x00\xff" * 1000,
        bytearray(b"x"),
        10**5000,
        math.inf,
        complex(1, -2),
        range(5),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        dt.timedelta(days=1, microseconds=5),
        uuid.UUID(int=5),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        pathlib.PurePosixPath("/a/b"),
        {1: "a", (2, 3): b"b"},
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        ["$tuple", 1],
        "long " * 50_000,
    )
    result, named = await echo.remote(*values, key=(math.nan,))
    assert result == values
    assert list(map(type, result)) == list(map(type, values))
    assert math.isnan(named["key"][0])


async def test_classes_of_the_annotations(session: aio.Session) -> None:
    """Instances arrive as instances of the sandbox's own class, and come back as the client's."""

    @session.function(concurrency=1)
    def work(
        pairs: list[Pair], box: Box[list[Point]], right: Right, limits: Limits
    ) -> tuple[dict[Colour, Pair], Box[Pair], Right, Limits]:
        total = sum(pair.left.length() for pair in pairs)
        pair = Pair(box.inside[0], Point(total))
        return {Colour.BLUE: pairs[1]}, Box(pair), right | Right.WRITE, limits

    limits: Limits = {"low": 0, "high": 1}
    pairs = [Pair(Point(1.5)), Pair(Point(1), Point(2))]
    result = await work.remote(pairs, Box([Point(3, 4)]), Right.READ, limits)
    assert result == (
        {Colour.BLUE: pairs[1]},
        Box(Pair(Point(3, 4), Point(2.5))),
        Right.READ | Right.WRITE,
        {"low": 0.0, "high": 1.0},
    )
    assert isinstance(result[3]["low"], float)


async def test_classes_of_attrs(session: aio.Session) -> None:
    """They travel where attrs is installed in the sandbox too."""
    if not await is_there(session, "attrs"):
        pytest.skip("the sandbox has no attrs")

    @session.function(concurrency=1)
    def work(order: Order) -> Order:
        assert isinstance(order, Order)
        assert order.when.tzinfo.key == "Europe/Berlin"  # type: ignore[union-attr]  # it has one
        return attrs.evolve(order, number=order.number + 1)

    assert await work.remote(ORDER) == attrs.evolve(ORDER, number=8)


async def test_values_are_made_to_fit_the_annotations(session: aio.Session) -> None:
    """Arguments before they are sent, results when they come."""

    @session.function(concurrency=1)
    def shape(scale: float, points: list[Point], names: set[str]) -> tuple[float, ...]:
        assert type(scale) is float
        assert names == {"a"}
        return [int(scale * point.x) for point in points]  # type: ignore[return-value]  # what is to be made to fit

    assert await shape.remote(2, [{"x": 1}, Point(2)], ["a", "a"]) == (2.0, 4.0)  # type: ignore[arg-type, list-item]  # likewise
    with pytest.raises(FunctionSerializationError, match=r"args\[1\]\[1\]\.x: expected float, got str 'far'") as caught:
        await shape.remote(2, [Point(1), Point("far")], set())  # type: ignore[arg-type]  # the slip that is tested
    assert "annotation" in str(caught.value.hint)


async def test_a_result_that_does_not_fit(session: aio.Session) -> None:
    """The error has the path, the type, and the output that there was."""

    @session.function(concurrency=1)
    def lie(value: Any) -> dict[str, list[int]]:
        print("working")
        return {"items": [1, value]}

    assert await lie.remote(2) == {"items": [1, 2]}
    with pytest.raises(SandboxExecutionError, match=r"result\.items\[1\]: expected int, got float 2\.5") as caught:
        await lie.remote(2.5)
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.stdout == "working\n"
    assert session.sandbox_count == 1


async def test_a_class_that_nothing_names(session: aio.Session) -> None:
    """It is refused with its path and the way out, in both directions; one that the function uses is known."""

    @session.function(concurrency=1)
    def echo(value: Any) -> Any:
        return value

    with pytest.raises(
        FunctionSerializationError, match=r"args\[0\]\[1\] is of type .*Unnamed.*annotate the parameter"
    ):
        await echo.remote([1, Unnamed(2)])
    assert session.sandbox_count == 0

    @session.function(concurrency=1)
    def make(value: int) -> Any:
        return [Unnamed(value), Plain(1)] if value else [Unnamed(value)]

    assert await make.remote(0) == [Unnamed(0)]
    with pytest.raises(FunctionSerializationError, match=r"it ran, but result\[1\] is of type .*Plain.*cannot be"):
        await make.remote(1)


HERE_ONLY = """
import dataclasses

import only_here


@dataclasses.dataclass
class Needing:
    value: int = only_here.NUMBER


def look(value: Needing | None) -> bool:
    return value is None
"""


async def test_a_class_that_the_sandbox_cannot_make(
    session: aio.Session, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no error until a value needs it, and then the reason is said."""
    (tmp_path / "only_here.py").write_text("NUMBER = 1\n")
    (tmp_path / "needing.py").write_text(HERE_ONLY)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        needing = importlib.import_module("needing")
    try:
        del sys.modules["only_here"]
        look = session.function(concurrency=1)(needing.look)
        assert await look.remote(None) is True
        with pytest.raises(FunctionSerializationError, match=r"Needing cannot be had: .*No module named 'only_here'"):
            await look.remote(needing.Needing(1))
        assert await look.remote(None) is True
        assert session.sandbox_count == 1
    finally:
        del sys.modules["needing"]


async def test_pickled_arguments(session: aio.Session) -> None:
    """What only pickle knows arrives; classes that are shipped arrive as those; results are still checked values."""

    @session.function(concurrency=1, serialization=Serialization.PICKLE)
    def open_up(plain: Plain, *more: Any) -> Any:
        assert type(plain) is Plain
        assert all(item is more[0] for item in more)
        return plain if plain.value is None else plain.value

    shared = [1]
    shared.append(shared)  # type: ignore[arg-type]  # a circle, which pickle can
    assert await open_up.remote(Plain((1, {2})), shared, shared) == (1, {2})
    with pytest.raises(FunctionSerializationError, match=r"it ran, but result is of type .*Plain") as caught:
        await open_up.remote(Plain(None))
    assert "trust_result=True" in str(caught.value.hint)
    with pytest.raises(FunctionSerializationError, match=r"an argument cannot be pickled: .*lambda"):
        await open_up.remote(Plain(lambda: 1))


async def test_a_trusted_result_is_unpickled(session: aio.Session) -> None:
    """Everything then comes back, and what cannot be pickled is still said."""

    @session.function(concurrency=1, serialization=Serialization.PICKLE, trust_result=True)
    def wrap(value: Plain) -> Plain:
        return Plain([value, value]) if value.value else Plain(lambda: 1)

    result = await wrap.remote(Plain(5))
    assert result == Plain([Plain(5), Plain(5)])
    assert result.value[0] is result.value[1]
    with pytest.raises(FunctionSerializationError, match=r"it ran, but result cannot be pickled"):
        await wrap.remote(Plain(0))


async def test_a_pickle_for_an_untrusting_client_stays_bytes(session: aio.Session, tmp_path: pathlib.Path) -> None:
    """A sandbox that sends one gets nothing run."""
    mark = tmp_path / "mark"

    @session.function(concurrency=1, serialization=Serialization.PICKLE)
    def attack(path: str) -> Any:
        return b"cposix\nmkdir\n(V" + path.encode() + b"\ntR."

    assert isinstance(await attack.remote(str(mark)), bytes)
    assert not mark.exists()


async def is_there(session: aio.Session, module: str) -> bool:
    """Tell whether a sandbox can import a module."""

    @session.function(concurrency=1)
    def look(module: str) -> bool:
        import importlib.util

        return importlib.util.find_spec(module) is not None

    return await look.remote(module)


async def test_arrays_of_numpy(session: aio.Session) -> None:
    """They go as their bytes, never pickled; what would need pickle is refused."""
    np = pytest.importorskip("numpy", exc_type=ImportError)

    @session.function(concurrency=1)
    def double(array: Any, scale: Any) -> Any:
        return {"array": array * scale, "max": array.max(), "shape": array.shape}

    if not await is_there(session, "numpy"):
        with pytest.raises(FunctionSerializationError, match=r"cannot be made in the sandbox: .* needs numpy"):
            await double.remote(np.arange(6), 1)
        return
    result = await double.remote(np.arange(6, dtype="<f4").reshape(2, 3), np.float32(2))
    assert result["array"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert result["array"].dtype == np.dtype("<f4")
    assert type(result["max"]) is np.float32
    assert result["shape"] == (2, 3)
    with pytest.raises(FunctionSerializationError, match=r"args\[0\] is a numpy array of dtype object"):
        await double.remote(np.array([object()]), 1)


async def test_data_frames(session: aio.Session) -> None:
    """They go as Arrow."""
    pd = pytest.importorskip("pandas", exc_type=ImportError)
    pytest.importorskip("pyarrow", exc_type=ImportError)

    @session.function(concurrency=1)
    def filtered(frame: Any) -> Any:
        return frame[frame["a"] > 1]

    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["i", "j"])
    if not (await is_there(session, "pandas") and await is_there(session, "pyarrow")):
        with pytest.raises(
            FunctionSerializationError, match=r"cannot be made in the sandbox: .* needs (pandas|pyarrow)"
        ):
            await filtered.remote(frame)
        return
    pd.testing.assert_frame_equal(await filtered.remote(frame), frame[frame["a"] > 1])


async def test_large_bytes(session: aio.Session, engine: Any) -> None:
    """Tens of megabytes go in and come out, beside the document."""
    size = 5_000_000 if engine not in {"local", "docker"} else 50_000_000

    @session.function(concurrency=1)
    def turned(data: bytes, text: str) -> tuple[bytes, str]:
        return data[::-1], text

    data = bytes(range(256)) * (size // 256)
    text = "ü\ud800" * (size // 20)
    assert await turned.remote(data, text) == (data[::-1], text)
