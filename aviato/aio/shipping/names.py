"""The names that a definition reads from outside itself."""

from __future__ import annotations

import ast
import copy
import symtable
from collections.abc import Iterator
from typing import NamedTuple

from aviato.aio.shipping.source import Place

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Names(NamedTuple):
    """Names read from outside; each in the order of the alphabet."""

    at_once: tuple[str, ...]
    """Read while the definition runs: by decorators, base classes, the body of a class."""
    later: tuple[str, ...]
    """Read when the function, or a method, is called."""
    annotations: tuple[str, ...]
    """Read by annotations, which are text in the sandbox."""
    chains: tuple[tuple[str, ...], ...]
    """The names with the attributes read from them: `a.b.c` is there as `a.b` and as `a.b.c`."""


class _Bare(ast.NodeTransformer):
    """Take annotations out, and note the names in them."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def _note(self, node: ast.expr | None) -> None:
        for inner in ast.walk(node) if node is not None else ():
            if isinstance(inner, ast.Name):
                self.found.add(inner.id)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Take out a parameter's annotation."""
        self._note(node.annotation)
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Take out a variable's annotation; the variable stays local."""
        self._note(node.annotation)
        node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Take out what a function's signature is annotated with."""
        self._note(node.returns)
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Take out what a function's signature is annotated with."""
        self._note(node.returns)
        node.returns = None
        self.generic_visit(node)
        return node


def read_names(place: Place, skip: int) -> Names:
    """Find the names that a definition reads, its first `skip` decorators and its parameters' defaults left out."""
    node = copy.deepcopy(place.node)
    bare = _Bare()
    if isinstance(node, ast.Lambda):
        node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
        node.args.kw_defaults = [item and ast.Constant(None) for item in node.args.kw_defaults]
        own = "<lambda>"
        module = ast.Module([ast.Expr(bare.visit(node))], [])
    else:
        node.decorator_list = node.decorator_list[skip:]
        if not isinstance(node, ast.ClassDef):
            node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
            node.args.kw_defaults = [item and ast.Constant(None) for item in node.args.kw_defaults]
        own = node.name
        module = ast.Module([bare.visit(node)], [])
    table = symtable.symtable(ast.unparse(ast.fix_missing_locations(module)), "definition", "exec")
    at_once = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    later: set[str] = set()
    for child in table.get_children():
        _walk(child, at_once if child.get_type() == "class" else later, later)
    at_once.discard(own)
    chains = set(_chains(module, frozenset()))
    noted = bare.found - at_once - later
    return Names(tuple(sorted(at_once)), tuple(sorted(later - at_once)), tuple(sorted(noted)), tuple(sorted(chains)))


def _chains(node: ast.AST, hidden: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Give every `a.b.c` as its parts, but for those that start with a variable of the function that they are in."""
    chain = _chain(node)
    if len(chain) > 1 and chain[0] not in hidden:
        yield chain
    function = isinstance(node, _FUNCTIONS)
    for field, content in ast.iter_fields(node):
        inside = hidden | _bound(node) if function and field == "body" else hidden
        for child in content if isinstance(content, list) else [content]:
            if isinstance(child, ast.AST):
                yield from _chains(child, inside)


def _bound(function: ast.AST) -> set[str]:
    """Return what a function's parameters and assignments bind; those of functions in it do not count."""
    found: set[str] = set()
    outside: set[str] = set()
    waiting: list[ast.AST] = [function]
    while waiting:
        node = waiting.pop()
        if node is not function and isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            continue
        if isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            outside.update(node.names)
        waiting += ast.iter_child_nodes(node)
    return found - outside


def _chain(node: ast.AST) -> tuple[str, ...]:
    """Return `a.b.c` as its parts; nothing for what does not start with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def _walk(table: symtable.SymbolTable, here: set[str], later: set[str]) -> None:
    here |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    for child in table.get_children():
        _walk(child, here if child.get_type() == "class" and here is not later else later, later)
