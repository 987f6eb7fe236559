"""Hooks for lists, tuples, sets and mappings, of whatever is in them."""

from __future__ import annotations

import collections
import collections.abc
import operator
import typing
from typing import Any

import cattrs

from aviato.aio.shipping.fitting import (
    SHOWN,
    Hook,
    MismatchError,
    each,
    forever,
    late,
    origin_of,
    raise_within,
    show,
    wrong,
)
from aviato.aio.shipping.typed_leaves import EXACT

_ROWS: tuple[Any, ...] = (list, tuple, collections.deque, range)
_SETS: tuple[Any, ...] = (set, frozenset)
SEQUENCES: dict[Any, tuple[tuple[Any, ...], Any]] = {
    list: (_ROWS, list),
    collections.deque: (_ROWS, collections.deque),
    set: ((*_ROWS, *_SETS), set),
    frozenset: ((*_ROWS, *_SETS), frozenset),
    collections.abc.MutableSequence: (_ROWS, list),
    collections.abc.Sequence: (_ROWS, None),
    collections.abc.Reversible: (_ROWS, None),
    collections.abc.Set: (_SETS, None),
    collections.abc.MutableSet: (_SETS, set),
    collections.abc.Collection: ((*_ROWS, *_SETS), None),
    collections.abc.Container: ((*_ROWS, *_SETS), None),
    collections.abc.Iterable: ((*_ROWS, *_SETS), None),
}
"""What values stand for a sequence of some kind, and what they become; None: they stay of their kind."""
MAPPINGS: dict[Any, type | None] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: collections.Counter,
    collections.defaultdict: None,
    collections.abc.Mapping: None,
    collections.abc.MutableMapping: None,
}


def fit_sequence(kind: Any, converter: cattrs.Converter) -> Hook:
    """Make the hook of a list, a set or another row of values of one type."""
    sources, target = SEQUENCES[origin_of(kind)]
    inner: Any = (*typing.get_args(kind), Any)[0]
    hook = late(converter, inner)

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, sources):
            raise wrong(value, kind)
        to = target or (list if type(value) is range else type(value))
        if inner is Any or (inner in EXACT and set(map(type, value)) <= {inner}):
            return value if type(value) is to else to(value)
        made = each(value, forever(hook))
        if type(value) is to and all(map(operator.is_, made, value)):
            return value
        limit = {"maxlen": value.maxlen} if isinstance(value, collections.deque) and to is collections.deque else {}
        return made if to is list else to(made, **limit)

    return make


def fit_tuple(kind: Any, converter: cattrs.Converter) -> Hook:
    """Make the hook of a tuple, of any length or of one type for each place."""
    inner = typing.get_args(kind)
    open_ended = len(inner) == 2 and inner[1] is Ellipsis  # noqa: PLR2004 - tuple[T, ...]
    free = not inner and kind != tuple[()]
    if any(typing.get_origin(part) is typing.Unpack or isinstance(part, typing.TypeVarTuple) for part in inner):
        free = True
    hooks = [late(converter, part) for part in inner]

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, _ROWS):
            raise wrong(value, kind)
        if free:
            return tuple(value)
        if open_ended:
            return _same_or_new(value, each(value, forever(hooks[0])))
        if len(value) != len(inner):
            raise MismatchError("", f"expected {show(kind)}, got {len(value)} items")
        return _same_or_new(value, each(value, hooks))

    return make


def _same_or_new(value: Any, made: list[Any]) -> tuple[Any, ...]:
    return value if type(value) is tuple and all(map(operator.is_, made, value)) else tuple(made)


def fit_mapping(kind: Any, converter: cattrs.Converter) -> Hook:
    """Make the hook of a dict or one of its kinds."""
    origin = origin_of(kind)
    given = typing.get_args(kind)
    key_kind, value_kind = (*given, int)[:2] if origin is collections.Counter and given else (*given, Any, Any)[:2]
    key_hook, value_hook = late(converter, key_kind), late(converter, value_kind)
    target = MAPPINGS[origin]

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, dict) or (target is None and not isinstance(value, origin)):
            raise wrong(value, kind)
        pairs = []
        for key, part in value.items():
            try:
                name = key_hook(key, None)
            except Exception as error:  # noqa: BLE001 - see `fit`
                raise_within(error, f" (the key {key!r:.{SHOWN}})")
            try:
                pairs.append((name, value_hook(part, None)))
            except Exception as error:  # noqa: BLE001 - see `fit`
                step = f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r:.{SHOWN}}]"
                raise_within(error, step)
        to = target or type(value)
        if type(value) is to and all(a is c and b is d for (a, b), (c, d) in zip(pairs, value.items(), strict=True)):
            return value
        if isinstance(value, collections.defaultdict) and target is None:
            return collections.defaultdict(value.default_factory, pairs)
        made = dict(pairs)
        return made if to is dict else to(made)

    return make
