"""The arguments of a command, checked where they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aviato import validation
from aviato.aio.process import Process
from aviato.models import SandboxDefaults

if TYPE_CHECKING:
    from aviato.aio._life import Life

DEFAULT_OUTPUT_BYTES = 64 * 1024 * 1024
"""Bytes of each stream that a `ProcessResult` keeps unless told otherwise."""
LARGEST_START = 1_000_000
"""Bytes of arguments and variables that fit into one start."""


def prepare_exec(
    life: Life,
    command: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str | int | None,
    check: bool,
    timeout_seconds: float | None,
    stdin: bool | bytes | str,
    max_output_bytes: int | None,
) -> Process:
    """Make a process that has not begun; in any thread, for nothing of the loop is touched.

    Raises:
        TypeError: An argument has the wrong type, such as a bare string for `command`.
        ValueError: An argument is out of range, `cwd` is relative, or command and variables exceed 1 MB.
    """
    items = validation.command("command", command)
    variables = {} if env is None else validation.environment("env", env)
    size = sum(len(item) + 5 for item in items) + sum(len(key) + len(value) + 6 for key, value in variables.items())
    if size > LARGEST_START:
        raise ValueError(f"command and env take {size} bytes, at most {LARGEST_START} fit; write a file or use stdin")
    if not isinstance(check, bool):
        raise TypeError(f"check must be True or False, not {check!r}")
    if isinstance(stdin, str):
        stdin = stdin.encode()
    elif isinstance(stdin, (bytearray, memoryview)):
        stdin = bytes(stdin)
    if not isinstance(stdin, (bool, bytes)):
        raise TypeError(f"stdin must be True, False, bytes or str, not {stdin!r}")
    if user is not None:
        user = SandboxDefaults(user=user).user
    limit = DEFAULT_OUTPUT_BYTES
    if max_output_bytes is not None:
        limit = validation.whole_number("max_output_bytes", max_output_bytes)
    if timeout_seconds is not None:
        timeout_seconds = validation.seconds("timeout_seconds", timeout_seconds, above=True)
    return Process(
        life,
        items,
        cwd="" if cwd is None else validation.absolute_path("cwd", cwd),
        env=variables,
        user="" if user is None else str(user),
        check=check,
        timeout_seconds=timeout_seconds,
        stdin=stdin,
        max_output_bytes=limit,
    )
