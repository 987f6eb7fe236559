"""What all hooks that make values fit annotations share: the error with its path, and the hooks of parts."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from aviato.aio.shipping.inside.refused import said

Hook = Callable[[Any, Any], Any]
SHOWN = 60


class MismatchError(ValueError):
    """A value that does not fit its annotation."""

    def __init__(self, steps: str, text: str) -> None:
        super().__init__(f"{steps}: {text}")
        self.steps = steps
        self.text = text


def told(error: BaseException) -> tuple[str, str]:
    """Return the path of an error and what is wrong there."""
    if isinstance(error, MismatchError):
        return error.steps, error.text
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        with_notes, without = error.group_exceptions()
        if with_notes:
            inner, note = with_notes[0]
            steps, text = told(inner)
            if isinstance(inner, KeyError) and not steps:
                text = "this field is missing"
            name = getattr(note, "name", None)
            return (f".{name}" if name is not None else f"[{note.index!r}]") + steps, text
        return told(without[0])
    if isinstance(error, ForbiddenExtraKeysError):
        return "", f"{error.cl.__qualname__} has no field {', '.join(map(repr, sorted(map(str, error.extra_fields))))}"
    if isinstance(error, RecursionError):
        return "", "it is nested too deep"
    return "", said(error)


def wrong(value: Any, kind: Any) -> MismatchError:
    """Return the error of a value that is not of a type."""
    shown = f" {value!r:.{SHOWN}}" if type(value) in {str, int, float, bool} else ""
    got = "None" if value is None else f"{type(value).__qualname__}{shown}"
    return MismatchError("", f"expected {show(kind)}, got {got}")


def show(kind: Any) -> str:
    """Return a type as it is written."""
    if kind is type(None):
        return "None"
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__qualname__
    return str(kind).replace("typing.", "")


def origin_of(kind: Any) -> Any:
    """Return the class of a generic type, and any other type itself."""
    return typing.get_origin(kind) or kind


def late(converter: cattrs.Converter, kind: Any) -> Hook:
    """Return a hook that is looked for when it is first used, because types may contain themselves."""
    found: Hook | None = None

    def hook(value: Any, _: Any = None) -> Any:
        nonlocal found
        if found is None:
            found = converter.get_structure_hook(kind)
        return found(value, kind)

    return hook


def raise_within(error: Exception, step: str) -> NoReturn:
    """Raise an error of a part as one of what holds it, with the step to the part.

    Raises:
        MismatchError: Always.
    """
    if isinstance(error, MismatchError):
        error.steps = step + error.steps
        raise error
    steps, text = told(error)
    raise MismatchError(step + steps, text) from error


def each(parts: Iterable[Any], hooks: Iterable[Hook]) -> list[Any]:
    """Return the parts as their hooks make them.

    Raises:
        MismatchError: One does not fit; it has the part's place.
    """
    made = []
    for index, (part, hook) in enumerate(zip(parts, hooks, strict=False)):
        try:
            made.append(hook(part, None))
        except Exception as error:  # noqa: BLE001 - see `fit`
            raise_within(error, f"[{index}]")
    return made


def forever(hook: Hook) -> Iterable[Hook]:
    """Give one hook as often as it is asked for."""
    while True:
        yield hook
