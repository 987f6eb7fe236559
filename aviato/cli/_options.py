"""Options that several commands have, and what their text means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click only
    """A time such as `1.5`, `30s`, `5m` or `2h`, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
        try:
            number = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 1.5, 30s, 5m or 2h", param, ctx)
        if not 0 < number < float("inf"):
            self.fail(f"{value!r} must be more than zero", param, ctx)
        return number


SECONDS = Seconds()


def engine_option(function: F) -> F:
    """Add `--engine`."""
    return click.option("--engine", metavar="NAME", help="Engine to use; AVIATO_ENGINE, else local.")(function)


def output_option(function: F) -> F:
    """Add `-o table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="How to show it.",
    )(function)


def env_option(function: F) -> F:
    """Add `--env`."""
    return click.option(
        "-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, pass on your own."
    )(function)


def raw_option(function: F) -> F:
    """Add `--raw`."""
    return click.option(
        "--raw", is_flag=True, help="On a terminal, leave control sequences in the output; trusted programs only."
    )(function)


def variables(items: tuple[str, ...]) -> dict[str, str]:
    """Read `NAME=VALUE` and `NAME`, the latter from this program's own environment.

    Raises:
        click.BadParameter: A name is empty, or not set here.
    """
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise click.BadParameter(f"{item!r} has no name", param_hint="--env")
        if not equals:
            if name not in os.environ:
                raise click.BadParameter(f"{name!r} is not set here; write {name}=VALUE", param_hint="--env")
            value = os.environ[name]
        found[name] = value
    return found


def local_files(items: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read `LOCAL:REMOTE` into mounted files.

    Raises:
        click.BadParameter: It has another form, or the file cannot be read.
    """
    files = []
    for item in items:
        local, colon, remote = item.rpartition(":")
        if not colon or not local or not remote.startswith("/"):
            raise click.BadParameter(f"{item!r} is not LOCAL:REMOTE with an absolute REMOTE", param_hint="--file")
        try:
            files.append({"path": remote, "content": Path(local).read_bytes()})
        except OSError as error:
            raise click.BadParameter(f"{local}: {error.strerror}", param_hint="--file") from error
    return files


def words(command: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the `--` before a command that follows a positional argument."""
    return command[1:] if command[:1] == ("--",) else command
