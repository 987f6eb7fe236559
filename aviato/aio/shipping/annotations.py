"""What a function's annotations say: the types of its parameters and of its result, and the classes in them."""

from __future__ import annotations

import collections.abc
import contextlib
import enum
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from aviato.aio.shipping.values import MISSING, content, is_installed, is_ours

_PLAIN = frozenset({"builtins", "typing", "typing_extensions", "collections.abc"})
_STREAMS = (
    collections.abc.Generator,
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
)


def hints(owner: Any) -> dict[str, Any]:
    """Return the annotations of a function or class, evaluated; what cannot be evaluated is left out."""
    with contextlib.suppress(Exception):
        return typing.get_type_hints(owner, localns=_around(owner), include_extras=True)
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__) if isinstance(owner, type) else [owner]:
        for name, annotation in _raw(base).items():
            found.pop(name, None)
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            with contextlib.suppress(Exception):  # it is the user's own text, and may fail in any way
                found.update(typing.get_type_hints(holder, _names(base), _around(base), include_extras=True))
    return found


def unresolved(function: Any) -> list[str]:
    """List the parameters, and `return`, whose annotations cannot be evaluated."""
    found = hints(function)
    return [name for name in _raw(function) if name not in found]


def _raw(owner: Any) -> dict[str, Any]:
    with contextlib.suppress(Exception):
        if sys.version_info >= (3, 14):
            import annotationlib  # noqa: PLC0415 - not in the oldest Python

            return dict(annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF))
        return dict(inspect.get_annotations(owner))
    return {}


def _names(owner: Any) -> dict[str, Any]:
    if isinstance(owner, type):
        return dict(vars(sys.modules.get(owner.__module__, types)))
    return dict(getattr(owner, "__globals__", {}))


def _around(owner: Any) -> dict[str, Any] | None:
    """Return the closure of a function, whose names its annotations may use."""
    if isinstance(owner, type):
        return None
    found: dict[str, Any] = {}
    code = getattr(owner, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(owner, "__closure__", None) or (), strict=False):
        if (held := content(cell)) is not MISSING:
            found[name] = held
    return found


def result_type(found: dict[str, Any]) -> Any:
    """Return the type of what a call gives, awaited where it is to be; `Any` where that is not known."""
    kind = found.get("return", Any)
    if typing.get_origin(kind) in {collections.abc.Awaitable, collections.abc.Coroutine}:
        return typing.get_args(kind)[-1]
    return kind


def item_type(found: dict[str, Any]) -> Any:
    """Return the type of the items of a generator; `Any` where that is not known."""
    kind = found.get("return", Any)
    return typing.get_args(kind)[0] if typing.get_origin(kind) in _STREAMS else Any


def classes_of(function: Any, *, without_fields: bool = False) -> list[type]:
    """List the classes in a function's annotations that a value may have, through the fields of each.

    Args:
        function: The function.
        without_fields: List also the user's classes that say nothing of their fields, which only pickle carries.
    """
    found: dict[type, None] = {}
    seen: set[int] = set()
    kept: list[Any] = []  # so that no id is used twice
    waiting = list(hints(function).values())
    while waiting:
        kind = waiting.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        kept.append(kind)
        waiting += _parts(kind)
        if isinstance(kind, type) and _may_travel(kind, without_fields=without_fields):
            found[kind] = None
    return list(found)


def _parts(kind: Any) -> Iterator[Any]:
    """Give the types inside a type."""
    if isinstance(kind, (list, tuple)):  # the parameters of a Callable
        yield from kind
        return
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        yield from (type(value) for value in typing.get_args(kind))
        return
    if origin is not None:
        yield origin
        yield from typing.get_args(kind)
        return
    for name in ("__supertype__", "__value__", "__bound__"):
        with contextlib.suppress(Exception):  # an alias is evaluated now
            if not isinstance(kind, type) and getattr(kind, name, None) is not None:
                yield getattr(kind, name)
    yield from getattr(kind, "__constraints__", ())
    if isinstance(kind, type) and (has_fields(kind) or typing.is_typeddict(kind)):
        yield from hints(kind).values()


def has_fields(kind: type) -> bool:
    """Tell whether a class says what its fields are."""
    return hasattr(kind, "__attrs_attrs__") or hasattr(kind, "__dataclass_fields__") or is_named_tuple(kind)


def is_named_tuple(kind: Any) -> bool:
    """Tell whether a class is a named tuple."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _may_travel(kind: type, *, without_fields: bool) -> bool:
    if kind.__module__ in _PLAIN or typing.is_typeddict(kind) or is_ours(kind) or getattr(kind, "_is_protocol", False):
        return False
    if has_fields(kind) or issubclass(kind, enum.Enum):
        return True
    return without_fields and not is_installed(kind.__module__)
