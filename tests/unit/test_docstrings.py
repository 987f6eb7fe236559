"""Docstrings name what is there: arguments and exceptions that exist."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

from aviato import exceptions

ROOT = Path(__file__).parents[2]
MODULES = [
    path
    for path in sorted((ROOT / "aviato").rglob("*.py"))
    if not path.name.startswith("payload") and path.parent.name != "inside"
]
SECTION = re.compile(r"^(Args|Raises|Returns|Attributes|Yields):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}([\w.]+)(?: \(.*?\))?:", re.MULTILINE)


def sections(docstring: str) -> dict[str, list[str]]:
    """Return the names that each section of a docstring lists."""
    return {match[1]: ENTRY.findall(match[2]) for match in SECTION.finditer(docstring + "\n")}


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function of a module."""
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_docstrings_exist(path: Path) -> None:
    """What `Args` lists is a parameter, and what `Raises` lists is an exception."""
    tree = ast.parse(path.read_text())
    known = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | {
        alias.asname or alias.name.rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, (ast.ImportFrom, ast.Import))
        for alias in node.names
    }
    for function in functions(tree):
        found = sections(ast.get_docstring(function) or "")
        arguments = function.args
        names = {item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        names |= {item.arg for item in (arguments.vararg, arguments.kwarg) if item is not None}
        where = f"{path.name}:{function.lineno} {function.name}"
        assert set(found.get("Args", ())) <= names, where
        for error in found.get("Raises", ()):
            name = error.partition(".")[0]  # of a module's own error the module
            assert hasattr(exceptions, name) or hasattr(builtins, name) or name in known, f"{where}: {error}"


def test_the_check_finds_what_is_wrong() -> None:
    """A wrong name in a docstring would be seen."""
    text = "Do it.\n\nArgs:\n    there: Yes.\n    gone: No,\n        never: was.\n\nRaises:\n    NoError: Never.\n"
    assert sections(text) == {"Args": ["there", "gone"], "Raises": ["NoError"]}
