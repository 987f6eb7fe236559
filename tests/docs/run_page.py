"""Run the code of one Markdown page, top to bottom, as a reader would.

It is a script of its own, so that each page has a fresh interpreter.

- ``python`` blocks share one namespace; top-level `await` is allowed, on one event loop for the page.
- A ``text output`` block is exactly what the Python block before it prints, three dots standing for anything.
- ``console`` blocks hold commands after `$ ` and what they print; where nothing follows a command, its output is
  not looked at. A command must succeed, unless its block is ``console fails``.
- Every other block is only shown.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import fnmatch
import inspect
import io
import linecache
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\S.*)?$")


class Block(NamedTuple):
    """A fenced block: the words after its fence, its text, and the line of the page on which the text begins."""

    kind: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """Find the fenced blocks of a page.

    Raises:
        ValueError: One is not closed.
    """
    kind: str | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line)
        if kind is None and fence:
            kind, start, lines = fence.group(1) or "", number + 1, []
        elif kind is not None and line == "```":
            yield Block(kind, "".join(f"{item}\n" for item in lines), start)
            kind = None
        elif kind is not None:
            lines.append(line)
    if kind is not None:
        raise ValueError(f"the block at line {start} is not closed")


def run_python(block: Block, name: str, namespace: dict[str, object], runner: asyncio.Runner) -> str:
    """Run one block and return what it printed."""
    filename = f"{name}:{block.line}"
    linecache.cache[filename] = (len(block.text), None, block.text.splitlines(keepends=True), filename)
    code = compile(block.text, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:

            async def run() -> None:
                await eval(code, namespace)

            runner.run(run())
        else:
            exec(code, namespace)
    return printed.getvalue()


def run_console(block: Block, *, succeeds: bool) -> None:
    """Run the commands of one block and compare what they print.

    Raises:
        AssertionError: A command ended otherwise than it should, or printed something else.
    """
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            command,
            shell=True,
            executable="/bin/bash",
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        where = f"line {block.line}: $ {command}"
        assert (done.returncode == 0) is succeeds, f"{where}\nreturned {done.returncode}\n{done.stdout}{done.stderr}"
        if expected.strip():
            said = done.stdout if succeeds else done.stdout + done.stderr
            check_output(said, expected, where)


def check_output(said: str, expected: str, where: str) -> None:
    """Compare output with what the page shows.

    Raises:
        AssertionError: They differ.
    """
    pattern = "\n".join("*" if line == "..." else glob_of(line.rstrip()) for line in expected.strip().splitlines())
    plain = "\n".join(line.rstrip() for line in said.strip().splitlines())
    assert fnmatch.fnmatchcase(plain, pattern), f"{where}\nprinted:\n{said}\nthe page says:\n{expected}"


def glob_of(line: str) -> str:
    """Return a pattern that matches a line, in which `...` stands for anything."""
    return "*".join(re.sub(r"([*?[])", r"[\1]", part) for part in line.split("..."))


def run(page: Path) -> int:
    """Run a page and return the number of its blocks that were run."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    printed, number = "", 0
    with asyncio.Runner() as runner:
        for block in blocks(page.read_text()):
            words = block.kind.split()
            if words[:1] == ["python"]:
                printed = run_python(block, page.name, main.__dict__, runner)
            elif words == ["text", "output"]:
                check_output(printed, block.text, f"{page.name}, line {block.line}")
            elif words[:1] == ["console"]:
                run_console(block, succeeds=words != ["console", "fails"])
            else:
                continue
            number += 1
    return number


if __name__ == "__main__":
    run(Path(sys.argv[1]))
