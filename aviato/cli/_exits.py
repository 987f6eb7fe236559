"""Exit codes, and what is said about an error."""

from __future__ import annotations

import os

import click

from aviato.exceptions import AviatoError, SandboxTimeoutError

USAGE = 2
TIMED_OUT = 124
FAILURE = 125
"""aviato itself failed, as distinct from the command that it ran; Docker uses the same."""
BROKEN_PIPE = 141


def describe(error: BaseException) -> tuple[str, int]:
    """Return the lines to show for an error, and the exit code."""
    if isinstance(error, AviatoError):
        lines = [f"error: {_one_line(error.message) or type(error).__name__}"]
        if error.hint:
            lines.append(f"hint: {_one_line(error.hint)}")
        return "\n".join(lines), TIMED_OUT if isinstance(error, SandboxTimeoutError) else FAILURE
    if isinstance(error, click.UsageError):
        lines = [f"error: {_one_line(error.format_message())}"]
        if error.ctx is not None:
            lines.append(f"hint: {error.ctx.command_path} --help")
        return "\n".join(lines), USAGE
    if isinstance(error, click.ClickException):
        return f"error: {_one_line(error.format_message())}", FAILURE
    if isinstance(error, (ValueError, TypeError)):
        return f"error: {_one_line(str(error))}", USAGE
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"error: {_one_line(where + (error.strerror or str(error)))}", FAILURE
    kind = type(error).__name__
    return (
        f"error: {kind}: {_one_line(str(error))}\n"
        "hint: this is a fault of aviato; set AVIATO_FULL_TRACEBACK=1 to see where"
    ), FAILURE


def _one_line(text: str) -> str:
    return " ".join(text.split())
