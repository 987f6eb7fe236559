"""What a definition carries beside its text: modules below others, attributes set later, registered implementations."""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
import xml.sax.saxutils
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aviato import aio
from aviato.aio.shipping.collect import check_function, collect
from aviato.exceptions import FunctionSerializationError
from aviato.testing import FakeEngine
from tests.unit.test_shipping import run


def submodules() -> list[Any]:
    """Use modules below packages that do not import them themselves."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        four = pool.submit(lambda: 4).result()
    return [four, ET.fromstring("<a/>").tag, xml.sax.saxutils.escape("<")]


def passed_on() -> str:
    """Reach a module below another by a name that only is known at run time."""
    package: Any = xml
    return str(getattr(getattr(package, "sax"), "saxutils").escape(">"))  # noqa: B009 - what is tested


class Parsed:
    """Reads a submodule while it is defined."""

    kind = xml.sax.saxutils.XMLGenerator


def in_a_class() -> str:
    """Use a class that needs a submodule at once."""
    return Parsed.kind.__name__


@pytest.mark.parametrize(
    ("function", "expected"), [(submodules, [4, "a", "&lt;"]), (passed_on, "&gt;"), (in_a_class, "XMLGenerator")]
)
def test_modules_below_others(function: Callable[[], Any], expected: Any, tmp_path: Path) -> None:
    """`import a.b` gives `a` with its `b`, also there."""
    outcome, done = run(function, tmp_path)
    assert outcome == {"value": expected}, done.stderr


def test_a_module_below_a_closure_variable(tmp_path: Path) -> None:
    """The import may stand in the function around it."""
    import email.mime.text

    def inner() -> str:
        return email.mime.text.MIMEText("x").get_content_type()

    outcome, done = run(inner, tmp_path)
    assert outcome == {"value": "text/plain"}, done.stderr


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import source from a file of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str) -> ModuleType:
        (tmp_path / "aviato_test_more.py").write_text(source)
        monkeypatch.delitem(sys.modules, "aviato_test_more", raising=False)
        importlib.invalidate_caches()
        made = importlib.import_module("aviato_test_more")
        monkeypatch.delitem(sys.modules, "aviato_test_more")
        monkeypatch.setitem(sys.modules, "aviato_test_more", made)
        return made

    return write


def test_a_module_that_is_only_imported_may_be_missing(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is read must be there; one that is not read does not stop the function."""
    monkeypatch.setitem(sys.modules, "xml.nowhere", ModuleType("xml.nowhere"))
    source = "import xml.nowhere\nimport xml.sax\n\ndef f():\n    return xml.sax.__name__\n\n"
    made = module(source + "def g():\n    return xml.nowhere\n")
    outcome, done = run(made.f, tmp_path)
    assert outcome == {"value": "xml.sax"}, done.stderr
    monkeypatch.setattr(sys.modules["xml"], "nowhere", sys.modules["xml.nowhere"], raising=False)
    outcome, _ = run(made.g, tmp_path)
    assert outcome["error"]["type"] == "ModuleNotFoundError"
    assert "xml.nowhere" in outcome["error"]["message"]


@pytest.mark.parametrize("scope", ["<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<locals>"])
def test_functions_made_in_comprehensions(scope: str, tmp_path: Path) -> None:
    """Comprehensions are functions in Python 3.11 and before; what they make is no method."""
    functions = [lambda x: x + k for k in range(2)]  # noqa: B023 - what is tested
    functions[0].__qualname__ = f"around.{scope}.<lambda>"
    check_function(functions[0])
    assert run(functions[0], tmp_path, 1)[0] == {"value": 2}


_SETS = """\
import sys
from aviato import aio
from aviato.aio.shipping.collect import check_function, collect
from aviato.exceptions import FunctionSerializationError

WORDS = {"one", "two", "three", "four", "five"}
FROZEN = [frozenset({"a", "b", "c", "d"}), ({"x", "y", "z"}, 1)]
TABLE = {"in": {"p", "q", "r", "s"}}

class Given:
    words = {"k", "l", "m", "n"}

def one(): return 1
def two(): return 2
FUNCTIONS = {one, two}

def f(more={"g", "h", "i"}):
    return WORDS, FROZEN, TABLE, FUNCTIONS, Given, more

if __name__ == "__main__":
    sys.stdout.buffer.write(collect(f).document)
"""


def test_sets_are_the_same_in_every_process(tmp_path: Path) -> None:
    """A resumed map knows its work again by the bundle, which says nothing of how text is hashed."""
    script = tmp_path / "sets.py"
    script.write_text(_SETS)
    made = [
        subprocess.run(
            [sys.executable, str(script)], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1] != b""


NESTED = [frozenset({"a", "b"}), {"c": {1}}]


def uses_nested() -> Any:
    """Use sets in other containers."""
    return NESTED


def test_sets_in_other_containers(tmp_path: Path) -> None:
    """A frozenset in a list has no text that could be read again."""
    outcome, done = run(uses_nested, tmp_path)
    assert outcome == {"value": NESTED}, done.stderr


_CHANGED = """\
from pathlib import Path

class Settings:
    LIMIT = 1
    NAMES: list = []
    KEPT = (1, 2)
    TWICE = 1
    TWICE += 1
    PLACE = Path("/a")
    _secret = None

    def limit(self):
        LIMIT = 5
        return self.LIMIT, LIMIT

class Base:
    known = []
    def __init_subclass__(cls):
        Base.known.append(cls.__name__)

class One(Base): pass
class Two(Base): pass

def settings():
    return [Settings.LIMIT, Settings.NAMES, Settings.KEPT, Settings.TWICE, str(Settings.PLACE), Settings._secret,
            getattr(Settings, "NEW", None), Settings().limit()]

def bases():
    return Base.known, One.__name__, Two.__name__

def change():
    Settings.LIMIT = 5
    Settings.NAMES.append("x")
    Settings.TWICE = 1
    Settings.PLACE = Path("/b")
    Settings._secret = b"s"
    Settings.NEW = {"a": {1}}
"""


def test_class_attributes_that_were_changed(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """A class is shipped as it is, not as its text says; what its text says is not written twice."""
    made = module(_CHANGED)
    for change in (lambda: None, made.change):
        change()
        outcome, done = run(made.settings, tmp_path)
        assert outcome == {"value": made.settings()}, done.stderr
    outcome, done = run(made.bases, tmp_path)
    assert outcome == {"value": (["One", "Two"], "One", "Two")}, done.stderr
    item = next(item for item in json.loads(collect(made.settings).document)["items"] if item["name"] == "Settings")
    assert "KEPT" not in dict(item["attributes"])


_ATTRIBUTES = """\
import functools, threading

def traced(function):
    calls = []
    @functools.wraps(function)
    def wrapper(*args):
        calls.append(1)
        return function(*args)
    wrapper.calls, wrapper.lock = calls, threading.Lock()
    return wrapper

def h():
    return h.n, h.more({1}), h.me is h

h.n, h.more, h.me = 3, len, h

@traced
def g():
    return len(g.calls)

@functools.lru_cache
def cached():
    return cached.n

cached.n = 4

def attributes():
    return h(), g(), cached()

def locked():
    return locked.lock

locked.lock = threading.Lock()
"""


def test_attributes_of_functions(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """What was set on a function is there; a list that its decorator holds is the same one."""
    made = module(_ATTRIBUTES)
    made.g()
    outcome, done = run(made.attributes, tmp_path)
    assert outcome == {"value": made.attributes()} == {"value": ((3, 1, True), 2, 4)}, done.stderr


def test_an_attribute_that_cannot_travel(module: Callable[[str], ModuleType]) -> None:
    """It is named."""
    with pytest.raises(FunctionSerializationError, match=r"'locked', attribute 'lock' .*_thread\.lock"):
        collect(module(_ATTRIBUTES).locked)


_REGISTERED = """\
import functools

class Point:
    x = 7

def helper(value):
    return f"point {value.x}"

@functools.singledispatch
def h(value):
    return "other"

@h.register(str)
@h.register(bytes)
def _(value):
    return f"text {len(value)}"

@h.register
def of_int(value: int):
    return f"int {h(str(value))}"

@h.register
def of_point(value: Point):
    return helper(value)

h.register(list, lambda value: "list")
h.register(dict, len)

def dispatched(n):
    return h(n), h("ab"), h(b"c"), h(Point()), h([]), h({1: 2}), h(1.5), of_int(10), of_point(Point)

@functools.singledispatch
def alone(value):
    return "alone"

def passes(function):
    return functools.wraps(function)(lambda *args: function(*args))

@h.register(float)
@passes
def wrapped(value):
    return 1

@passes
@functools.singledispatch
def hidden(value):
    return 1

hidden.register(int, len)
"""


def test_what_was_registered(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The implementations of `functools.singledispatch` come along, as the entry and as a helper."""
    made = module(_REGISTERED.replace("@h.register(float)", ""))
    assert made.dispatched(1)[3] == "point 7"
    for function, args in ((made.dispatched, (1,)), (made.h, ("abc",)), (made.of_int, (3,)), (made.alone, (1,))):
        outcome, done = run(function, tmp_path, *args)
        assert outcome == {"value": function(*args)}, done.stderr


def test_what_was_registered_and_cannot_travel(module: Callable[[str], ModuleType]) -> None:
    """Implementations behind decorators are refused, not lost."""
    made = module(_REGISTERED)
    with pytest.raises(FunctionSerializationError, match=r"implementation for 'float'.*wrapped has decorators"):
        collect(made.dispatched)
    with pytest.raises(FunctionSerializationError, match=r"a decorator is above functools\.singledispatch"):
        collect(made.hidden)


_PARTIAL = """\
import functools

def base(a, b, *, c, item):
    return a, b, c(b), item

half = functools.partial(base, 1, c=lambda x: x + 1, item={2})

def partial():
    return half(2), half(3, item=4)

class Holder:
    call = functools.partial(base, 1)

def held():
    return Holder.call(2, c=str, item=0)
"""


def test_partial_functions(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """With what was given to them by place and by name."""
    made = module(_PARTIAL)
    for function in (made.partial, made.held):
        outcome, done = run(function, tmp_path)
        assert outcome == {"value": function()}, done.stderr


async def test_what_a_remote_function_has_only_here() -> None:
    """Another remote function is a plain one in the sandbox, without `remote`, `local` and `map`."""
    async with aio.Session(engine=FakeEngine()) as session:

        @session.function()
        def inner(x: int) -> int:
            return x + 1

        def local() -> int:
            return inner.local(1)

        async def remote() -> Any:
            inner_too = inner
            return await inner.remote(1), inner_too

        def helper() -> Any:
            return inner.map

        def through() -> Any:
            return helper()

        def shadowed() -> Any:
            def reads(inner: Any) -> Any:
                return inner.local

            return reads, inner(1)

        for function, name in ((local, "local"), (remote, "remote"), (through, "map")):
            with pytest.raises(
                FunctionSerializationError, match=rf"it uses inner\.{name}, .* plain function"
            ) as caught:
                session.function()(function)
            assert "inner(...)" in str(caught.value.hint)
        session.function()(shadowed)


def test_a_method_that_was_replaced(module: Callable[[str], ModuleType]) -> None:
    """The text has the method from before, so that it is not shipped."""
    made = module(_CHANGED)
    collect(made.settings)
    made.Settings.limit = lambda self: 3
    with pytest.raises(FunctionSerializationError, match=r"class 'Settings'.*its method 'limit' is not") as caught:
        collect(made.settings)
    assert "subclass" in str(caught.value.hint)


_TWICE = """\
if True:
    class Either:
        def which(self):
            return 1
else:
    class Either:
        def which(self):
            return 2

def which():
    return Either().which()
"""


def test_a_class_that_is_written_twice(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """Its methods tell which text is its own."""
    assert run(module(_TWICE).which, tmp_path)[0] == {"value": 1}
