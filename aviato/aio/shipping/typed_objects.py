"""Hooks for classes with fields, named tuples and typed dicts."""

from __future__ import annotations

import dataclasses
import operator
import typing
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from aviato.aio.shipping.annotations import has_fields, hints, is_named_tuple
from aviato.aio.shipping.fitting import SHOWN, Hook, MismatchError, late, origin_of, raise_within, show, wrong
from aviato.aio.shipping.inside.kinds import fields_of


def _field_hooks(kind: Any, converter: cattrs.Converter) -> dict[str, Hook]:
    origin = origin_of(kind)
    filled: dict[Any, Any] = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(kind), strict=False))

    def fill(hint: Any) -> Any:
        if isinstance(hint, typing.TypeVar):
            return filled.get(hint, hint)
        inner = getattr(hint, "__parameters__", ())
        if filled and inner and not isinstance(hint, type):
            return hint[tuple(filled.get(part, part) for part in inner)]
        return hint

    return {name: late(converter, fill(hint)) for name, hint in hints(origin).items()}


def fit_object(kind: Any, converter: cattrs.Converter) -> Hook:  # noqa: C901 - two ways, the second of them made late
    """Make the hook of a class with fields: an instance with fields that fit, or a dict of all its fields."""
    origin = origin_of(kind)
    if is_named_tuple(origin):
        return _named(kind, converter)
    hooks: dict[str, Hook] | None = None
    from_dict: Hook | None = None
    names = fields_of(origin)

    def make(value: Any, _: Any) -> Any:
        nonlocal hooks, from_dict
        if isinstance(value, origin):
            if type(value) is not origin and has_fields(type(value)):
                return converter.structure(value, type(value))
            if hooks is None:
                hooks = _field_hooks(kind, converter)
            changed = {}
            for name in names if isinstance(names, dict) else ():
                part = getattr(value, name)
                try:
                    made = hooks[name](part, None) if name in hooks else part
                except Exception as error:  # noqa: BLE001 - see `fit`
                    raise_within(error, f".{name}")
                if made is not part:
                    changed[names[name]] = made
            if not changed:
                return value
            return attrs.evolve(value, **changed) if attrs.has(origin) else dataclasses.replace(value, **changed)
        if not isinstance(value, dict):
            raise wrong(value, kind)
        if from_dict is None:
            from_dict = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        return from_dict(value, kind)

    return make


def _named(kind: Any, converter: cattrs.Converter) -> Hook:
    origin = origin_of(kind)
    hooks: dict[str, Hook] | None = None

    def make(value: Any, _: Any) -> Any:
        nonlocal hooks
        fields = origin._fields
        if not isinstance(value, (tuple, list)) or len(value) != len(fields):
            raise wrong(value, kind)
        if hooks is None:
            hooks = _field_hooks(kind, converter)
        made = []
        for name, part in zip(fields, value, strict=True):
            try:
                made.append(hooks[name](part, None) if name in hooks else part)
            except Exception as error:  # noqa: BLE001 - see `fit`
                raise_within(error, f".{name}")
        return value if isinstance(value, origin) and all(map(operator.is_, made, value)) else origin(*made)

    return make


def fit_typed_dict(kind: Any, converter: cattrs.Converter) -> Hook:
    """Make the hook of a dict with known keys."""
    origin = origin_of(kind)
    hooks: dict[str, Hook] | None = None
    required = set(origin.__required_keys__)

    def make(value: Any, _: Any) -> Any:
        nonlocal hooks
        if not isinstance(value, dict):
            raise wrong(value, kind)
        if hooks is None:
            hooks = _field_hooks(kind, converter)
            required.difference_update(  # where annotations are text, Python itself does not see the mark
                name for name, hint in hints(origin).items() if typing.get_origin(hint) is typing.NotRequired
            )
        for name in sorted(required - value.keys()):
            raise MismatchError(f".{name}", "this field is missing")
        made = {}
        for name, part in value.items():
            if name not in origin.__required_keys__ and name not in origin.__optional_keys__:
                raise MismatchError("", f"{show(kind)} has no field {name!r:.{SHOWN}}")
            try:
                made[name] = hooks[name](part, None) if name in hooks else part
            except Exception as error:  # noqa: BLE001 - see `fit`
                raise_within(error, f".{name}")
        return made

    return make
