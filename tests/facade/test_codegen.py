"""The generator: one small source for each rule, and one for each refusal."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aviato_sync import _codegen

HEAD = '''\
"""A module."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from aviato.aio import _facade as facade

T = TypeVar("T", str, bytes)
P = ParamSpec("P")


@facade.handle
class Other:
    """Another handle."""


@facade.handle
class Thing:
    """A thing."""

'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with an empty core."""
    (tmp_path / "aviato" / "aio").mkdir(parents=True)
    (tmp_path / "aviato_sync" / "_generated").mkdir(parents=True)
    return tmp_path


def _generate(root: Path, members: str, head: str = HEAD) -> str:
    (root / "aviato" / "aio" / "things.py").write_text(head + textwrap.indent(textwrap.dedent(members), "    "))
    return _codegen.generate(root)[0]["things.py"]


def _has(text: str, expected: str) -> None:
    wanted = textwrap.indent(textwrap.dedent(expected).strip("\n"), "    ")
    assert wanted in text, text


def test_coroutine_becomes_a_ref(root: Path) -> None:
    """A coroutine returns an `OperationRef`, and says so after its summary; the rest of the docstring stays."""
    text = _generate(
        root,
        '''
        async def size(self, path: str, *, deep: bool = False) -> int:
            """Measure it.

            Args:
                path: Where.
                deep: All of it.
            """
            return 1
        ''',
    )
    _has(
        text,
        '''
        def size(
            self,
            path: str,
            *,
            deep: bool = False,
        ) -> OperationRef[int]:
            """Measure it.

            Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

            Args:
                path: Where.
                deep: All of it.
            """
            __tracebackhide__ = True
            return self._start(
                self._core.size,
                path,
                deep=deep,
            )
        ''',
    )


def test_plain_method_and_property_are_delegated(root: Path) -> None:
    """A plain method runs on the loop; a property only reads."""
    text = _generate(
        root,
        '''
        @property
        def name(self) -> str:
            """The name."""
            return ""

        def poke(self) -> None:
            """Poke it."""

        def count(self, *names: str, **others: int) -> int:
            """Count."""
            return 0
        ''',
    )
    _has(text, '@property\ndef name(self) -> str:\n    """The name."""\n    return self._core.name\n')
    _has(
        text,
        'def poke(self) -> None:\n    """Poke it."""\n    __tracebackhide__ = True\n    self._call(self._core.poke)',
    )
    assert (
        "return self._call(\n            self._core.count,\n            *names,\n            **others,\n        )"
        in text
    )


def test_handles_are_wrapped_and_unwrapped(root: Path) -> None:
    """A handle in an argument is unwrapped, one in a result wrapped, wherever in the annotation it stands."""
    text = _generate(
        root,
        '''
        def adopt(self, other: Other | None) -> None:
            """Adopt."""

        def other(self) -> Other:
            """Give one."""

        @property
        def parent(self) -> Other | None:
            """The parent."""

        async def all(self) -> builtins.list[Other]:
            """Give all."""

        async def wait(self) -> Self:
            """Wait."""
        ''',
    )
    assert "unwrap(other)," in text
    assert "return cast(\n" not in text
    _has(text, "def other(self) -> Other:")
    assert 'return cast("Other", self._call_wrapped(self._core.other))' in text
    assert 'return cast("Other | None", self._get("parent"))' in text
    assert "def all(self) -> OperationRef[builtins.list[Other]]:" in text
    assert "return self._start_wrapped(self._core.all)" in text
    assert "def wait(self) -> OperationRef[Self]:" in text


def test_class_methods(root: Path) -> None:
    """Class methods go to the core's class."""
    text = _generate(
        root,
        '''
        @classmethod
        def run(cls, *command: str) -> Self:
            """Run."""

        @classmethod
        async def find(cls, name: str = "x") -> Self:
            """Find."""
        ''',
    )
    _has(text, '@classmethod\ndef run(\n    cls,\n    *command: str,\n) -> Self:\n    """Run."""')
    assert "call_class(\n                aio.Thing.run,\n                *command,\n            )," in text
    assert "return start_class(\n            aio.Thing.find,\n            name,\n        )" in text


def test_constructor_by_its_docstring(root: Path) -> None:
    """A documented constructor is public; one without a docstring is for other members."""
    text = _generate(
        root,
        '''
        def __init__(self, name: str) -> None:
            """Make one."""
            self._name = name
        ''',
    )
    assert "self._make(\n            aio.Thing,\n            name,\n        )" in text
    assert "__init__" not in _generate(root, "def __init__(self, secret) -> None:\n    self._secret = secret")


def test_context_manager_awaitable_and_iterator(root: Path) -> None:
    """The special methods become base classes."""
    special = '''
        async def __aenter__(self) -> Self:
            """Enter."""

        async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
            """Leave."""

        def __await__(self) -> Generator[Any, None, Self]:
            """Wait."""
        '''
    assert "class Thing(AwaitableHandle, ContextHandle):" in _generate(root, special)
    other = special.replace("def __aenter__(self) -> Self", "def __aenter__(self) -> Other")
    assert "class Thing(AwaitableHandle, EnteringHandle[Other]):" in _generate(root, other)
    reader = '''
        def __aiter__(self) -> AsyncIterator[T]:
            """Iterate."""

        async def __anext__(self) -> T:
            """Go on."""

        @facade.skip("batches")
        async def read_batch(self, limit: int) -> list[T]:
            """Read."""
        '''
    text = _generate(root, reader, HEAD.replace("class Thing:", "class Thing(Generic[T]):"))
    assert "class Thing(BatchReader[T]):" in text
    assert "_core: aio.Thing[T]" in text
    assert 'T = TypeVar("T", str, bytes)' in text


def test_handle_with_a_result(root: Path) -> None:
    """A handle that gives something when awaited is a ref: `result` blocks, and what refs have is inherited."""
    text = _generate(
        root,
        '''
        def __await__(self) -> Generator[Any, None, int]:
            """Wait."""

        async def result(self, timeout: float | None = None) -> int:
            """Wait for it.

            Raises:
                asyncio.CancelledError: It was cancelled.
            """

        def done(self) -> bool:
            """Tell."""

        def cancel(self) -> bool:
            """Cancel."""
        ''',
    )
    assert "class Thing(RefHandle[int]):" in text
    _has(text, "def result(\n    self,\n    timeout: float | None = None,\n) -> int:")
    assert "return super().result(timeout)" in text
    assert "concurrent.futures.CancelledError: It was cancelled." in text
    assert "def done" not in text
    assert "return self._call(self._core.cancel)" in text


def test_asynchronous_generators_and_iterables(root: Path) -> None:
    """An asynchronous iterator comes back as a blocking one; an asynchronous iterable is fed from where it belongs."""
    text = _generate(
        root,
        '''
        async def numbers(self, count: int) -> AsyncIterator[int]:
            """Count."""
            yield 1

        async def send(self, data: bytes | AsyncIterable[bytes]) -> None:
            """Send."""
        ''',
    )
    assert ") -> BlockingIterator[int]:" in text
    assert "return BlockingIterator(\n            self._home,\n            self._core.numbers," in text
    assert "feed(data)," in text


def test_overloads_are_kept(root: Path) -> None:
    """Overloads stand before their implementation."""
    text = _generate(
        root,
        '''
        @overload
        def get(self, key: str) -> int: ...

        @overload
        def get(self, key: str, default: T) -> int | T: ...

        def get(self, key: str, default: T | None = None) -> int | T | None:
            """Get."""
        ''',
    )
    _has(
        text, "@overload\ndef get(\n    self,\n    key: str,\n) -> int: ...\n\n    @overload".replace("\n    @", "\n@")
    )
    assert text.count("@overload") == 2
    assert 'cast("Any", self._core.get)' in text


def test_direct_methods_run_where_they_are_called(root: Path) -> None:
    """A method marked direct runs in the caller's thread."""
    text = _generate(
        root,
        '''
        @facade.direct
        def local(self, value: int) -> int:
            """Compute here."""
        ''',
    )
    assert "return self._core.local(value)" in text


def test_prepared_methods_are_checked_where_they_are_called(root: Path) -> None:
    """A method in two parts is not waited for."""
    text = _generate(
        root,
        '''
        @facade.prepared
        def begin(self, value: int) -> Other:
            """Begin."""
        ''',
    )
    assert 'self._launch(\n                "begin",\n                value,\n            ),' in text


def test_skipped_members_are_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left out is listed with its reason, what is private is not."""
    text = _generate(
        root,
        """
        @facade.skip("for the engine")
        def feed(self, anything) -> None:
            self._x = anything

        def _hidden(self, x): ...
        """,
    )
    assert "feed" not in text
    assert "_hidden" not in text
    assert _codegen.main(["--list"], root) == 0
    assert "Thing.feed: left out: for the engine" in capsys.readouterr().out


def test_output_is_stable_under_the_tools() -> None:
    """The formatter and the linter's import rules leave the real output alone."""
    directory = Path(_codegen.ROOT, "aviato_sync", "_generated")
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed beside this interpreter")
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run([ruff, *command, str(directory)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


DECORATORS = "use property, classmethod, overload, facade.direct, facade.prepared or facade.skip"
REFUSED = {
    "async property": (
        '@property\nasync def name(self) -> str:\n    """N."""',
        "async property 'name'; make it a method: it does I/O",
    ),
    "bare awaitable": (
        'def name(self) -> Awaitable[str]:\n    """N."""',
        "'name' returns a bare Awaitable; make it an async def, or return a handle",
    ),
    "public attribute": (
        "limit = 3",
        "public attribute 'limit' of a handle; give it an underscore and a property",
    ),
    "public attribute of the instance": (
        "def _set(self) -> None:\n    self.limit = 3",
        "public attribute 'limit' of a handle; give it an underscore and a property",
    ),
    "unknown decorator": (
        '@cached\ndef name(self) -> str:\n    """N."""',
        f"unknown decorator @cached; {DECORATORS}",
    ),
    "static method": (
        '@staticmethod\ndef name() -> str:\n    """N."""',
        f"unknown decorator @staticmethod; {DECORATORS}",
    ),
    "setter": (
        '@name.setter\ndef name(self, value: str) -> None:\n    """N."""',
        f"unknown decorator @name.setter; {DECORATORS}",
    ),
    "unknown name": (
        'async def name(self) -> Mystery:\n    """N."""',
        "the name 'Mystery' cannot be resolved; import it in this module",
    ),
    "untyped parameter": (
        'async def name(self, value) -> str:\n    """N."""',
        "parameter value has no annotation; write one",
    ),
    "untyped star": (
        'async def name(self, *values) -> str:\n    """N."""',
        "parameter *values has no annotation; write one",
    ),
    "no return annotation": (
        'async def name(self):\n    """N."""',
        "'name' has no return annotation; write one",
    ),
    "no docstring": (
        "async def name(self) -> str:\n    return ''",
        "'name' has no docstring; write one: it is the facade's as well",
    ),
    "skip without a reason": (
        "@facade.skip()\ndef name(self) -> str:\n    return ''",
        'skip without a reason; write @facade.skip("why")',
    ),
    "special method": (
        'def __len__(self) -> int:\n    """L."""',
        'no rule for __len__; name it without underscores or mark it @facade.skip("why")',
    ),
    "half a context manager": (
        'async def __aenter__(self) -> Self:\n    """E."""',
        "__aenter__ without __aexit__; define both",
    ),
    "iterator by single items": (
        'def __aiter__(self) -> Self:\n    """I."""\n\nasync def __anext__(self) -> int:\n    """N."""',
        "Thing has no read_batch; give it one, marked skip: items cross in batches",
    ),
    "vague awaitable": (
        'def __await__(self) -> Generator:\n    """W."""',
        "__await__ does not say what it gives; return Generator[Any, None, T]",
    ),
    "direct coroutine": (
        '@facade.direct\nasync def name(self) -> str:\n    """N."""',
        "async direct 'name'; make it a method: it does I/O",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_place_and_advice(root: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A construct that no rule covers is refused with file, line and advice, and nothing is written."""
    source, message = REFUSED[case]
    with pytest.raises(_codegen.Refused):
        _generate(root, source)
    assert _codegen.main([], root) == 1
    error = capsys.readouterr().err.strip()
    place, _, rest = error.partition(": ")
    path, _, line = place.partition(":")
    assert path == "aviato/aio/things.py"
    assert HEAD.count("\n") - 3 < int(line) <= HEAD.count("\n") + 5
    assert rest == message
    assert list((root / "aviato_sync" / "_generated").iterdir()) == []


def test_base_class_is_refused(root: Path) -> None:
    """Handles do not inherit, and are documented."""
    with pytest.raises(_codegen.Refused, match="handle Thing has a base class; handles have none but Generic"):
        _generate(root, "_x = 1", HEAD.replace("class Thing:", "class Thing(Other):"))
    with pytest.raises(_codegen.Refused, match="'Thing' has no docstring"):
        _generate(root, "_x = 1", HEAD.replace('"""A thing."""', "pass"))


def _written(root: Path) -> Path:
    _generate(root, 'async def size(self) -> int:\n    """Measure."""')
    assert _codegen.main([], root) == 0
    assert _codegen.main(["--check"], root) == 0
    return root / "aviato_sync" / "_generated"


def test_check_shows_the_difference_and_the_repair(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed byte anywhere is found and shown as a diff, with the command that repairs it."""
    path = _written(root) / "things.py"
    path.write_text(path.read_text().replace('"""Measure.', '"""Measured.'))
    assert _codegen.main(["--check"], root) == 1
    error = capsys.readouterr().err
    assert '-        """Measured.' in error
    assert '+        """Measure.' in error
    assert error.endswith("repair it with\n    python -P aviato_sync/_codegen.py\n")
    assert _codegen.main([], root) == 0
    assert _codegen.main(["--check"], root) == 0


def test_check_finds_a_cut_file(root: Path) -> None:
    """A file whose end is missing is not fresh."""
    path = _written(root) / "things.py"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    assert _codegen.main(["--check"], root) == 1


def test_check_finds_what_is_missing_and_what_is_too_much(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file and an orphan both fail; writing repairs both."""
    directory = _written(root)
    (directory / "things.py").rename(directory / "orphan.py")
    assert _codegen.main(["--check"], root) == 1
    error = capsys.readouterr().err
    assert "orphan.py: an orphan" in error
    assert "+++ things.py (from the core)" in error
    assert _codegen.main([], root) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["__init__.py", "things.py"]


def test_unknown_option(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is told the right ones."""
    assert _codegen.main(["--verify"], root) == 2
    assert "[--check | --list]" in capsys.readouterr().err
