"""Checks of arguments: an error at the call, naming the argument, the value and the right form."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Take a sequence of strings; a bare string is the classic slip and is refused.

    Raises:
        TypeError: It is a bare string or bytes, not iterable, or an item is not a string.
        ValueError: An item holds a NUL character.
    """
    if isinstance(value, (str, bytes)):
        shown = value if isinstance(value, str) else value.decode(errors="replace")
        raise TypeError(f"{name} must be a sequence of strings, not a bare string: write {name}={[shown]!r}")
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise TypeError(f"{name} must be a sequence of strings, not {value!r}")
    items = tuple(value)
    for item in items:
        if not isinstance(item, str):
            shown = item.decode(errors="replace") if isinstance(item, bytes) else str(item)
            raise TypeError(f"{name} must hold strings only, not {item!r}; write {shown!r}")
        no_nul(name, item)
    return items


def command(name: str, value: Any) -> tuple[str, ...]:
    """Take the argument list of a command.

    Raises:
        TypeError: As `strings`; the message for a bare string shows the list to write.
        ValueError: It is empty, its first item is empty, or an item holds a NUL character.
    """
    if isinstance(value, str):
        raise TypeError(
            f"{name} must be a list of arguments, not a bare string: write {value.split() or ['true']!r}, "
            f"or {['sh', '-c', value]!r} for a shell"
        )
    items = strings(name, value)
    if not items or not items[0]:
        raise ValueError(f"{name} must name a program in its first item, got {list(items)!r}")
    return items


def words(name: str, values: tuple[Any, ...]) -> tuple[str, ...]:
    """Take a command whose words are given as arguments of their own; a list of them is the classic slip.

    Raises:
        TypeError: An item is not a string; the message for a list shows how to spread it.
        ValueError: As `command`.
    """
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        shown = ", ".join(repr(item) for item in values[0])
        raise TypeError(f"{name} takes the command's words one by one, not a list: write {name}({shown})")
    return command("command", values)


def string_mapping(name: str, value: Any) -> dict[str, str]:
    """Take a mapping of strings to strings.

    Raises:
        TypeError: It is not a mapping, or a key or value is not a string.
        ValueError: A key or value holds a NUL character.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of strings to strings, not {value!r}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise TypeError(f"{name} must map strings to strings, not {key!r} to {item!r}")
        no_nul(name, key)
        no_nul(name, item)
    return dict(value)


def environment(name: str, value: Any) -> dict[str, str]:
    """Take environment variables.

    Raises:
        TypeError: As `string_mapping`.
        ValueError: A name is empty or holds `=`, or something holds a NUL character.
    """
    variables = string_mapping(name, value)
    for key in variables:
        if not key or "=" in key:
            raise ValueError(f"{name} has a bad variable name {key!r}: it must not be empty or contain '='")
    return variables


def seconds(name: str, value: Any, *, minimum: float = 0.0, above: bool = False) -> float:
    """Take a finite number of seconds of at least `minimum` (`above`: of more than it).

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < minimum or (above and number == minimum):
        bound = "more than" if above else "at least"
        raise ValueError(f"{name} must be {bound} {minimum:g} seconds and finite, got {value!r}")
    return number


def absolute_path(name: str, value: Any) -> str:
    """Take an absolute POSIX path of the sandbox; it is not resolved here.

    Raises:
        TypeError: It is not a string or path.
        ValueError: It is empty, relative or holds a NUL character.
    """
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str):
        raise TypeError(f"{name} must be an absolute path as a string, not {value!r}")
    no_nul(name, value)
    if not posixpath.isabs(value):
        raise ValueError(
            f"{name} must be an absolute path in the sandbox, such as {'/workspace/' + value!r}, got {value!r}"
        )
    return value


def text(name: str, value: Any) -> str:
    """Take a string that is not empty.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty or holds a NUL character.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    no_nul(name, value)
    return value


def whole_number(name: str, value: Any, *, minimum: int = 0) -> int:
    """Take an int of at least `minimum`.

    Raises:
        TypeError: It is not an int.
        ValueError: It is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return value


def no_nul(name: str, value: str) -> None:
    """Refuse a NUL character, which no system call can carry.

    Raises:
        ValueError: There is one.
    """
    if "\0" in value:
        raise ValueError(f"{name} must not contain a NUL character, got {value!r}")


def known_keywords(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keywords that nobody reads, naming the nearest known one.

    Raises:
        TypeError: One is unknown.
    """
    known = sorted(known)
    for keyword in given:
        if keyword not in known:
            import difflib  # noqa: PLC0415 - only an error needs it

            near = difflib.get_close_matches(keyword, known, n=1)
            advice = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise TypeError(f"{owner} got an unknown keyword {keyword!r}{advice}")
