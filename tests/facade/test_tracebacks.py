"""Errors as the user sees them."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

import aviato
from aviato import SandboxError, Session
from tests.facade.fixture_core import Box


def _frames(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except ValueError as error:
        return [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    raise AssertionError("no error")


def test_frames_do_not_grow() -> None:
    """Raising an error again and again leaves its traceback as it is."""
    ref = Box().fail(ValueError("x"))
    counts = [len(_frames(ref.result)) for _ in range(5)]
    assert len(set(counts)) == 1


def test_library_frames_are_trimmed() -> None:
    """Of our own frames only `result` is left: those of the loop and of the core are gone, the user's stay."""
    ref = Box().fail(ValueError("x"))
    assert _frames(ref.result) == ["_frames", "result", "fail", "_deeper"]


def test_full_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`AVIATO_FULL_TRACEBACK=1` keeps the core's frames; without it they are left out."""
    with Session() as session:
        pass

    def files() -> list[str]:
        error = session._start(session._core.from_id, "sbx-").exception()
        return [frame.filename for frame in traceback.extract_tb(error.__traceback__)] if error else ["none"]

    assert files() == []
    monkeypatch.setenv("AVIATO_FULL_TRACEBACK", "1")
    assert any(name.endswith("aio/session.py") for name in files())


def test_where_it_was_started() -> None:
    """An error carries a note of the line that started the operation, once, however often it is raised."""
    with Session() as session:
        pass
    ref = session.list()
    for _ in range(3):
        with pytest.raises(SandboxError, match="closed"):
            ref.result()
    error = ref.exception()
    assert error is not None
    (note,) = error.__notes__
    line = test_where_it_was_started.__code__.co_firstlineno + 4
    assert note == f"started at {__file__}:{line}"


def test_shared_error_has_the_note_of_the_last_ref() -> None:
    """One error object in two refs is noted with the place of the one that raises it."""
    box, error = Box(), ValueError("shared")
    error.add_note("of the user")
    first, second = box.fail(error), box.fail(error)
    first.exception()
    second.exception()
    assert error.__notes__[0] == "of the user"
    assert len(error.__notes__) == 2


def test_same_classes_on_both_faces() -> None:
    """The front door's errors are the very objects of `aviato.exceptions`."""
    assert all(getattr(aviato, name) is getattr(aviato.exceptions, name) for name in aviato.exceptions.__all__)


def test_chained_causes_are_kept() -> None:
    """What an error was raised from stays with it."""

    async def fail() -> None:
        try:
            next(iter({}))
        except StopIteration as cause:
            raise ValueError("effect") from cause

    error = Box()._start(fail).exception()
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, StopIteration)
