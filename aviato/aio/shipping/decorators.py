"""The decorators of a function that do not run in the sandbox."""

from __future__ import annotations

import ast
import inspect
from types import FunctionType
from typing import Any

from aviato.aio.shipping import values
from aviato.aio.shipping.source import Place, enclosing_names


def skipped_decorators(raw: FunctionType, place: Place) -> int:
    """Return how many decorators, from the top, do not run there.

    They end with the one that made the function remote, or they register it with a function of
    `functools.singledispatch`, which brings what is registered along.
    """
    registering = 0
    for index, node in reversed(list(enumerate(place.decorators))):
        target = node.func if isinstance(node, ast.Call) else node
        if isinstance(target, ast.Attribute) and target.attr == "function":
            owner = _look(target.value, raw, place)
            if owner is values.MISSING or values.is_ours(type(owner)):
                return index + 1
        elif isinstance(target, ast.Name) and values.is_ours(_look(target, raw, place)):
            return index + 1
        registering = registering + 1 if _registers(target, raw, place) else 0
    return registering


def _registers(node: ast.expr, raw: FunctionType, place: Place) -> bool:
    """Tell whether a decorator registers with a function of `functools.singledispatch`."""
    if not isinstance(node, ast.Attribute) or node.attr != "register":
        return False
    return bool(values.registered(_look(node.value, raw, place)))


def _look(node: ast.expr, raw: FunctionType, place: Place) -> Any:
    """Return what a name, or an attribute of one, stands for above a function."""
    if isinstance(node, ast.Name):
        if node.id in raw.__code__.co_freevars:
            return values.content((raw.__closure__ or ())[raw.__code__.co_freevars.index(node.id)])
        return values.MISSING if node.id in enclosing_names(place) else raw.__globals__.get(node.id, values.MISSING)
    if isinstance(node, ast.Attribute):
        found = _look(node.value, raw, place)
        return found if found is values.MISSING else inspect.getattr_static(found, node.attr, values.MISSING)
    return values.MISSING
