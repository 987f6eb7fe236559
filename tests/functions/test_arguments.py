"""Arguments that a function does not take are refused on the client, before any sandbox is made."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.exceptions import SandboxExecutionError
from tests.helpers.fakes import interpreters_ended


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session
    await interpreters_ended()


def _giving(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate so that the first argument is given here."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(10, *args, **kwargs)

    return inner


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'width'"),
        ((1,), {}, "missing a required (keyword-only )?argument: 'unit'"),
        ((1, 2, 3), {"unit": "m"}, "too many positional arguments"),
        ((1,), {"unit": "m", "depth": 2}, "got an unexpected keyword argument 'depth'"),
        ((1,), {"unit": "m", "width": 2}, "multiple values for argument 'width'"),
    ],
)
async def test_a_call_that_cannot_be(session: aio.Session, args: Any, kwargs: Any, said: str) -> None:
    """The error has the function, what is wrong, and what it takes; no sandbox was made for it."""

    @session.function
    def area(width: int, height: int = 2, *, unit: str) -> int:
        return width * height

    @session.function
    def counted(width: int, height: int = 2, *, unit: str) -> Iterator[int]:
        yield width * height

    takes = r"; it takes \(width, height=\.\.\., \*, unit\)$"
    with pytest.raises(TypeError, match=rf"^a call of .*area: {said}{takes}"):
        await area.remote(*args, **kwargs)
    with pytest.raises(TypeError, match=rf"^a call of .*counted: {said}{takes}"):
        [item async for item in counted.stream(*args, **kwargs)]
    assert session.sandbox_count == 0


async def test_an_item_that_cannot_be(session: aio.Session) -> None:
    """In `map` it is the error of the item, in its place."""

    @session.function(concurrency=1)
    def double(value: int) -> int:
        return 2 * value

    results = []
    with pytest.raises(TypeError, match="too many positional arguments"):
        async for result in double.map([(1,), (2,), (3, 4), (5,)]):
            results.append(result)  # noqa: PERF401 - what was given before the error is kept
    assert results == [2, 4]
    async with session.pool(1) as pool:
        found = [item async for item in pool.map(double, [1, (2, 3), 4], return_exceptions=True)]
        assert found == [2, found[1], 8]
        assert isinstance(found[1], TypeError)
        assert pool.stats().retried == 0


async def test_only_what_is_known_is_refused(session: aio.Session) -> None:
    """A decorator may give arguments, and a signature may be only claimed: then the function decides."""

    @session.function
    @_giving
    def added(first: int, second: int) -> int:
        return first + second

    def anything(*args: int) -> int:
        return sum(args)

    anything.__signature__ = inspect.Signature()  # type: ignore[attr-defined]  # as makers of decorators do
    claimed = session.function(anything)

    assert await added.remote(1) == 11
    assert await claimed.remote(1, 2) == 3
    with pytest.raises(SandboxExecutionError, match="TypeError"):
        await added.remote(1, 2)


def test_the_front_door(engine: Any) -> None:
    """The error is a TypeError there as well."""
    with aviato.Session(engine=engine) as session:

        @session.function
        def one(value: int) -> int:
            return value

        with pytest.raises(TypeError, match=r"missing a required argument: 'value'; it takes \(value\)"):
            one.remote().result()  # type: ignore[call-arg]  # the slip that is tested
        assert session.sandbox_count == 0


NAMES = ["self", "args", "kwargs", "function", "home", "wrap", "name", "items", "timeout", "cls"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_parameter(
    local_engine: None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter may be called what those of ours are, on both faces."""
    (tmp_path / f"named_{name}.py").write_text(
        f"def one(*, {name}):\n    return {name}\n\n\ndef some(*, {name}):\n    yield {name}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(f"named_{name}")
    with aviato.Session(engine="local") as session:
        one, some = session.function(module.one), session.function(module.some)
        assert one.remote(**{name: 1}).result() == 1
        assert list(some.stream(**{name: 2})) == [2]
        assert one.local(**{name: 3}) == one(**{name: 3}) == 3
