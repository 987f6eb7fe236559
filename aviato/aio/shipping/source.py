"""Finding the definition of a function or class in the text that it was written in."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

from aviato.exceptions import FunctionSerializationError

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Place(NamedTuple):
    """A definition and where it stands."""

    node: Definition | ast.Lambda
    file: str
    lines: tuple[str, ...]
    """All lines of the file."""

    @property
    def first(self) -> int:
        """Number of its first line, decorators included."""
        return min([self.node.lineno, *(item.lineno for item in self.decorators)])

    @property
    def decorators(self) -> list[ast.expr]:
        """Its decorators, from the top."""
        return [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list

    @property
    def text(self) -> str:
        """Its lines as they stand, indented as they are; for a lambda the expression alone."""
        if isinstance(self.node, ast.Lambda):
            return ast.get_source_segment("".join(self.lines), self.node) or ""
        return "".join(self.lines[self.first - 1 : self.node.end_lineno])


def refuse(what: str, why: str, way_out: str) -> NoReturn:
    """Say why something cannot be shipped, and the way out.

    Raises:
        FunctionSerializationError: Always.
    """
    raise FunctionSerializationError(f"{what} cannot be shipped: {why}", hint=way_out)


@lru_cache(maxsize=64)
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def _lines(file: str, names: dict[str, Any] | None, what: str) -> tuple[str, ...]:
    if not file.startswith("<"):
        linecache.checkcache(file)
    lines = tuple(linecache.getlines(file, names))
    if lines:
        return lines
    if file == "<stdin>":
        refuse(
            what,
            "it was typed at the interactive prompt, which keeps no source",
            "Put it into a file and import it, or use a notebook, IPython, or Python 3.13, which keep what is typed.",
        )
    refuse(
        what,
        f"its source ({file}) is not there",
        "Functions made by exec() or `python -c` have no source; put the definition into a file and import it.",
    )


def _tree(lines: tuple[str, ...], file: str, what: str) -> ast.Module:
    try:
        return _parse("".join(lines))
    except SyntaxError as error:
        refuse(
            what,
            f"{file} has changed since it was loaded and is not Python now: {error}",
            "Restart the program so that source and running code agree.",
        )


def find_function(function: FunctionType, what: str) -> Place:
    """Find the definition of a function.

    Raises:
        FunctionSerializationError: Its source cannot be had, or does not fit it.
    """
    code = function.__code__
    lines = _lines(code.co_filename, function.__globals__, what)
    tree = _tree(lines, code.co_filename, what)
    if code.co_name == "<lambda>":
        return Place(_find_lambda(tree, code, what), code.co_filename, lines)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            place = Place(node, code.co_filename, lines)
            if place.first == code.co_firstlineno:
                return place
    refuse(
        what,
        f"line {code.co_firstlineno} of {code.co_filename} does not define it: the file has changed since it was "
        "loaded, or the function was generated",
        "Restart the program so that source and running code agree; write a generated function out by hand.",
    )


def _find_lambda(tree: ast.Module, code: CodeType, what: str) -> ast.Lambda:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
    if len(found) > 1:
        starts = [(line, column) for line, _, column, _ in code.co_positions() if line and column is not None]
        ends = [(line, column) for _, line, _, column in code.co_positions() if line and column is not None]
        inside = [(at, end) for at, end in zip(starts, ends, strict=False) if end > at]
        first, last = min((at for at, _ in inside), default=(0, 0)), max((end for _, end in inside), default=(0, 0))
        found = [
            node
            for node in found
            if (node.body.lineno, node.body.col_offset) == first
            and (node.body.end_lineno, node.body.end_col_offset) == last
        ]
    if len(found) == 1:
        return found[0]
    refuse(
        what,
        f"it is one of several lambdas on line {code.co_firstlineno} of {code.co_filename} and cannot be told apart",
        "Write it as a `def` with a name, or on a line of its own.",
    )


def _files_of(cls: type, names: dict[str, Any]) -> list[str]:
    """List where the class may have been written, the likeliest first."""
    files: dict[str, None] = {}
    for member in vars(cls).values():
        member = getattr(member, "__func__", member)  # noqa: PLW2901 - class and static methods hold the function
        member = inspect.unwrap(getattr(member, "fget", None) or member)  # noqa: PLW2901 - likewise
        if isinstance(member, FunctionType) and member.__qualname__.startswith(cls.__qualname__ + "."):
            files[member.__code__.co_filename] = None
    if file := getattr(sys.modules.get(cls.__module__), "__file__", None):
        files[file] = None
    for value in list(names.values()):
        if isinstance(value, FunctionType) and value.__module__ == cls.__module__:
            files[value.__code__.co_filename] = None
    if cls.__module__ == "__main__":
        for name in reversed(list(linecache.cache)):
            if "ipython" in name or "ipykernel" in name or name.startswith("<python-input"):
                files[name] = None
    return list(files)


def find_class(cls: type, names: dict[str, Any], what: str, near: Iterable[str] = ()) -> Place:
    """Find the definition of a class, also of one from a notebook cell, or in the files `near`.

    Raises:
        FunctionSerializationError: Its source cannot be had.
    """
    for file in dict.fromkeys((*_files_of(cls, names), *near)):
        lines = tuple(linecache.getlines(file, names))
        if not lines:
            continue
        found = _class_in(_tree(lines, file, what), cls.__qualname__.split("."))
        if found:
            line = getattr(cls, "__firstlineno__", None)
            places = [Place(node, file, lines) for node in found]
            if len(places) > 1 and line is not None:
                return next((item for item in places if item.first == line), places[-1])
            starts = _method_lines(cls, file)
            fits = [sum(item.first <= at <= (item.node.end_lineno or 0) for at in starts) for item in places]
            return max(zip(fits, range(len(places)), places, strict=True))[2]  # the last one of those that fit as well
    refuse(
        what,
        "the source of the class is not to be found",
        "Define it with a `class` statement in a file and import it from there.",
    )


def _method_lines(cls: type, file: str) -> list[int]:
    """List where the methods of a class start, of those that were written in a file."""
    codes = [getattr(getattr(member, "__func__", member), "__code__", None) for member in vars(cls).values()]
    return [code.co_firstlineno for code in codes if isinstance(code, CodeType) and code.co_filename == file]


def enclosing_names(place: Place) -> frozenset[str]:
    """Return the names that the functions around a definition bind; they hide globals of the same name."""
    found: set[str] = set()
    first, last = place.node.lineno, place.node.end_lineno or 0
    for outer in ast.walk(_parse("".join(place.lines))):
        if not isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)) or outer.lineno >= first:
            continue
        if (outer.end_lineno or 0) < last:
            continue
        arguments = outer.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        found |= {argument.arg for argument in every if argument is not None}
        for node in ast.walk(outer):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return frozenset(found)


def imported_at_the_top(place: Place) -> list[str]:
    """List the modules that `import` statements outside functions name in the file of a definition."""
    found: list[str] = []
    waiting: list[ast.AST] = [_parse("".join(place.lines))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.expr)):
            waiting += ast.iter_child_nodes(node)
    return found


def imported_from(place: Place) -> Iterator[tuple[str, ast.alias]]:
    """Give what the file of a definition imports by `from`, anywhere in it, each with the module that it is from."""
    for node in ast.walk(_parse("".join(place.lines))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                yield node.module, alias


def _class_in(node: ast.AST, path: list[str]) -> list[ast.ClassDef]:
    """Find class statements by qualified name, also below `if` and `try`."""
    if not path:
        return [node] if isinstance(node, ast.ClassDef) else []
    rest = path[1:]
    if rest[:1] == ["<locals>"]:
        rest = rest[1:]
    found: list[ast.ClassDef] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if child.name == path[0]:
                found += _class_in(child, rest)
        elif isinstance(child, ast.stmt):
            found += _class_in(child, path)
    return found
