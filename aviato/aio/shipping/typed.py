"""Values made to fit annotations, by one cattrs converter that guesses nothing: what does not fit is refused."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import operator
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn
from cattrs.gen.typeddicts import make_dict_structure_fn as make_typed_dict_structure_fn

from aviato.aio.shipping.annotations import has_fields, hints, is_named_tuple
from aviato.aio.shipping.inside.kinds import fields_of

Hook = Callable[[Any, Any], Any]
_SHOWN = 60


class MismatchError(ValueError):
    """A value that does not fit its annotation."""

    def __init__(self, steps: str, text: str) -> None:
        super().__init__(f"{steps}: {text}")
        self.steps = steps
        self.text = text


def fit(value: Any, kind: Any, path: str) -> Any:
    """Return a value as a type says it: itself where it fits, else what it stands for.

    Raises:
        MismatchError: It does not fit; the text begins with the path of the part.
    """
    try:
        return _converter().structure(value, kind)
    except Exception as error:
        steps, text = _told(error)
        raise MismatchError(path + steps, text) from error


def _told(error: BaseException) -> tuple[str, str]:
    """Return the path of an error and what is wrong there."""
    if isinstance(error, MismatchError):
        return error.steps, error.text
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        with_notes, without = error.group_exceptions()
        if with_notes:
            inner, note = with_notes[0]
            steps, text = _told(inner)
            if isinstance(inner, KeyError) and not steps:
                text = "this field is missing"
            name = getattr(note, "name", None)
            return (f".{name}" if name is not None else f"[{note.index!r}]") + steps, text
        return _told(without[0])
    if isinstance(error, ForbiddenExtraKeysError):
        return "", f"{error.cl.__qualname__} has no field {', '.join(map(repr, sorted(map(str, error.extra_fields))))}"
    if isinstance(error, RecursionError):
        return "", "it is nested too deep"
    return "", f"{type(error).__name__}: {error}"


def _wrong(value: Any, kind: Any) -> MismatchError:
    shown = f" {value!r:.{_SHOWN}}" if type(value) in {str, int, float, bool} else ""
    got = "None" if value is None else f"{type(value).__qualname__}{shown}"
    return MismatchError("", f"expected {show(kind)}, got {got}")


def show(kind: Any) -> str:
    """Return a type as it is written."""
    if kind is type(None):
        return "None"
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__qualname__
    return str(kind).replace("typing.", "")


def _integer(value: Any, kind: Any) -> int:
    if isinstance(value, int):
        return value
    if type(value).__module__ == "numpy":
        return operator.index(value)
    raise _wrong(value, kind)


def _number(value: Any, kind: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (int, float)) or type(value).__module__ == "numpy":
        return float(value)
    raise _wrong(value, kind)


def _complex(value: Any, kind: Any) -> complex:
    if isinstance(value, (complex, float, int)):
        return complex(value)
    raise _wrong(value, kind)


def _bool(value: Any, kind: Any) -> bool:
    if type(value).__module__ == "numpy" and type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    if isinstance(value, bool):
        return value
    raise _wrong(value, kind)


def _bytes(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, (bytes, bytearray)):
        return kind(value)
    raise _wrong(value, kind)


def _instance(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise _wrong(value, kind)


def _from(make: Callable[[Any, Any], Any], *sources: type) -> Hook:
    """Make a hook that takes instances, and makes them from values of some types."""

    def hook(value: Any, kind: Any) -> Any:
        if isinstance(value, kind):
            return value
        if type(value) in sources:
            try:
                return make(kind, value)
            except (ValueError, ArithmeticError):
                pass
        raise _wrong(value, kind)

    return hook


_call: Callable[[Any, Any], Any] = lambda kind, value: kind(value)  # noqa: E731 - it is one of several makers
_iso: Callable[[Any, Any], Any] = lambda kind, value: kind.fromisoformat(value)  # noqa: E731 - likewise
_LEAVES: dict[type, Hook] = {
    bool: _bool,
    int: _integer,
    float: _number,
    complex: _complex,
    str: _instance,
    bytes: _bytes,
    bytearray: _bytes,
    type(None): _instance,
    dt.datetime: _from(_iso, str),
    dt.date: _from(_iso, str),
    dt.time: _from(_iso, str),
    dt.timedelta: _instance,
    uuid.UUID: _from(_call, str),
    decimal.Decimal: _from(_call, str, int),
    fractions.Fraction: _from(_call, int),
    pathlib.Path: _from(_call, str),
    pathlib.PurePath: _from(_call, str),
    pathlib.PurePosixPath: _from(_call, str),
    pathlib.PosixPath: _from(_call, str),
    pathlib.PureWindowsPath: _from(_call, str),
}
EXACT = frozenset({bool, int, float, complex, str, bytes, bytearray, type(None)})
"""A value of just this type fits as it is."""

_ROWS: tuple[Any, ...] = (list, tuple, collections.deque, range)
_SETS: tuple[Any, ...] = (set, frozenset)
_SEQUENCES: dict[Any, tuple[tuple[Any, ...], Any]] = {
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
_MAPPINGS: dict[Any, type | None] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: collections.Counter,
    collections.defaultdict: None,
    collections.abc.Mapping: None,
    collections.abc.MutableMapping: None,
}


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _known(table: Any) -> Callable[[Any], bool]:
    def is_known(kind: Any) -> bool:
        try:
            return _origin(kind) in table
        except TypeError:  # not hashable
            return False

    return is_known


def _late(converter: cattrs.Converter, kind: Any) -> Hook:
    """Return a hook that is looked for when it is first used, because types may contain themselves."""
    found: Hook | None = None

    def hook(value: Any, _: Any = None) -> Any:
        nonlocal found
        if found is None:
            found = converter.get_structure_hook(kind)
        return found(value, kind)

    return hook


def _within(error: Exception, step: str) -> MismatchError:
    steps, text = _told(error)
    return MismatchError(step + steps, text)


def _each(parts: Iterable[Any], hooks: Iterable[Hook]) -> list[Any]:
    made = []
    for index, (part, hook) in enumerate(zip(parts, hooks, strict=False)):
        try:
            made.append(hook(part, None))
        except Exception as error:
            raise _within(error, f"[{index}]") from error
    return made


def _sequence(kind: Any, converter: cattrs.Converter) -> Hook:
    sources, target = _SEQUENCES[_origin(kind)]
    inner: Any = (*typing.get_args(kind), Any)[0]
    hook = _late(converter, inner)

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, sources):
            raise _wrong(value, kind)
        to = target or (list if type(value) is range else type(value))
        if inner is Any or (inner in EXACT and set(map(type, value)) <= {inner}):
            return value if type(value) is to else to(value)
        made = _each(value, _forever(hook))
        limit = {"maxlen": value.maxlen} if isinstance(value, collections.deque) and to is collections.deque else {}
        return made if to is list else to(made, **limit)

    return make


def _forever(hook: Hook) -> Iterable[Hook]:
    while True:
        yield hook


def _tuple(kind: Any, converter: cattrs.Converter) -> Hook:
    inner = typing.get_args(kind)
    open_ended = len(inner) == 2 and inner[1] is Ellipsis  # noqa: PLR2004 - tuple[T, ...]
    free = not inner and kind != tuple[()]
    if any(typing.get_origin(part) is typing.Unpack or isinstance(part, typing.TypeVarTuple) for part in inner):
        free = True
    hooks = [_late(converter, part) for part in inner]

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, _ROWS):
            raise _wrong(value, kind)
        if free:
            return tuple(value)
        if open_ended:
            return tuple(_each(value, _forever(hooks[0])))
        if len(value) != len(inner):
            raise MismatchError("", f"expected {show(kind)}, got {len(value)} items")
        return tuple(_each(value, hooks))

    return make


def _mapping(kind: Any, converter: cattrs.Converter) -> Hook:
    origin = _origin(kind)
    given = typing.get_args(kind)
    key_kind, value_kind = (*given, int)[:2] if origin is collections.Counter and given else (*given, Any, Any)[:2]
    key_hook, value_hook = _late(converter, key_kind), _late(converter, value_kind)
    target = _MAPPINGS[origin]

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, dict) or (target is None and not isinstance(value, origin)):
            raise _wrong(value, kind)
        pairs = []
        for key, part in value.items():
            try:
                name = key_hook(key, None)
            except Exception as error:
                raise _within(error, f" (the key {key!r:.{_SHOWN}})") from error
            try:
                pairs.append((name, value_hook(part, None)))
            except Exception as error:
                step = f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r:.{_SHOWN}}]"
                raise _within(error, step) from error
        if isinstance(value, collections.defaultdict) and target is None:
            return collections.defaultdict(value.default_factory, pairs)
        made = dict(pairs)
        to = target or type(value)
        return made if to is dict else to(made)

    return make


def _union(kind: Any, converter: cattrs.Converter) -> Hook:
    members = typing.get_args(kind)
    hooks = [(_origin(_plain(member)), _late(converter, member)) for member in members]

    def choose(value: Any, _: Any) -> Any:
        exact = [hook for origin, hook in hooks if origin is type(value)]
        others = [hook for origin, hook in hooks if origin is not type(value)]
        first: Exception | None = None
        for hook in (*exact, *others):
            try:
                return hook(value, None)
            except Exception as error:  # noqa: BLE001 - the checks of the user's classes may raise anything
                first = first or error
        if first is not None and exact:
            raise first
        raise _wrong(value, kind)

    return choose


def _literal(kind: Any, _: Any) -> Hook:
    choices = typing.get_args(kind)

    def choose(value: Any, _: Any) -> Any:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise _wrong(value, kind)

    return choose


def _member(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except (ValueError, TypeError):
        raise _wrong(value, kind) from None


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


def _field_hooks(kind: Any, converter: cattrs.Converter) -> dict[str, Hook]:
    origin = _origin(kind)
    filled = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(kind), strict=False))

    def fill(hint: Any) -> Any:
        if isinstance(hint, typing.TypeVar):
            return filled.get(hint, hint)
        inner = getattr(hint, "__parameters__", ())
        if filled and inner and not isinstance(hint, type):
            return hint[tuple(filled.get(part, part) for part in inner)]
        return hint

    return {name: _late(converter, fill(hint)) for name, hint in hints(origin).items()}


def _object(kind: Any, converter: cattrs.Converter) -> Hook:  # noqa: C901 - two ways, the second of them made late
    """Make the hook of a class with fields: an instance with fields that fit, or a dict of all its fields."""
    origin = _origin(kind)
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
                except Exception as error:
                    raise _within(error, f".{name}") from error
                if made is not part:
                    changed[names[name]] = made
            if not changed:
                return value
            return attrs.evolve(value, **changed) if attrs.has(origin) else dataclasses.replace(value, **changed)
        if not isinstance(value, dict):
            raise _wrong(value, kind)
        if from_dict is None:
            from_dict = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        return from_dict(value, kind)

    return make


def _named(kind: Any, converter: cattrs.Converter) -> Hook:
    origin = _origin(kind)
    hooks: dict[str, Hook] | None = None

    def make(value: Any, _: Any) -> Any:
        nonlocal hooks
        fields = origin._fields
        if not isinstance(value, (tuple, list)) or len(value) != len(fields):
            raise _wrong(value, kind)
        if hooks is None:
            hooks = _field_hooks(kind, converter)
        made = []
        for name, part in zip(fields, value, strict=True):
            try:
                made.append(hooks[name](part, None) if name in hooks else part)
            except Exception as error:
                raise _within(error, f".{name}") from error
        return value if isinstance(value, origin) and all(map(operator.is_, made, value)) else origin(*made)

    return make


def _typed_dict(kind: Any, converter: cattrs.Converter) -> Hook:
    made: Hook | None = None

    def make(value: Any, _: Any) -> Any:
        nonlocal made
        if not isinstance(value, dict):
            raise _wrong(value, kind)
        if made is None:
            made = make_typed_dict_structure_fn(_origin(kind), converter, _cattrs_forbid_extra_keys=True)
        return made(value, kind)

    return make


def _others(kind: Any) -> Hook:
    """Make the hook of a type that nothing is known of: an instance of it; anything where that cannot be told."""
    origin = _origin(kind)
    if not isinstance(origin, type) or getattr(origin, "_is_protocol", False):
        return lambda value, _: value

    def check(value: Any, _: Any) -> Any:
        if isinstance(value, origin):
            return value
        raise _wrong(value, kind)

    return check


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, structure_fallback_factory=_others)
    for kind, hook in _LEAVES.items():
        converter.register_structure_hook(kind, hook)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, cattrs.Converter], Hook]]] = [
        (lambda kind: not _is_marked(kind) and isinstance(kind, type), lambda kind, _: _others(kind)),
        (lambda kind: isinstance(_origin(kind), type) and has_fields(_origin(kind)), _object),
        (lambda kind: typing.is_typeddict(_origin(kind)), _typed_dict),
        (_known(_LEAVES), lambda kind, _: _LEAVES[kind]),
        (_known(_SEQUENCES), _sequence),
        (_known(_MAPPINGS), _mapping),
        (_known({tuple}), _tuple),
        (lambda kind: isinstance(kind, type) and issubclass(kind, enum.Enum), lambda _kind, _: _member),
        (_known({typing.Literal}), _literal),
        (_known({typing.Union, types.UnionType}), _union),
        (_is_marked, lambda kind, converter: converter.get_structure_hook(_plain(kind))),
        (lambda kind: kind is Any, lambda _kind, _: lambda value, _: value),
    ]
    for predicate, factory in factories:  # the last one that fits is taken
        converter.register_structure_hook_factory(predicate)(functools.partial(_two, factory))
    return converter


def _two(factory: Callable[[Any, cattrs.Converter], Hook], kind: Any) -> Hook:
    return factory(kind, _converter())
