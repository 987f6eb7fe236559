"""Functions of many shapes, shipped and run by the runner in a plain subprocess, under every Python of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import functools
import importlib.util
import json
import linecache
import logging
import math
import os.path as paths
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aviato.aio.shipping.carrier import Carrier
from aviato.aio.shipping.collect import check_function, collect
from aviato.aio.shipping.inside.messages import read_result, write_call, write_pickled_call
from aviato.aio.shipping.inside.runner import ERROR, MARK, NOT_CARRIED, VALUE
from aviato.aio.shipping.program import BOOT, COMMAND, message, program
from aviato.exceptions import FunctionSerializationError

if TYPE_CHECKING:
    from decimal import Decimal

LIMIT = 10
TABLE: dict[str, Any] = {"a": (1, 2.5), "b": [None, True, b"\x00\xff"], "text": "\ud800 ü"}
NOTHING: set[int] = set()
ENDLESS = math.inf
WORD = re.compile(r"\w+", re.IGNORECASE)
PLACE = PurePosixPath("/srv/data")
log = logging.getLogger(__name__)
twice: Callable[[Any], Any] = lambda x: x * 2  # noqa: E731 - a named lambda is what is tested
PAIR: tuple[Callable[[int], int], ...] = (lambda x: x + 1), (lambda x: x + 2)
pick, other = PAIR


class Colour(enum.Enum):
    """An enumeration."""

    RED = "r"
    BLUE = "b"


FAVOURITE = Colour.BLUE


class Base:
    """A base class."""

    def greet(self) -> str:
        """Greet."""
        return f"base {LIMIT}"


class Derived(Base):
    """A class with a base, class data and `super`."""

    step = LIMIT + 1

    def greet(self) -> str:
        """Greet."""
        return f"derived {super().greet()} {self.step}"


@dataclasses.dataclass
class Point:
    """A dataclass whose annotations name what the sandbox does not have."""

    x: int
    y: Decimal | int = 0

    def total(self) -> int:
        """Add."""
        return int(self.x + self.y)


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: int = 5


def shout(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make text loud."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return str(function(*args, **kwargs)).upper()

    return wrapper


def plain_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap without saying so."""

    def inside(*args: Any) -> Any:
        return ["wrapped", function(*args)]

    return inside


def is_even(number: int) -> bool:
    """Recurse through `is_odd`."""
    return True if number == 0 else is_odd(number - 1)


def is_odd(number: int) -> bool:
    """Recurse through `is_even`."""
    return False if number == 0 else is_even(number - 1)


@shout
def loud(text: str) -> str:
    """Answer, loudly."""
    return f"{text}!"


@plain_wrapper
def quiet(text: str) -> str:
    """Answer in a wrapper that hides it."""
    return text


@functools.lru_cache(maxsize=1000)
def fibonacci(number: int) -> int:
    """Recurse through a decorator."""
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


@contextlib.contextmanager
def noted(seen: list[str]) -> Iterator[None]:
    """Note coming and going."""
    seen.append("in")
    yield
    seen.append("out")


def square(x: int) -> int:
    """Use nothing."""
    return x * x


def uses_globals() -> list[Any]:
    """Use plain values of many types."""
    return [LIMIT, TABLE["a"], list(TABLE["b"][2]), TABLE["text"], len(NOTHING), ENDLESS > 1, str(PLACE)]


def uses_modules(text: str) -> list[Any]:
    """Use modules, one under another name, and what was imported from one."""
    log.debug("not shown")
    return [math.floor(2.5), paths.commonpath(["/a/b", "/a/c"]), WORD.findall(text), json.dumps({}), Path("/x").name]


def uses_classes() -> list[Any]:
    """Use classes with bases, a dataclass, an enumeration and a named tuple."""
    pair = Pair(1)
    return [Derived().greet(), Point(1, 2).total(), FAVOURITE.value, Colour("r").name, pair.left + pair.right]


def uses_decorated() -> list[Any]:
    """Use helpers with decorators."""
    seen: list[str] = []
    with noted(seen):
        seen.append("body")
    return [loud("hi"), quiet("hi"), fibonacci(30), seen]


def with_defaults(a: int, b: int = LIMIT, *rest: int, c: Any = square, d: tuple[int, ...] = (1, 2), **more: int) -> Any:
    """Have default values of several kinds."""
    return [a, b, list(rest), c(3), d, more]


async def asynchronous(x: int) -> int:
    """Await something."""
    import asyncio

    await asyncio.sleep(0)
    return x + 1


def annotated(x: Decimal, y: Missing = 1) -> AlsoMissing:  # type: ignore[name-defined]  # noqa: F821 - what is tested
    """Carry annotations that mean nothing elsewhere."""
    z: NeverThere = x + y  # type: ignore[name-defined]  # noqa: F821 - likewise
    return z


def uses_lambdas() -> list[int]:
    """Use lambdas, also two from one line."""
    return [twice(4), pick(1), other(1)]


def make_closure(scale: int) -> Callable[[int], Any]:
    """Make a function that closes over values, a helper, a class and itself."""
    offset = {"by": [scale, scale + 1]}

    def helper(value: int) -> int:
        return value * scale

    class Holder:
        def get(self) -> int:
            return helper(offset["by"][1])

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    def down(n: int) -> list[Any]:
        if n == 0:
            return [helper(2), Holder().get(), offset, even(10), odd(10)]
        return down(n - 1)

    return down


def make_nested() -> Callable[[], str]:
    """Make a function whose text has lines that stand further left than it does."""

    def nested() -> str:
        return """left
  of it"""

    return nested


def use_dispatch(name: str, value: int) -> int:
    """Use a table of functions."""
    return DISPATCH[name](value)


DISPATCH: dict[str, Callable[[int], int]] = {"square": square, "twice": twice}

CASES: list[tuple[Callable[..., Any], tuple[Any, ...], Any]] = [
    (square, (7,), 49),
    (uses_globals, (), [10, (1, 2.5), [0, 255], "\ud800 ü", 0, True, "/srv/data"]),
    (uses_modules, ("a bc",), [2, "/a", ["a", "bc"], "{}", "x"]),
    (uses_classes, (), ["derived base 10 11", 3, "b", "RED", 6]),
    (uses_decorated, (), ["HI!", ["wrapped", "hi"], 832040, ["in", "body", "out"]]),
    (loud, ("oh",), "OH!"),
    (quiet, ("oh",), ["wrapped", "oh"]),
    (fibonacci, (20,), 6765),
    (with_defaults, (1,), [1, 10, [], 9, (1, 2), {}]),
    (asynchronous, (1,), 2),
    (annotated, (1,), 2),
    (uses_lambdas, (), [8, 2, 3]),
    (twice, (3,), 6),
    (other, (3,), 5),
    (is_even, (101,), False),
    (make_closure(3), (2,), [6, 12, {"by": [3, 4]}, True, False]),
    (make_nested(), (), "left\n  of it"),
    (use_dispatch, ("twice", 6), 12),
]


def pythons() -> list[str]:
    """Find interpreters from 3.8 on, of different versions."""
    names = [f"python3.{minor}" for minor in range(8, 16)]
    found = [shutil.which(name) for name in names]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))]
    versions: dict[tuple[int, ...], str] = {sys.version_info[:2]: sys.executable}
    for path in filter(None, found):
        done = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            version = tuple(int(part) for part in done.stdout.split())
            if version >= (3, 8):
                versions.setdefault(version, path)
    return list(versions.values())


class Done(NamedTuple):
    """How the interpreter ended, and what the function printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(
    function: Any, directory: Path, *args: Any, python: str = sys.executable, pickled: bool = False
) -> tuple[Any, Done]:
    """Ship and run a function; give the outcome, None when there is none, and how the interpreter ended."""
    token = bytes(range(200, 216))
    shipped = collect(function, pickled=pickled)
    start = [program(), shipped.document, token, b"1"]
    write = functools.partial(write_pickled_call, trusted=True) if pickled else write_call
    done = subprocess.run(
        [python, *COMMAND[1:]],
        input=b"".join(message(part) for part in (*start, b"".join([token, *write(args, {}, shipped.classes)]))),
        capture_output=True,
        cwd=directory,
        check=False,
    )
    printed, *frames = done.stdout.split(MARK + token)
    outcome: Any = None
    for frame in frames:
        kind, end = frame[:1], 9 + int.from_bytes(frame[1:9], "big")
        printed += frame[end:]
        if kind == VALUE:
            outcome = {"value": read_result(frame[9:end], shipped.classes, trusted=pickled)}
        elif kind == ERROR:
            outcome = {"error": json.loads(frame[9:end])}
        elif kind == NOT_CARRIED:
            outcome = {"not_carried": frame[9:end].decode()}
    assert outcome is None or MARK + token in done.stderr
    return outcome, Done(done.returncode, printed, done.stderr)


@pytest.mark.parametrize(
    "broken", ["", "def no(): raise OSError(11, 'no processes left')\nos.fork = no\n", "del os.fork\n"]
)
def test_the_program_is_compiled_without_a_fork_too(broken: str) -> None:
    """A fork does it where it can, and no descriptor is left of it."""
    text = b"import os; print(sorted(int(name) for name in os.listdir('/proc/self/fd'))); print(__name__)"
    done = subprocess.run(
        [sys.executable, "-c", f"import os\n{broken}{BOOT}"], input=message(text), capture_output=True, check=True
    )
    assert done.stdout == b"[0, 1, 2, 3]\n__main__\n"
    assert done.stderr == b""


def keeps(value: Any, point: Point, pair: Pair, colour: Colour) -> Any:
    """Give back what came."""
    assert (type(point).__name__, point.total(), pair.left, colour.value) == ("Point", 3, 4, "r")
    return value, [point], {colour: pair}


def meets_array(value: Any) -> str:
    """Take what the sandbox may not have the package for."""
    return type(value).__name__


def takes_pickles(base: Base, function: Callable[[int], int], paths: list[Path], colour: Colour) -> Any:
    """Use what came, and give it back."""
    assert (base.greet(), type(paths[0]).__name__) == ("base 10", "PosixPath")
    return base, function, paths, colour, square(3)


VALUES: list[Any] = [
    {(1, b"x" * 100_000), frozenset({None})},
    [10**5000, math.inf, 1j, "\ud800" * 70_000, bytearray(b"x"), range(3)],
    {1: dt.datetime(2024, 1, 1, tzinfo=dt.UTC), 2: dt.timedelta(1), 3: PurePosixPath("/x"), 4: uuid.UUID(int=1)},
]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name + "-" + Path(path).name)
def test_every_value_goes_and_comes(python: str, tmp_path: Path) -> None:
    """Values of many kinds and of the function's own classes, in the other interpreter and back."""
    for value in VALUES:
        outcome, done = run(keeps, tmp_path, value, Point(1, 2), Pair(4), Colour.RED, python=python)
        assert outcome == {"value": (value, [Point(1, 2)], {Colour.RED: Pair(4)})}, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name + "-" + Path(path).name)
def test_pickles_go_and_come(python: str, tmp_path: Path) -> None:
    """Classes and functions of the table, and those that other Pythons have elsewhere."""
    args = (Base(), square, [Path("/a"), PurePosixPath("b")], FAVOURITE)
    outcome, done = run(takes_pickles, tmp_path, *args, python=python, pickled=True)
    assert outcome is not None, done.stderr.decode()
    base, *rest = outcome["value"]
    assert type(base) is Base
    assert rest == [*args[1:], 9]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name + "-" + Path(path).name)
def test_an_array_needs_its_package(python: str, tmp_path: Path) -> None:
    """Where numpy is not there the function does not run, and that is what is said."""
    np = pytest.importorskip("numpy", exc_type=ImportError)
    there = subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode == 0
    outcome, _ = run(meets_array, tmp_path, np.arange(3), python=python)
    if there:
        assert outcome == {"value": "ndarray"}
    else:
        text = "its arguments cannot be made in the sandbox: a numpy array needs numpy: No module named 'numpy'"
        assert outcome == {"not_carried": text}


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parent.parent.name + "-" + Path(path).name)
def test_every_shape_runs(python: str, tmp_path: Path) -> None:
    """Each function gives in the other interpreter what it gives here."""
    for function, args, expected in CASES:
        outcome, done = run(function, tmp_path, *args, python=python)
        assert outcome is not None, done.stderr.decode()
        assert outcome == {"value": expected}, f"{function}: {outcome}"


def fails() -> None:
    """Raise from a helper."""
    print("before")
    is_odd("x")  # type: ignore[arg-type]  # it is to fail


def test_an_exception_comes_back_with_its_lines(tmp_path: Path) -> None:
    """The traceback shows the function's own file and source lines, and none of the runner's."""
    outcome, done = run(fails, tmp_path)
    error = outcome["error"]
    assert (error["type"], error["stage"], done.stdout) == ("TypeError", "call", b"before\n")
    assert 'is_odd("x")' in error["traceback"]
    assert f'"{__file__}", line {fails.__code__.co_firstlineno + 3}, in fails' in error["traceback"]
    assert "<aviato>" not in error["traceback"]


def leaves(how: str) -> Any:
    """End in an unusual way."""
    import os
    import sys

    if how == "exit":
        sys.exit(3)
    if how == "os":
        os._exit(4)
    if how == "stdin":
        return sys.stdin.read()
    if how == "fork":
        child = os.fork()
        if child == 0:
            return "from the child"
        os.waitpid(child, 0)
        return "from the parent"
    return object()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("exit", ("SystemExit", "3")),
        ("os", 4),
        ("stdin", ""),
        ("fork", "from the parent"),
        ("object", "it ran, but result is of type builtins.object, which cannot be carried"),
    ],
)
def test_unusual_ends(how: str, expected: Any, tmp_path: Path) -> None:
    """Every way to end is told from the others, and the call's data is not on the function's standard input."""
    outcome, done = run(leaves, tmp_path, how)
    if isinstance(expected, int):
        assert (outcome, done.returncode) == (None, expected)
    elif isinstance(expected, tuple):
        assert (outcome["error"]["type"], outcome["error"]["message"]) == expected
    else:
        assert expected in outcome.values()


class Methods:
    """Has a method."""

    def method(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Methods.method, "method of Methods"),
        (Methods, "class"),
        (len, "builtin_function_or_method"),
        (functools.partial(square, 1), "partial"),
    ],
)
def test_what_is_no_function_is_refused(function: Any, reason: str) -> None:
    """The reason is said, and the hint tells what to do."""
    with pytest.raises(FunctionSerializationError, match=reason) as caught:
        check_function(function)
    assert caught.value.hint


def test_what_cannot_be_called_is_a_type_error() -> None:
    """A value in place of a function is the caller's slip."""
    with pytest.raises(TypeError, match="must be a function, not 3"):
        check_function(3)


def load(source: str, name: str, *, file: str | None = None) -> dict[str, Any]:
    """Run source that has no file, as an interactive prompt or `exec` would."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(source, file or f"<{name}>", "exec"), names)
    return names


def test_source_that_is_not_there_is_said() -> None:
    """Functions of `exec` and of the plain prompt are refused, with the way out of each."""
    with pytest.raises(FunctionSerializationError, match=r"its source \(<made>\) is not there"):
        collect(load("def f(): return 1", "made")["f"])
    with pytest.raises(FunctionSerializationError, match="interactive prompt"):
        collect(load("def f(): return 1", "__main__", file="<stdin>")["f"])


@pytest.fixture
def cell() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Run source as a notebook does: it is in `linecache`, the module is `__main__`."""
    files: list[str] = []

    def execute(source: str) -> dict[str, Any]:
        file = f"<ipython-input-{len(files)}-test>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        files.append(file)
        return load(source, "__main__", file=file)

    yield execute
    for file in files:
        linecache.cache.pop(file, None)


def test_a_notebook_cell(cell: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    """A function and a class without methods, both from a cell."""
    names = cell("K = 2\nclass Empty:\n    value = K + 1\n\ndef f(x):\n    return x * K + Empty.value\n")
    assert run(names["f"], tmp_path, 5)[0] == {"value": 13}


def test_a_lock_is_named_with_its_user(cell: Callable[[str], dict[str, Any]]) -> None:
    """What cannot travel is named with the chain of users that leads to it."""
    names = cell("import threading\nlock = threading.Lock()\ndef g():\n    return lock\ndef f():\n    return g()\n")
    with pytest.raises(FunctionSerializationError, match=r"'f'.*global 'g'.*global 'lock'.*_thread\.lock") as caught:
        collect(names["f"])
    assert "inside the function" in str(caught.value.hint)


def test_names_that_come_later_are_found_at_the_call(cell: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    """A helper may be defined after the function; one that never is raises NameError, as it does here."""
    names = cell("def f():\n    return later()\n")
    assert run(names["f"], tmp_path)[0]["error"]["type"] == "NameError"
    names["later"] = square
    assert run(names["f"], tmp_path)[0]["error"]["message"].startswith("square() missing")


def takes_point(value: Point, other: dict[str, list[Colour | None]]) -> Pair:
    """Name classes in annotations alone."""
    return value  # type: ignore[return-value]  # it is not run


def test_classes_of_annotations_are_in_the_table() -> None:
    """With what they need, after what the function needs; a class without fields is there for pickles only."""
    shipped = collect(takes_point)
    assert set(shipped.classes) == {takes_point, Point, Colour, Pair}
    document = json.loads(shipped.document)
    assert document["needed"] == 1
    assert [item["name"] for item in document["items"][:1]] == ["takes_point"]

    def takes_plain(value: Base) -> None: ...

    assert Base not in collect(takes_plain).classes
    assert Base in collect(takes_plain, pickled=True).classes


def test_a_class_that_cannot_be_shipped_is_left_out(tmp_path: Path) -> None:
    """The function runs without it; who gives it one is told why that cannot travel."""
    made = dataclasses.make_dataclass("Made", [("x", int)])

    def function(value: Any) -> bool:
        return value is None

    function.__annotations__["value"] = made | None
    shipped = collect(function)
    assert shipped.classes == (function,)
    assert run(function, tmp_path, None)[0] == {"value": True}
    carrier = Carrier(function, shipped.classes, left_out=shipped.left_out)
    with pytest.raises(FunctionSerializationError, match=r"args\[0\] is of type .*Made, which is not known") as caught:
        carrier.pack_arguments((made(1),), {})
    assert "class 'Made' cannot be shipped: " in str(caught.value.hint)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    """A file that was edited after its import does not ship another function's text."""
    file = tmp_path / "changing.py"
    file.write_text("def f():\n    return 1\n")
    spec = importlib.util.spec_from_file_location("changing", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file.write_text("# a line more\ndef f():\n    return 22222\n")
    with pytest.raises(FunctionSerializationError, match="has changed since it was loaded"):
        collect(module.f)
