"""From a function to a bundle: its source and that of what it uses, as text that `runner` puts together again."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import json
import sys
from types import CellType, FunctionType, ModuleType
from typing import Any

import attrs

from aviato.aio.shipping import values
from aviato.aio.shipping.annotations import classes_of
from aviato.aio.shipping.attributes import class_attributes, is_special, refuse_replaced_methods
from aviato.aio.shipping.decorators import skipped_decorators
from aviato.aio.shipping.names import Names, read_names
from aviato.aio.shipping.source import (
    Place,
    enclosing_names,
    find_class,
    find_function,
    imported_at_the_top,
    refuse,
)
from aviato.aio.shipping.values import Reference
from aviato.exceptions import FunctionSerializationError

_GIVEN = frozenset({"__name__", "__file__", "__package__", "__doc__", "__builtins__", "__debug__"})
_SCOPES = frozenset({"<locals>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})  # what a function is made in


@attrs.frozen
class Shipped:
    """What a sandbox needs to run a function."""

    document: bytes
    """The bundle, in ASCII JSON."""
    classes: tuple[Any, ...]
    """The classes, and functions of the user's, that both sides know by their place in this table."""
    left_out: tuple[str, ...] = ()
    """Why classes of the annotations are not in it."""


def collect(function: Any, *, pickled: bool = False) -> Shipped:
    """Return a function's bundle, with the classes that its values may have.

    These are the classes that it uses, and those in its annotations, through their fields. A class that is only in
    annotations and cannot be shipped is left out. Names that have no value yet are left to be found missing in the
    sandbox, as they would be here; a call later collects again.

    Args:
        function: The function.
        pickled: Its arguments are pickled, so that classes in annotations need no fields.

    Raises:
        FunctionSerializationError: Something it needs cannot be shipped; the message names it, the hint the way out.
    """
    return _Collector().bundle(function, pickled=pickled)


def check_function(function: Any) -> None:
    """Refuse what is no function that could run elsewhere.

    Raises:
        TypeError: It cannot be called.
        FunctionSerializationError: It is a method, a class or not written in Python.
    """
    if not callable(function):
        raise TypeError(f"a remote function must be a function, not {function!r}")
    raw = inspect.unwrap(function)
    what = f"{getattr(function, '__qualname__', None) or function!r}"
    if not isinstance(raw, FunctionType):
        kind = "class" if isinstance(raw, type) else f"{type(raw).__name__} object"
        refuse(what, f"it is a {kind}, not a function with Python source", "Write a `def` that calls it and ship that.")
    owner = raw.__qualname__.rpartition(".")[0]
    if owner and owner.rpartition(".")[2] not in _SCOPES:
        refuse(what, f"it is a method of {owner}", "Move it out of the class and pass what it needs as arguments.")


class _Collector:
    """One walk over what a function needs.

    Attributes:
        items: The definitions, each behind those that it needs to be made.
        known: What is a definition, by id, with its reference; the values are kept so that no id is used twice.
        imports: Likewise the classes that are imported.
        spaces: By the id of a dict of globals: that dict, the names that its copy begins with, and its links; a link is
            whether one can do without the name, and the reference.
        numbers: By the same id the number of that namespace in the bundle.
        open: Ids of the containers around what is described now.
        current: The globals of the definition that is collected now.
        files: Those with the functions so far; a class is often beside one that uses it.
        left_out: Why classes of the annotations cannot be shipped.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.known: dict[int, tuple[Any, Reference]] = {}
        self.spaces: dict[int, tuple[dict[str, Any], dict[str, str], dict[str, tuple[bool, Reference]]]] = {}
        self.numbers: dict[int, int] = {}
        self.open: set[int] = set()
        self.current: dict[str, Any] = {}
        self.files: list[str] = []
        self.left_out: list[str] = []
        self.imports: dict[int, tuple[Any, Reference]] = {}

    def bundle(self, function: Any, *, pickled: bool) -> Shipped:
        """Collect everything."""
        raw = inspect.unwrap(function)
        entry = self.function(function, f"function {raw.__qualname__!r}", raw.__code__.co_name)
        needed = len(self.items)
        for cls in classes_of(raw, without_fields=pickled):
            self.annotated(cls, raw.__globals__)
        table = self.table()
        document = {
            "entry": entry,
            "needed": needed,
            "classes": [reference for _, reference in table],
            "items": self.items,
            "spaces": [names for _, names, _ in self.spaces.values()],
            "links": [[[name, *link] for name, link in links.items()] for _, _, links in self.spaces.values()],
        }
        return Shipped(json.dumps(document).encode("ascii"), tuple(value for value, _ in table), tuple(self.left_out))

    def annotated(self, cls: type, names: dict[str, Any]) -> None:
        """Collect a class that only annotations name; what is missing there is no error until a value needs it."""
        before = len(self.items), dict(self.known), dict(self.imports), dict(self.spaces), dict(self.numbers)
        links = {number: dict(space[2]) for number, space in self.spaces.items()}
        self.current = names
        try:
            self.reference(cls, f"class {cls.__qualname__!r}", cls.__name__, None)
        except FunctionSerializationError as error:
            self.left_out.append(error.message)
            count, self.known, self.imports, self.spaces, self.numbers = before
            del self.items[count:]
            for number, kept in links.items():
                self.spaces[number][2].clear()
                self.spaces[number][2].update(kept)
        else:
            for number, space in self.spaces.items():
                for name in space[2].keys() - links.get(number, {}).keys():
                    space[2][name] = (True, space[2][name][1])
        self.open.clear()
        self.current = {}

    def table(self) -> list[tuple[Any, Reference]]:
        """List the classes and functions that are shipped, and the classes that are imported."""
        shipped = {id(value): (value, reference) for value, reference in self.known.values()}
        return [pair for pair in {**shipped, **self.imports}.values() if isinstance(pair[0], (type, FunctionType))]

    def space(self, names: dict[str, Any]) -> int:
        """Return the number of the namespace that stands for these globals."""
        if id(names) not in self.spaces:
            given = {key: names[key] for key in ("__name__", "__file__", "__package__") if type(names.get(key)) is str}
            self.numbers[id(names)] = len(self.spaces)
            self.spaces[id(names)] = (names, {"__name__": "__aviato__", **given}, {})
        return self.numbers[id(names)]

    def reference(self, value: Any, where: str, name: str, place: Place | None) -> Reference:
        """Return what stands for a value that was found as `name`."""
        original = values.remote_original(value)
        if original is not None:
            return self.function(original, where, inspect.unwrap(original).__code__.co_name)
        simple = values.describe(value, lambda part: self.reference(part, where, "", place), where, self.open)
        if simple is not None:
            return simple
        if isinstance(value, type) and not values.is_installed(value.__module__):
            return self.cls(value, where)
        raw = inspect.unwrap(value) if callable(value) else None
        user = isinstance(raw, FunctionType) and not values.is_installed(raw.__module__)
        if user or (isinstance(value, FunctionType) and not values.is_installed(value.__globals__.get("__name__", ""))):
            return self.function(value, where, name)
        imported = values.imported(value, name, place)
        if imported is None:
            refuse(
                where,
                f"{name or 'a value in it'} is {_shown(value)}, which has no source and no JSON form",
                "Make it inside the function, or pass what it is made from as an argument.",
            )
        if isinstance(value, type):
            self.imports[id(value)] = (value, imported)
        return imported

    def function(self, value: Any, where: str, name: str) -> Reference:
        """Collect a function; decorators are kept where the name stands for the decorated one."""
        raw: Any = inspect.unwrap(value)
        if isinstance(raw, FunctionType) and not values.is_installed(raw.__module__):
            place = find_function(raw, where)
            skip = skipped_decorators(raw, place)
            kept = len(place.decorators) - skip
            if raw is value and name != raw.__code__.co_name:
                skip += kept  # the object in hand is what stood below the decorators
            if kept or raw is value:
                return self.shipped_function(raw, value, where, place, skip)
        if not isinstance(value, FunctionType):
            refuse(
                where,
                f"{name or 'a value in it'} is {_shown(value)} around a function",
                "Write the wrapper as a decorator of the function, or call it inside the function.",
            )
        place = find_function(value, where)  # a wrapper made by a call: its closure has the function
        return self.shipped_function(value, value, where, place, len(place.decorators))

    def shipped_function(self, raw: FunctionType, value: Any, where: str, place: Place, skip: int) -> Reference:
        """Collect a function from its definition."""
        if id(value) in self.known:
            return self.known[id(value)][1]
        reference: Reference = ["item", -1]
        self.known[id(value)] = self.known[id(raw)] = (value, reference)
        self.files.append(place.file)
        node = place.node
        assert not isinstance(node, ast.ClassDef)  # noqa: S101 - narrows the type
        cells = dict(zip(raw.__code__.co_freevars, raw.__closure__ or (), strict=True))
        if "__class__" in cells:
            refuse(where, f"{raw.__qualname__} is a method that uses super()", "Move it out of the class.")
        inner = where if not self.items and len(self.known) <= 2 else f"{where}, through {raw.__qualname__!r}"  # noqa: PLR2004 - the entry itself
        defaults = [
            self.reference(part, f"{inner}, default value", "", place)
            for part in (*(raw.__defaults__ or ()), *(raw.__kwdefaults__ or {}).values())
        ]
        self.add(reference, raw, raw.__globals__, cells, defaults=defaults, place=place, skip=skip, where=inner)
        item = self.items[reference[1]]
        item["attributes"] = self.function_attributes(value, inner, place, remade=len(place.decorators) > skip)
        item["registered"] = self.implementations(value, inner, place)
        return reference

    def cls(self, value: type, where: str) -> Reference:
        """Collect a class from its definition."""
        if id(value) in self.known:
            return self.known[id(value)][1]
        what = f"{where}, class {value.__qualname__!r}"
        module = sys.modules.get(value.__module__)
        same = self.current.get("__name__") == value.__module__
        names = self.current if same or module is None else vars(module)
        place = find_class(value, names, what, self.files)
        cells: dict[str, CellType] = {}
        for member in vars(value).values():
            member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member  # noqa: PLW2901 - the function in it
            method = inspect.unwrap(member) if callable(member) else None
            if isinstance(method, FunctionType) and method.__code__.co_filename == place.file:
                first, last = place.first, place.node.end_lineno or 0
                if first <= method.__code__.co_firstlineno <= last:  # not one that was put there by others
                    cells.update(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
                    names = method.__globals__
        refuse_replaced_methods(value, what, place)
        cells.pop("__class__", None)
        reference: Reference = ["item", -1]
        self.known[id(value)] = (value, reference)
        self.add(reference, value, names, cells, defaults=[], place=place, skip=0, where=what)
        self.items[reference[1]]["attributes"] = class_attributes(value, what, place)
        return reference

    def function_attributes(self, value: Any, where: str, place: Place, *, remade: bool) -> list[tuple[str, Reference]]:
        """Collect what was set on a function; where decorators run again, they make what is no plain data."""
        if not isinstance(value, (FunctionType, functools._lru_cache_wrapper)):  # noqa: SLF001 - it has no other name
            return []
        found: list[tuple[str, Reference]] = []
        for name, content in vars(value).items():
            if is_special(name):  # what functools and inspect keep there
                continue
            inner = f"{where}, attribute {name!r}"
            data = values.describe_data(content, inner)
            if data is not None:
                found.append((name, data))
            elif not remade:
                found.append((name, self.reference(content, inner, name, place)))
        return found

    def implementations(self, value: Any, where: str, place: Place) -> list[tuple[Reference, Reference]]:
        """Collect what was registered with a function of `functools.singledispatch`."""
        inside = getattr(value, "__wrapped__", None)
        while inside is not None:
            if values.registered(inside):
                refuse(
                    where,
                    "a decorator is above functools.singledispatch, which hides what was registered",
                    "Put @singledispatch above the other decorators.",
                )
            inside = getattr(inside, "__wrapped__", None)
        found: list[tuple[Reference, Reference]] = []
        for kind, function in values.registered(value).items():
            inner = f"{where}, implementation for {kind.__qualname__!r}"
            if hasattr(function, "__wrapped__"):
                refuse(
                    inner,
                    f"{function.__qualname__} has decorators below the one that registers it",
                    "Call the decorated function from a plain implementation.",
                )
            implementation = self.reference(function, inner, "", place)
            found.append((self.reference(kind, inner, kind.__name__, place), implementation))
        return found

    def add(  # noqa: C901 - one step of the walk, in the order that matters
        self,
        reference: Reference,
        value: Any,
        names: dict[str, Any],
        cells: dict[str, CellType],
        *,
        defaults: list[Reference],
        place: Place,
        skip: int,
        where: str,
    ) -> None:
        """Collect what a definition reads, then the definition, so that what others need comes first."""
        node = place.node
        own = "__aviato_lambda" if isinstance(node, ast.Lambda) else node.name
        read = read_names(place, skip)
        _refuse_remote(read, names, cells, where)
        space = self.space(names)
        links = self.spaces[id(names)][2]
        around, self.current = self.current, names
        closed: dict[str, Reference] = {}
        needs: list[tuple[str, Reference]] = []
        for name, cell in cells.items():
            if name == own:
                continue
            content = values.content(cell)
            if content is values.MISSING:
                closed[name] = ["missing", name]
                continue
            closed[name] = self.reference(content, f"{where}, closure variable {name!r}", name, place)
        hidden = enclosing_names(place) if read.at_once else frozenset()
        for name in (*read.at_once, *read.later):
            if name in cells or name in _GIVEN or name == own:
                continue
            found = values.MISSING if name in hidden and name in read.at_once else names.get(name, values.MISSING)
            if found is values.MISSING:
                if name in read.at_once and not hasattr(builtins, name):
                    refuse(
                        where,
                        f"its definition needs {name!r}, which is neither global nor used inside it",
                        "Define what its decorators and base classes use at the top of the module.",
                    )
                continue
            if name not in links:
                links[name] = (False, self.reference(found, f"{where}, global {name!r}", name, place))
            if name in read.at_once:
                needs.append((name, links[name][1]))
        needs += [(name, closed[name]) for name in read.at_once if name in closed]
        for name in read.annotations:  # only for those who look at annotations at run time
            found = names.get(name, values.MISSING)
            plain = None if found is values.MISSING or name in links else values.imported(found, name, place)
            if plain is not None:
                links[name] = (True, plain)
        self.current = around
        reference[1] = len(self.items)
        self.items.append(
            {
                "kind": "lambda" if isinstance(node, ast.Lambda) else "definition",
                "name": own,
                "qualname": value.__qualname__,
                "space": space,
                "file": place.file,
                "line": node.lineno if isinstance(node, ast.Lambda) else place.first,
                "text": place.text,
                "skip": skip,
                "cells": closed,
                "needs": needs,
                "defaults": defaults,
                "imports": self.submodules(read, names, cells, place),
                "attributes": [],
                "registered": [],
            }
        )

    def submodules(
        self, read: Names, names: dict[str, Any], cells: dict[str, CellType], place: Place
    ) -> list[tuple[str, bool]]:
        """List the modules that `import a.b` put below the `a` that is read, and whether one can do without."""
        used: set[str] = set()
        named: set[str] = set()
        tops = None
        for name in {*read.at_once, *read.later, *cells}:
            module = values.content(cells[name]) if name in cells else names.get(name)
            if isinstance(module, ModuleType):
                used |= values.submodules(module, (chain[1:] for chain in read.chains if chain[0] == name))
                tops = imported_at_the_top(place) if tops is None else tops
                named |= {top for top in tops if top.startswith(f"{module.__name__}.") and top in sys.modules}
        return [(name, name not in used) for name in sorted(used | named)]


def _refuse_remote(read: Names, names: dict[str, Any], cells: dict[str, CellType], where: str) -> None:
    """Refuse what a remote function has only here: there is no session in the sandbox, and it is a plain function."""
    for name, attribute in sorted({chain[:2] for chain in read.chains}):
        if name not in cells and name not in read.at_once and name not in read.later:
            continue  # it is a local variable
        value = values.content(cells[name]) if name in cells else names.get(name)
        original = values.remote_original(value)
        if original is not None and hasattr(value, attribute) and not hasattr(original, attribute):
            refuse(
                where,
                f"it uses {name}.{attribute}, but in the sandbox the remote function {name} is a plain function",
                f"Call it as {name}(...), which runs it in the same sandbox.",
            )


def _shown(value: Any) -> str:
    kind = type(value)
    return f"an object of type {kind.__module__}.{kind.__qualname__}"
