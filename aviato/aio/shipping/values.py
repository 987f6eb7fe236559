"""Values that travel beside the source: by their text, by how they are made, or by where they are imported from."""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import json
import logging
import math
import os
import pathlib
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from types import CellType, FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeVar

from aviato.aio.shipping.source import Place, imported_from, refuse
from aviato.exceptions import FunctionSerializationError

Reference = list[Any]
"""What stands for a value in a bundle, as `definitions.Bundle.value` reads it."""
MISSING = object()
_TEXT = frozenset({type(None), bool, int, str, bytes, complex, type(Ellipsis)})
_SETS: dict[type, str] = {set: "set", frozenset: "frozenset"}
_CONTAINERS: dict[type, str] = {list: "list", tuple: "tuple", dict: "dict", **_SETS}


@functools.lru_cache(maxsize=1)
def _package_directories() -> tuple[str, ...]:
    found = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.join(os.path.realpath(path), "") for path in found if path)  # noqa: PTH118 - strings are compared


def content(cell: CellType) -> Any:
    """Return what a closure variable has, or MISSING."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def is_installed(name: str | None) -> bool:
    """Tell whether a module comes with Python or from an installed package, so that the sandbox may have it too."""
    if not name or name == "__main__":
        return False
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return False
    if file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return True
    return bool(os.path.realpath(file).startswith(_package_directories()))


def registered(value: Any) -> dict[Any, Any]:
    """Return the implementations that were registered with a function of `functools.singledispatch`."""
    if not isinstance(value, FunctionType) or value.__globals__ is not vars(functools):
        return {}
    found = vars(value).get("registry")
    base = vars(value).get("__wrapped__")
    if not isinstance(found, MappingProxyType):
        return {}
    return {kind: function for kind, function in found.items() if function is not base}


def is_ours(value: Any) -> bool:
    """Tell whether a class or function is of this library."""
    module = getattr(value, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in {"aviato", "aviato_sync"}


def remote_original(value: Any) -> Any:
    """Return the function inside a remote function of either face, or None."""
    if not is_ours(type(value)) or type(value).__name__ != "RemoteFunction":
        return None
    return getattr(value, "_core", value).__aviato_function__


def describe(  # noqa: C901, PLR0911, PLR0912 - a table of kinds, each with its own answer
    value: Any, part: Callable[[Any], Reference], where: str, above: set[int]
) -> Reference | None:
    """Return what stands for plain data, a module, or one of the few objects with a known recipe; else None."""
    kind = type(value)
    if kind in _TEXT:
        return _literal(value, where)
    if kind is float:
        return ["literal", repr(value)] if math.isfinite(value) else ["float", repr(value)]
    if kind in _CONTAINERS:
        if id(value) in above:
            refuse(where, "it contains itself", "Build it inside the function.")
        above.add(id(value))
        try:
            inner = (
                [["build", "tuple", [part(key), part(item)]] for key, item in value.items()]
                if kind is dict
                else [part(item) for item in (sorted(value, key=_order) if kind in _SETS else value)]
            )
        finally:
            above.discard(id(value))
        if kind in _SETS:  # text is hashed otherwise in each process; the same work is the same bundle
            inner.sort(key=json.dumps)
        if kind in {list, tuple, dict} and all(_is_literal(item) for item in inner):
            return _literal(value, where)
        return ["build", _CONTAINERS[kind], inner]
    if isinstance(value, ModuleType):
        return ["import", value.__name__, ""]
    if isinstance(value, enum.Enum) and value.name is not None:
        return ["attribute", part(kind), value.name]
    thing: Any = value  # its kind is known by identity, which says nothing to a type checker
    if kind is re.Pattern:
        return ["call", ["import", "re", "compile"], [_literal(thing.pattern, where), _literal(thing.flags, where)]]
    if isinstance(value, pathlib.PurePath) and is_installed(kind.__module__):
        public = next(cls for cls in kind.__mro__ if hasattr(pathlib, cls.__name__))
        return ["call", ["import", "pathlib", public.__name__], [_literal(str(value), where)]]
    if kind is TypeVar:  # its bounds mean nothing there
        return ["call", ["import", "typing", "TypeVar"], [_literal(thing.__name__, where)]]
    if kind is logging.Logger:
        return ["call", ["import", "logging", "getLogger"], [_literal(value.name, where)]]
    if kind is functools.partial:
        keywords = [["build", "tuple", [part(name), part(item)]] for name, item in thing.keywords.items()]
        positional = [part(thing.func), *map(part, thing.args)]
        return ["call", ["import", "functools", "partial"], positional, ["build", "dict", keywords]]
    return None


class _NotDataError(Exception):
    """A value that is more than plain data."""


def describe_data(value: Any, where: str) -> Reference | None:
    """Return what stands for plain data, with patterns and paths in it; None for all that is more."""
    above: set[int] = set()

    def part(inner: Any) -> Reference:
        kind = type(inner)
        if kind in _TEXT or kind in _CONTAINERS or kind in {float, re.Pattern} or isinstance(inner, pathlib.PurePath):
            found = describe(inner, part, where, above)
            if found is not None:
                return found
        raise _NotDataError

    try:
        return part(value)
    except (_NotDataError, FunctionSerializationError):  # one that contains itself is none either
        return None


def _order(value: Any) -> tuple[str, str]:
    """Return what orders functions and classes of a set, which are collected in the order in which they are met."""
    return str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))


def _is_literal(reference: Reference) -> bool:
    if reference[0] == "build":
        if reference[1] in _SETS.values():  # its text has the order of this process, and a frozenset's is no literal
            return False
        return all(_is_literal(item) for item in reference[2])
    return bool(reference[0] == "literal")


def _literal(value: Any, where: str) -> Reference:
    try:
        return ["literal", repr(value)]
    except ValueError as error:
        refuse(where, f"it has no text: {error}", "Compute it inside the function.")


def submodules(module: ModuleType, chains: Iterable[tuple[str, ...]]) -> set[str]:
    """Return the modules below one that are read as its attributes; it has them only once they are imported."""
    found: set[str] = set()
    for chain in chains:
        at, name = module, module.__name__
        for step in chain:
            inner, name = vars(at).get(step), f"{name}.{step}"
            if not isinstance(inner, ModuleType) or sys.modules.get(name) is not inner:
                break
            found.add(name)
            at = inner
    return found


def _public_home(module: str, path: str, value: Any) -> str | None:
    """Return the module to import an object from: the public one above private ones, which differ between Pythons."""
    names = module.split(".")
    for count in range(1, len(names) + 1):
        home = ".".join(names[:count])
        found: Any = sys.modules.get(home)
        for step in path.split("."):
            found = getattr(found, step, None)
        if found is value and all(name.startswith("_") for name in names[count:]):
            return home
    return None


def imported(value: Any, name: str, place: Place | None) -> Reference | None:
    """Return where an object of an installed package is imported from, or None when that cannot be told."""
    if isinstance(value, ModuleType):
        return ["import", value.__name__, ""]
    module = getattr(value, "__module__", None)
    path = getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(path, str) and "<" not in path and is_installed(module):
        home = _public_home(module, path, value)
        if home is not None:
            return ["import", home, path]
    if place is None or not name:
        return None
    for home, alias in imported_from(place):
        if (alias.asname or alias.name) != name or not is_installed(home):
            continue
        if getattr(sys.modules.get(home), alias.name, None) is value:
            return ["import", home, alias.name]
    return None
