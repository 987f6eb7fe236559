"""Words of the fake shell: variables, substitutions, splitting, patterns, arithmetic and `test`."""

from __future__ import annotations

import ast
import fnmatch
import operator
import posixpath
from collections.abc import Callable, Mapping

from aviato.testing._files import FileSystem
from aviato.testing._shellsyntax import UnknownSyntaxError

_OPERATIONS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: int(a / b) if abs(a) < 1 << 52 else a // b,
    ast.Mod: lambda a, b: a - b * int(a / b) if abs(a) < 1 << 52 else a % b,
    ast.Lt: lambda a, b: int(a < b),
    ast.LtE: lambda a, b: int(a <= b),
    ast.Gt: lambda a, b: int(a > b),
    ast.GtE: lambda a, b: int(a >= b),
    ast.Eq: lambda a, b: int(a == b),
    ast.NotEq: lambda a, b: int(a != b),
}


def arithmetic(text: str, variables: Mapping[str, str]) -> int:
    """Work out `$((text))`.

    Raises:
        UnknownSyntaxError: It has more than numbers, names, `+ - * / %` and comparisons, or divides by 0.
    """

    def value(node: ast.AST) -> int:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() as number):
                return int(number)
            case ast.Name(id=name):
                return int(variables.get(name) or 0)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](value(left), value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](value(left), value(right))
            case _:
                raise UnknownSyntaxError(f"the fake shell does not know $(({text}))")

    try:
        return value(ast.parse(text.replace("$", "").strip(), mode="eval"))
    except (SyntaxError, ValueError, ZeroDivisionError) as error:
        raise UnknownSyntaxError(f"the fake shell does not know $(({text})): {error}") from None


def expand_pattern(files: FileSystem, cwd: str, pattern: str) -> list[str]:
    """Find the paths that a pattern matches, sorted."""
    found = ["/" if pattern.startswith("/") else ""]
    for part in (item for item in pattern.split("/") if item):
        deeper: list[str] = []
        for place in found:
            if not any(letter in part for letter in "*?["):
                path = posixpath.join(place, part)
                if files.exists(path, cwd):
                    deeper.append(path)
                continue
            try:
                names = files.names(place or ".", cwd)
            except OSError:
                continue
            deeper.extend(
                posixpath.join(place, name)
                for name in names
                if fnmatch.fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))
            )
        found = deeper
    return sorted(found)


def test(files: FileSystem, cwd: str, words: list[str]) -> bool:  # noqa: C901, PLR0911 - one for each form
    """Answer `test WORDS`.

    Raises:
        UnknownSyntaxError: It asks for something the fake shell does not know.
    """
    match words:
        case []:
            return False
        case ["!", *rest]:
            return not test(files, cwd, rest)
        case [word]:
            return bool(word)
        case ["-n", word]:
            return bool(word)
        case ["-z", word]:
            return not word
        case ["-e" | "-f" | "-d" | "-s" | "-x" | "-r" | "-w" | "-L" | "-h" as option, path]:
            return _test_file(files, cwd, option, path)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" as option, right]:
            try:
                pair = int(left), int(right)
            except ValueError:
                raise UnknownSyntaxError(f"test: {left!r} or {right!r} is not a number") from None
            return bool(getattr(operator, option[1:])(*pair))
        case _:
            raise UnknownSyntaxError(f"the fake shell does not know test {' '.join(words)}")


def _test_file(files: FileSystem, cwd: str, option: str, path: str) -> bool:
    try:
        node = files.node(path, cwd, follow=option not in ("-L", "-h"))
    except OSError:
        return False
    return {
        "-f": node.entries is None and not node.device,
        "-d": node.entries is not None,
        "-s": bool(node.data),
        "-x": bool(node.mode & 0o111),
        "-w": not node.readonly,
        "-L": bool(node.target),
        "-h": bool(node.target),
    }.get(option, True)
