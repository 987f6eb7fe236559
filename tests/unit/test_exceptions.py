"""The error tree: its shape, what each error carries, and that it survives pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

import aviato
from aviato import exceptions
from aviato.exceptions import AviatoError, Outcome, SandboxError, summarize_failures
from aviato.models import ProcessResult

RESULT = ProcessResult(b"out", b"err", 3, ("false",), 0.5)
CLASSES = [item for item in vars(exceptions).values() if inspect.isclass(item) and issubclass(item, AviatoError)]
ARGUMENTS: dict[str, dict[str, object]] = {
    "IsolationUnavailableError": {"step": "seccomp", "remedy": "do this"},
    "EngineError": {"retryable": True},
    "EngineConnectionError": {"retryable": True, "outcome": Outcome.APPLIED},
    "EngineResponseError": {"status": 503, "code": "busy", "request_id": "r1"},
    "SandboxTimeoutError": {"sandbox_id": "sbx-x", "exec_result": RESULT},
    "SandboxExecutionError": {"exec_result": RESULT, "exception_type": "KeyError", "exception_message": "'x'"},
    "OutputLostError": {"stream": "stderr", "received": 1, "sent": 2},
    "SandboxFileError": {"filepath": "/x", "errno": 2},
    "ImageDigestError": {"expected": "sha256:a", "actual": "sha256:b"},
    "ImagePlatformError": {"image": "a:1", "wanted": "linux/amd64", "offered": ("linux/arm64",)},
    "ImageNotFoundError": {"image": "a:1", "sandbox_id": "sbx-x"},
}


def test_everything_is_exported_under_both_names() -> None:
    """`__all__` is complete and sorted, and `aviato` gives the same objects."""
    names = {cls.__name__ for cls in CLASSES} | {"Outcome"}
    assert set(exceptions.__all__) == names
    assert exceptions.__all__ == sorted(exceptions.__all__)
    for name in exceptions.__all__:
        assert getattr(aviato, name) is getattr(exceptions, name)


def test_the_drawn_tree_is_the_real_one() -> None:
    """The docstring of the module shows every class with its bases."""
    drawn: dict[str, tuple[str, str | None]] = {}
    above: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ├└─]*)(\w+)(?: \((\w+)\))?$", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        above[depth:] = [match[2]]
        drawn[match[2]] = (above[depth - 1] if depth else "Exception", match[3])
    assert set(drawn) == {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        parent, builtin = drawn[cls.__name__]
        assert cls.__bases__[0].__name__ == parent
        assert [base.__name__ for base in cls.__bases__[1:]] == ([builtin] if builtin else [])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_errors_survive_being_copied(cls: type[AviatoError], duplicate: object) -> None:
    """Class, text, hint and every attribute are the same afterwards."""
    assert callable(duplicate)
    arguments = {"hint": "do that", **ARGUMENTS.get(cls.__name__, {})}
    error = cls("it broke", **arguments)  # type: ignore[arg-type]  # the keywords of each class
    again = duplicate(error)
    assert type(again) is cls
    assert str(again) == str(error) == "it broke\nhint: do that"
    assert again.args == ("it broke",)
    assert vars(again) == vars(error)
    for name, value in arguments.items():
        assert getattr(again, name) == value


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_are_set(cls: type[AviatoError]) -> None:
    """Without arguments every documented attribute is there."""
    error = cls()
    assert str(error) == ""
    assert error.hint is None
    assert isinstance(error.is_infrastructure, bool)
    assert isinstance(error.outcome, Outcome)
    assert error.exec_result is None
    overridden = cls("x", is_infrastructure=not error.is_infrastructure, outcome=Outcome.UNKNOWN)
    assert overridden.is_infrastructure is not error.is_infrastructure
    assert overridden.outcome is Outcome.UNKNOWN
    assert type(error).outcome is error.outcome


def test_a_remedy_is_the_hint() -> None:
    """The remedy of a missing protection is what to do next."""
    assert str(exceptions.IsolationUnavailableError("no", step="s", remedy="install it")) == "no\nhint: install it"


def test_failures_are_summed_up() -> None:
    """One error says how many of how many failed, with ids and causes."""
    causes = [ValueError("a"), OSError("b")]
    error = summarize_failures("stop", [("sbx-1", causes[0]), ("sbx-2", causes[1])], 5)
    assert type(error) is SandboxError
    for text in ("2", "5", "sbx-1", "sbx-2", "stop"):
        assert text in str(error)
    assert isinstance(error.__cause__, BaseExceptionGroup)
    assert list(error.__cause__.exceptions) == causes


def test_every_class_says_when_it_is_raised() -> None:
    """Each has a docstring of its own, and the reference names each."""
    page = (Path(__file__).parents[2] / "docs/reference/errors.md").read_text()
    for cls in CLASSES:
        assert cls.__doc__ is not None
        assert cls.__doc__ != AviatoError.__doc__ or cls is AviatoError
        assert cls.__name__ in page
