"""Checks of arguments: each kind of bad input gives an error with the argument, the value and the right form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest

from aviato import validation


@pytest.mark.parametrize(
    ("check", "value", "error", "text"),
    [
        (validation.strings, "abc", TypeError, "['abc']"),
        (validation.strings, b"abc", TypeError, "['abc']"),
        (validation.strings, b"\xff", TypeError, "bare"),
        (validation.strings, 5, TypeError, "5"),
        (validation.strings, None, TypeError, "None"),
        (validation.strings, {"a": 1}, TypeError, "sequence"),
        (validation.strings, ["a", 1], TypeError, "'1'"),
        (validation.strings, [b"a"], TypeError, "write 'a'"),
        (validation.strings, ["a\0"], ValueError, "NUL"),
        (validation.command, "ls -l", TypeError, "['ls', '-l']"),
        (validation.command, "", TypeError, "['true']"),
        (validation.command, [], ValueError, "program"),
        (validation.command, ["", "x"], ValueError, "program"),
        (validation.command, [1], TypeError, "'1'"),
        (validation.words, (["sleep", "5"],), TypeError, "('sleep', '5')"),
        (validation.string_mapping, ["a"], TypeError, "mapping"),
        (validation.string_mapping, {"a": 1}, TypeError, "1"),
        (validation.string_mapping, {1: "a"}, TypeError, "1"),
        (validation.string_mapping, {"a": "\0"}, ValueError, "NUL"),
        (validation.string_mapping, {"\0": "a"}, ValueError, "NUL"),
        (validation.environment, {"": "a"}, ValueError, "empty"),
        (validation.environment, {"A=B": "a"}, ValueError, "A=B"),
        (validation.seconds, "1", TypeError, "'1'"),
        (validation.seconds, True, TypeError, "True"),
        (validation.seconds, None, TypeError, "None"),
        (validation.seconds, -1, ValueError, "-1"),
        (validation.seconds, float("nan"), ValueError, "finite"),
        (validation.seconds, float("inf"), ValueError, "finite"),
        pytest.param(validation.seconds, 10**400, ValueError, "finite", id="huge"),
        (validation.absolute_path, "relative", ValueError, "/workspace/relative"),
        (validation.absolute_path, "", ValueError, "absolute"),
        (validation.absolute_path, "/a\0", ValueError, "NUL"),
        (validation.absolute_path, 5, TypeError, "5"),
        (validation.absolute_path, b"/a", TypeError, "b'/a'"),
        (validation.text, "", ValueError, "empty"),
        (validation.text, 5, TypeError, "5"),
        (validation.text, "a\0", ValueError, "NUL"),
        (validation.whole_number, True, TypeError, "True"),
        (validation.whole_number, 1.0, TypeError, "1.0"),
        (validation.whole_number, -1, ValueError, "-1"),
    ],
)
def test_bad_values(check: Callable[[str, Any], object], value: object, error: type[Exception], text: str) -> None:
    """The right kind of error, naming the argument."""
    with pytest.raises(error) as caught:
        check("the_argument", value)
    assert "the_argument" in str(caught.value)
    assert text in str(caught.value)


def test_good_values_come_back_normalised() -> None:
    """Tuples, dicts, floats and strings of their own."""
    assert validation.strings("x", iter(["a", "b"])) == ("a", "b")
    assert validation.strings("x", []) == ()
    assert validation.command("x", ["ls", ""]) == ("ls", "")
    given = {"A": ""}
    taken = validation.environment("x", given)
    assert taken == given
    assert taken is not given
    assert validation.seconds("x", 1) == 1.0
    assert validation.absolute_path("x", PurePosixPath("/a/b")) == "/a/b"
    assert validation.whole_number("x", 3, minimum=3) == 3


def test_bounds_of_seconds() -> None:
    """`above` shuts the bound out."""
    assert validation.seconds("x", 0) == 0.0
    with pytest.raises(ValueError, match="more than 0"):
        validation.seconds("x", 0, above=True)
    with pytest.raises(ValueError, match="at least 2"):
        validation.seconds("x", 1, minimum=2)


def test_unknown_keywords_are_named_with_the_nearest() -> None:
    """A near miss is offered; else all known ones are listed."""
    validation.known_keywords("f()", ["image"], ["image", "tags"])
    with pytest.raises(TypeError, match=r"'tagz'.*did you mean 'tags'"):
        validation.known_keywords("f()", ["tagz"], ["image", "tags"])
    with pytest.raises(TypeError, match="known: image, tags"):
        validation.known_keywords("f()", ["zzzzzz"], ["image", "tags"])
