"""Values made to fit annotations, by one cattrs converter that guesses nothing: what does not fit is refused."""

from __future__ import annotations

import contextvars
import enum
import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import cattrs

from aviato.aio.shipping.annotations import has_fields
from aviato.aio.shipping.fitting import Hook, MismatchError, late, origin_of, told, wrong
from aviato.aio.shipping.typed_containers import MAPPINGS, SEQUENCES, fit_mapping, fit_sequence, fit_tuple
from aviato.aio.shipping.typed_leaves import LEAVES
from aviato.aio.shipping.typed_objects import fit_object, fit_typed_dict

_PATH = 500
_HOLDERS = frozenset({dict, list, tuple, set, frozenset})
_tried: contextvars.ContextVar[dict[tuple[int, int], tuple[bool, Any]]] = contextvars.ContextVar("_tried")
"""What was made of a part by a union, of the value in hand: a union in a union is tried once, not once a way to it."""


def fit(value: Any, kind: Any, path: str) -> Any:
    """Return a value as a type says it: itself where it fits, else what it stands for.

    Raises:
        MismatchError: It does not fit; the text begins with the path of the part.
    """
    token = _tried.set({})
    try:
        return _converter().structure(value, kind)
    except Exception as error:  # also what constructors, converters and checks of the user's classes raise
        steps, text = told(error)
        raise MismatchError(path + steps[:_PATH], text) from error
    finally:
        _tried.reset(token)


def _known(table: Any) -> Callable[[Any], bool]:
    def is_known(kind: Any) -> bool:
        try:
            return origin_of(kind) in table
        except TypeError:  # not hashable
            return False

    return is_known


def _union(kind: Any, converter: cattrs.Converter) -> Hook:
    members = typing.get_args(kind)
    hooks = [(origin_of(_plain(member)), late(converter, member)) for member in members]

    def choose(value: Any, _: Any) -> Any:
        if type(value) not in _HOLDERS:
            return attempt(value)
        tried, key = _tried.get(), (id(value), id(choose))
        if key not in tried:
            try:
                tried[key] = True, attempt(value)
            except Exception as error:  # noqa: BLE001 - see `fit`
                tried[key] = False, told(error)
        fits, made = tried[key]
        if not fits:
            raise MismatchError(*made)
        return made

    def attempt(value: Any) -> Any:
        exact = [hook for origin, hook in hooks if origin is type(value)]
        others = [hook for origin, hook in hooks if origin is not type(value)]
        first: Exception | None = None
        for hook in (*exact, *others):
            try:
                return hook(value, None)
            except Exception as error:  # noqa: BLE001 - see `fit`
                first = first or error
        if first is not None and exact:
            raise first
        raise wrong(value, kind)

    return choose


def _literal(kind: Any, _: Any) -> Hook:
    choices = typing.get_args(kind)

    def choose(value: Any, _: Any) -> Any:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise wrong(value, kind)

    return choose


def _member(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except (ValueError, TypeError):
        raise wrong(value, kind) from None


def _leaf(hook: Hook) -> Hook:
    """Make the hook of a kind of value serve its subclasses, for which cattrs takes it too: an enum is one first."""

    def fit_leaf(value: Any, kind: Any) -> Any:
        return _member(value, kind) if isinstance(kind, enum.EnumMeta) else hook(value, kind)

    return fit_leaf


def _plain(kind: Any) -> Any:  # noqa: PLR0911 - a table of kinds
    """Return the type under an alias, a mark or a variable; itself when it is none of these."""
    origin = typing.get_origin(kind)
    if origin in {typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired}:
        return typing.get_args(kind)[0]
    if isinstance(kind, typing.NewType):
        return kind.__supertype__
    if isinstance(kind, typing.TypeVar):
        if kind.__constraints__:
            return typing.Union[kind.__constraints__]  # noqa: UP007 - as many as there are
        return Any if kind.__bound__ is None else kind.__bound__
    if isinstance(kind, (str, typing.ForwardRef)):
        return Any
    if kind is None:
        return type(None)
    if kind is object or kind is typing.Final:
        return Any
    return kind


def _is_marked(kind: Any) -> bool:
    return kind is not Any and _plain(kind) is not kind


def _others(kind: Any) -> Hook:
    """Make the hook of a type that nothing is known of: an instance of it; anything where that cannot be told."""
    origin = origin_of(kind)
    if not isinstance(origin, type) or getattr(origin, "_is_protocol", False):
        return lambda value, _: value

    def check(value: Any, _: Any) -> Any:
        if isinstance(value, origin):
            return value
        raise wrong(value, kind)

    return check


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, structure_fallback_factory=_others)
    for kind, hook in LEAVES.items():
        converter.register_structure_hook(kind, _leaf(hook))
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, cattrs.Converter], Hook]]] = [
        (lambda kind: not _is_marked(kind) and isinstance(kind, type), lambda kind, _: _others(kind)),
        (lambda kind: isinstance(origin_of(kind), type) and has_fields(origin_of(kind)), fit_object),
        (lambda kind: typing.is_typeddict(origin_of(kind)), fit_typed_dict),
        (_known(LEAVES), lambda kind, _: LEAVES[kind]),
        (_known(SEQUENCES), fit_sequence),
        (_known(MAPPINGS), fit_mapping),
        (_known({tuple}), fit_tuple),
        (lambda kind: isinstance(kind, type) and issubclass(kind, enum.Enum), lambda _kind, _: _member),
        (_known({typing.Literal}), _literal),
        (_known({typing.Union, types.UnionType}), _union),
        (_is_marked, lambda kind, converter: late(converter, _plain(kind))),
        (lambda kind: kind is Any, lambda _kind, _: lambda value, _: value),
    ]
    for predicate, factory in factories:  # the last one that fits is taken
        converter.register_structure_hook_factory(predicate)(functools.partial(_made, factory))
    return converter


def _made(factory: Callable[[Any, cattrs.Converter], Hook], kind: Any) -> Hook:
    return factory(kind, _converter())
