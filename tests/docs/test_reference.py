"""The reference names everything that is public, so that a new name cannot be forgotten there."""

from __future__ import annotations

import inspect
from pathlib import Path

import attrs
import pytest

import aviato
from aviato import aio, exceptions, models
from tests.docs.environment import ROOT

REFERENCE = ROOT / "docs" / "reference"


def public_members(name: str) -> set[str]:
    """Return the members of a class which users may call: those that both faces have."""
    core, front = getattr(aio, name), getattr(aviato, name)
    return {member for member in dir(core) if not member.startswith("_") and hasattr(front, member)}


@pytest.mark.parametrize("handle", ["Session", "Sandbox", "Process", "StreamReader", "StreamWriter", "RemoteFunction"])
def test_every_member_of_a_handle_is_in_the_api_reference(handle: str) -> None:
    """Methods and attributes stand in the page, each in backticks."""
    text = (REFERENCE / "api.md").read_text()
    assert {name for name in public_members(handle) if f"`{name}" not in text} == set()


@pytest.mark.parametrize("module", [aio, models])
def test_every_public_name_is_in_the_api_reference(module: object) -> None:
    """So do the names of the modules."""
    text = (REFERENCE / "api.md").read_text()
    assert {name for name in module.__all__ if f"`{name}" not in text} == set()  # type: ignore[attr-defined]  # both have it


def test_every_keyword_of_a_sandbox_is_in_the_api_reference() -> None:
    """The table of the configuration is complete."""
    text = (REFERENCE / "api.md").read_text()
    fields = {field.name for field in attrs.fields(models.SandboxDefaults)}
    assert {name for name in fields if f"`{name}`" not in text} == set()


def test_the_error_tree_is_the_one_of_the_module() -> None:
    """The tree in the page is that of the module's docstring, and every error has a row."""
    text = (REFERENCE / "errors.md").read_text()
    assert exceptions.__doc__ is not None
    tree = inspect.cleandoc(exceptions.__doc__).split("::\n\n")[1].split("\n\n")[0]
    assert inspect.cleandoc(tree) in text
    errors = {name for name in exceptions.__all__ if name.endswith("Error")}
    assert {name for name in errors if f"| `{name}` |" not in text} == {"AviatoError"}


@pytest.mark.parametrize("enum", [models.SandboxStatus, models.ExitReason])
def test_every_state_is_explained(enum: type[models.SandboxStatus | models.ExitReason]) -> None:
    """Statuses and reasons stand in the page on states."""
    text = (REFERENCE / "states.md").read_text()
    assert {member.value for member in enum if f"`{member.value}`" not in text} == set()


def test_pages_hold_one_sentence_a_line() -> None:
    """A line with two sentences makes changes hard to read."""
    crowded = []
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        shown = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if line.startswith("```"):
                shown = not shown
            table_or_list = line[:1] in {" ", "|", "-", "#", ">", "<"} or line[:1].isdigit()
            if not shown and not table_or_list and ". " in line.replace("e.g. ", "").rstrip():
                crowded.append(f"{Path(page).name}:{number}: {line}")
    assert crowded == []
