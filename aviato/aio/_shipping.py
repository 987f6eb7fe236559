"""What of a program a function needs elsewhere: its source, and that of whatever it uses, recursively.

Source travels, not byte code, so that client and sandbox may run different Pythons. Each module that something comes from
becomes a name space of its own over there, and so does each function that has closure values; names are put into
them in the order in which definitions need each other.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable
from typing import Any

from aviato.exceptions import FunctionSerializationError

Item = dict[str, Any]


def collect(function: Callable[..., Any]) -> dict[str, Any]:
    """Gather everything that `function` needs.

    Raises:
        FunctionSerializationError: Something cannot be shipped; it says what, why and the way out.
    """
    return _Collector().collect(function)


def _library_places() -> tuple[str, ...]:
    places = {path for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))}
    return tuple(f"{place}/" for place in places)


class _Collector:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self._known: dict[int, tuple[str, str]] = {}
        self._open: set[int] = set()
        self._bound: set[tuple[str, str]] = set()
        self._alive: list[Any] = []
        self._libraries = _library_places()

    def collect(self, function: Callable[..., Any]) -> dict[str, Any]:
        if not isinstance(inspect.unwrap(function), types.FunctionType):
            raise FunctionSerializationError(
                f"{function!r} is not a Python function", hint="Decorate a function made with def."
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise FunctionSerializationError(
                f"{function.__name__} is a generator, which cannot be called remotely", hint="Return a list instead."
            )
        entry = self._define(function, function.__name__)
        return {"items": self.items, "entry": list(entry)}

    def _define(self, thing: Any, name: str) -> tuple[str, str]:
        """Ship a function or class; give the space and name under which it is known there."""
        known = self._known.get(id(thing))
        if known is not None:
            return known
        plain = inspect.unwrap(thing) if callable(thing) else thing
        source, line, file = self._source(plain, name)
        tree = self._definition(source, plain, name)
        module = plain.__module__
        space = f"shipped.{module}"
        closure: dict[str, Any] = {}
        if isinstance(plain, types.FunctionType) and plain.__closure__:
            space = f"shipped.{module}.{plain.__qualname__}.{len(self._known)}"
            closure = self._closure(plain, name)
        where = self._known[id(thing)] = self._known[id(plain)] = (space, tree.name)
        self._alive.append(thing)
        scope = vars(sys.modules[module]) if module in sys.modules else {}
        scope = {**getattr(plain, "__globals__", scope), **closure}
        for used in _names_used(tree):
            if used not in scope:
                if not hasattr(builtins, used) and used != tree.name:
                    continue  # defined later, or only where it is used: a NameError there says so at the right line
                continue
            self._bind(space, used, scope[used], f"{name} uses {used}")
        for chain in _attribute_chains(tree):
            self._submodule(space, chain, scope)
        self.items.append(
            {"kind": "source", "space": space, "name": tree.name, "source": ast.unparse(tree) if tree.decorated else source,
             "line": line, "file": file}
        )  # fmt: skip
        return where

    def _closure(self, function: types.FunctionType, name: str) -> dict[str, Any]:
        values = {}
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                values[free] = cell.cell_contents
            except ValueError:
                if free != function.__name__:
                    raise FunctionSerializationError(
                        f"{name} uses {free}, which has no value yet when {name} is decorated",
                        hint=f"Define {free} before {name}.",
                    ) from None
        return values

    def _bind(self, space: str, name: str, value: Any, why: str) -> None:
        if (space, name) in self._bound:
            return
        self._bound.add((space, name))
        value = getattr(value, "__aviato_function__", value)
        if isinstance(value, types.ModuleType):
            self._add("import", space, name, module=value.__name__, attribute="")
        elif self._is_library(value):
            owner = value.__module__
            attribute = value.__qualname__
            if "." in attribute or getattr(sys.modules.get(owner), attribute, None) is not value:
                raise FunctionSerializationError(f"{why}, which cannot be imported as {owner}.{attribute}")
            self._add("import", space, name, module=owner, attribute=attribute)
        elif isinstance(value, (types.FunctionType, type)) or isinstance(inspect.unwrap(value), types.FunctionType):
            origin = self._define(value, name)
            if origin != (space, name):
                self._add("alias", space, name, **{"from": list(origin)})
        else:
            self._add("value", space, name, literal=_literal(value, why))

    def _add(self, kind: str, space: str, name: str, **fields: Any) -> None:
        self.items.append({"kind": kind, "space": space, "name": name, **fields})

    def _is_library(self, value: Any) -> bool:
        """Tell whether something comes with Python or from an installed package, and is imported over there."""
        if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return False
        module = sys.modules.get(value.__module__ or "")
        if module is None or module.__name__ in ("__main__", "__mp_main__"):
            return False
        file = getattr(module, "__file__", None)
        return file is None or file.startswith(self._libraries)

    def _submodule(self, space: str, chain: str, scope: dict[str, Any]) -> None:
        root, _, rest = chain.partition(".")
        module = scope.get(root)
        if not isinstance(module, types.ModuleType) or not rest:
            return
        dotted = f"{module.__name__}.{rest}"
        while "." in dotted and dotted != module.__name__:
            if isinstance(sys.modules.get(dotted), types.ModuleType) and (space, dotted) not in self._bound:
                self._bound.add((space, dotted))
                self._add("submodule", space, root, module=dotted)
            dotted = dotted.rpartition(".")[0]

    def _source(self, thing: Any, name: str) -> tuple[str, int, str]:
        try:
            lines, line = inspect.getsourcelines(thing)
            file = inspect.getsourcefile(thing) or "<unknown>"
        except (OSError, TypeError) as error:
            raise FunctionSerializationError(
                f"the source of {name} cannot be found: {error}",
                hint="Put it into a file or a notebook cell; what is typed at the plain prompt leaves no source.",
            ) from error
        return textwrap.dedent("".join(lines)), max(line, 1), file

    def _definition(self, source: str, thing: Any, name: str) -> _Definition:
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise FunctionSerializationError(
                f"the source of {name} does not stand on its own: {error}", hint="Define it with def, on lines of its own."
            ) from error
        node = tree.body[0]
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            raise FunctionSerializationError(
                f"{name} is a lambda, whose source cannot be cut out", hint="Define it with def."
            )
        kept = [item for item in node.decorator_list if not _is_ours(item)]
        changed = len(kept) != len(node.decorator_list)
        node.decorator_list = kept
        del thing
        return _Definition(node, decorated=changed)


class _Definition(ast.Module):
    """One definition, and whether a decorator was taken off it."""

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, *, decorated: bool) -> None:
        super().__init__(body=[node], type_ignores=[])
        self.name = node.name
        self.decorated = decorated


def _is_ours(decorator: ast.expr) -> bool:
    """Recognise `@session.function` and `@session.function(...)`."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Attribute) and target.attr == "function"


def _names_used(tree: ast.AST) -> list[str]:
    """List the names that a definition reads, annotations left out: they are not evaluated over there."""
    names: dict[str, None] = {}

    class Visitor(ast.NodeVisitor):
        def visit_Name(self, node: ast.Name) -> None:  # noqa: N802 - ast's name
            if isinstance(node.ctx, ast.Load):
                names[node.id] = None

        def visit_arg(self, node: ast.arg) -> None:
            """Leave the annotation out."""

        def visit_AnnAssign(self, node: ast.AnnAssign) -> None:  # noqa: N802 - ast's name
            if node.value is not None:
                self.visit(node.value)

        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # noqa: N802 - ast's name
            node.returns = None
            self.generic_visit(node)

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:  # noqa: N802 - ast's name
            node.returns = None
            self.generic_visit(node)

    Visitor().visit(ast.parse(ast.unparse(tree)))
    return list(names)


def _attribute_chains(tree: ast.AST) -> list[str]:
    """List dotted names such as `os.path.join`."""
    chains = []
    for node in ast.walk(tree):
        parts: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if parts and isinstance(at, ast.Name):
            chains.append(".".join([at.id, *reversed(parts)]))
    return chains


def _literal(value: Any, why: str) -> str:
    """Write a constant as source.

    Raises:
        FunctionSerializationError: It is not made of plain values.
    """
    _check_plain(value, why, set())
    text = repr(value)
    return text.replace("inf", "float('inf')").replace("nan", "float('nan')") if isinstance(value, float) else text


def _check_plain(value: Any, why: str, seen: set[int]) -> None:
    if value is None or value is Ellipsis or type(value) in (bool, int, float, complex, str, bytes):
        return
    if type(value) in (list, tuple, set, frozenset, dict):
        if id(value) in seen:
            raise FunctionSerializationError(f"{why}, which contains itself")
        seen = seen | {id(value)}
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for part in parts:
            _check_plain(part, why, seen)
        return
    raise FunctionSerializationError(
        f"{why}, a {type(value).__name__}, which cannot be shipped",
        hint="Pass it as an argument, make it inside the function, or keep plain values (numbers, text, lists, dicts).",
    )
