"""Hooks for values without parts: numbers, texts, bytes, dates, paths."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import operator
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

from aviato.aio.shipping.fitting import Hook, wrong


def _integer(value: Any, kind: Any) -> int:
    if isinstance(value, int):
        return value
    if type(value).__module__ == "numpy":
        return operator.index(value)
    raise wrong(value, kind)


def _number(value: Any, kind: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (int, float)) or type(value).__module__ == "numpy":
        return float(value)
    raise wrong(value, kind)


def _complex(value: Any, kind: Any) -> complex:
    if isinstance(value, (complex, float, int)):
        return complex(value)
    raise wrong(value, kind)


def _bool(value: Any, kind: Any) -> bool:
    if type(value).__module__ == "numpy" and type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    if isinstance(value, bool):
        return value
    raise wrong(value, kind)


def _bytes(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, (bytes, bytearray)):
        return kind(value)
    raise wrong(value, kind)


def _instance(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise wrong(value, kind)


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
        raise wrong(value, kind)

    return hook


_call: Callable[[Any, Any], Any] = lambda kind, value: kind(value)  # noqa: E731 - it is one of several makers
_iso: Callable[[Any, Any], Any] = lambda kind, value: kind.fromisoformat(value)  # noqa: E731 - likewise
LEAVES: dict[type, Hook] = {
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
