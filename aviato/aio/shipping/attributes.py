"""What classes and functions carry as attributes, beside what their text gives them."""

from __future__ import annotations

import ast
import contextlib
import enum
from collections import Counter
from types import FunctionType

from aviato.aio.shipping import values
from aviato.aio.shipping.source import Place, refuse
from aviato.aio.shipping.values import Reference

_METHODS = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_special(name: str) -> bool:
    """Tell whether a name is one of those that Python keeps for itself."""
    return name.startswith("__") and name.endswith("__")


def class_attributes(value: type, where: str, place: Place) -> list[tuple[str, Reference]]:
    """List the plain data among a class's attributes, but for what its text says as it stands."""
    assert isinstance(place.node, ast.ClassDef)  # noqa: S101 - narrows the type
    if issubclass(value, enum.Enum):  # these do not change
        return []
    bound = Counter(
        node.id for node in ast.walk(place.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    texts: dict[str, ast.expr] = {}
    for node in place.node.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and bound[target.id] == 1:
                    texts[target.id] = node.value
    found: list[tuple[str, Reference]] = []
    for name, content in vars(value).items():
        data = None if is_special(name) else values.describe_data(content, where)
        if data is None:
            continue
        with contextlib.suppress(ValueError):  # it is no literal, so that its text does not say what it is
            said = ast.literal_eval(texts[name]) if name in texts else values.MISSING
            if values.describe_data(said, where) == data:
                continue
        found.append((name, data))
    return found


def refuse_replaced_methods(value: type, where: str, place: Place) -> None:
    """Refuse a class with a method that was replaced from outside: its text has the one from before.

    Where decorators, a metaclass or `__init_subclass__` may have replaced it, they do so again in the sandbox.
    """
    node = place.node
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - narrows the type
    if node.decorator_list or type(value) is not type:
        return
    if any("__init_subclass__" in vars(base) for base in value.__mro__[1:-1]):
        return
    bound = Counter(inner.name for inner in ast.walk(node) if isinstance(inner, _METHODS))
    bound.update(
        inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    )
    for inner in node.body:
        if not isinstance(inner, _METHODS) or inner.decorator_list or bound[inner.name] != 1:
            continue
        method = vars(value).get(inner.name, values.MISSING)
        if method is values.MISSING:  # the name is mangled, or it was taken away
            continue
        if isinstance(method, (classmethod, staticmethod)):  # Python does this to __new__ and a few others
            method = method.__func__
        code = method.__code__ if isinstance(method, FunctionType) else None
        if code is None or (code.co_filename, code.co_firstlineno) != (place.file, inner.lineno):
            refuse(
                where,
                f"its method {inner.name!r} is not that of line {inner.lineno} of {place.file}: it was replaced after "
                "the class was defined, or the file has changed since it was loaded",
                "Replace it in a subclass, or inside the function that is shipped; restart a program that has changed.",
            )
