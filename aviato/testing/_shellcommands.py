"""Commands that the fake shell runs itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aviato.testing._basics import echo, kill, printf, pwd, signal_number
from aviato.testing._processes import Main, Program
from aviato.testing._shellwords import test

if TYPE_CHECKING:
    from aviato.testing._shell import Shell

Command = Callable[["Shell", list[str]], Awaitable[int]]


class Exit(Exception):  # noqa: N818 - control flow, no error
    """The shell ends.

    Attributes:
        code: With this.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Break(Exception):  # noqa: N818 - control flow, no error
    """A loop is left, or with `again` continued."""

    def __init__(self, levels: int, *, again: bool) -> None:
        super().__init__(levels)
        self.levels = levels
        self.again = again


def _number(shell: Shell, words: list[str], default: int) -> int:
    del shell
    return int(words[1]) & 0xFF if len(words) > 1 and words[1].isdigit() else default


async def _exit(shell: Shell, words: list[str]) -> int:
    raise Exit(_number(shell, words, shell.status))


async def _break(shell: Shell, words: list[str]) -> int:
    raise Break(_number(shell, words, 1), again=words[0] == "continue")


async def _nothing(_shell: Shell, words: list[str]) -> int:
    return int(words[0] == "false")


async def _cd(shell: Shell, words: list[str]) -> int:
    path = words[1] if len(words) > 1 else shell.variables.get("HOME", "/")
    try:
        shell.change_directory(path)
    except OSError as error:
        return await shell.ctx.complain(f"cd: {path}: {error.strerror}", 2)
    return 0


async def _export(shell: Shell, words: list[str]) -> int:
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            shell.set(name, value)
        shell.exported.add(name)
    return 0


async def _unset(shell: Shell, words: list[str]) -> int:
    for name in words[1:]:
        shell.variables.pop(name, None)
        shell.exported.discard(name)
    return 0


async def _set(shell: Shell, words: list[str]) -> int:
    rest = words[1:]
    while rest and rest[0][:1] in ("-", "+") and rest[0] != "--":
        word = rest.pop(0)
        on = word[0] == "-"
        for letter in word[1:]:
            if letter == "e":
                shell.errexit = on
            elif letter == "u":
                shell.nounset = on
            elif letter == "o" and rest and rest[0] == "pipefail":
                rest.pop(0)
                shell.pipefail = on
            else:
                raise Exit(await shell.ctx.complain(f"the fake shell does not know set {word}", 2))
    if rest:
        shell.params[1:] = rest[1:] if rest[0] == "--" else rest
    return 0


async def _shift(shell: Shell, words: list[str]) -> int:
    count = _number(shell, words, 1)
    if count > len(shell.params) - 1:
        return 1
    del shell.params[1 : 1 + count]
    return 0


async def _read(shell: Shell, words: list[str]) -> int:
    raw = words[1:2] == ["-r"]
    names = words[2 if raw else 1 :] or ["REPLY"]
    if names[0].startswith("-"):
        raise Exit(await shell.ctx.complain(f"the fake shell does not know read {names[0]}", 2))
    try:
        line = (await shell.ctx.read_line()).decode("utf-8", "surrogateescape")
    except OSError:
        line = ""
    text = line.removesuffix("\n")
    if not raw:
        text = text.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    values = text.split(None, len(names) - 1)
    for place, name in enumerate(names):
        shell.set(name, values[place].strip() if place < len(values) else "")
    return int(not line.endswith("\n"))


async def _trap(shell: Shell, words: list[str]) -> int:
    if len(words) < 3:  # noqa: PLR2004 - an action and a signal
        raise Exit(await shell.ctx.complain("the fake shell knows only: trap ACTION SIGNAL...", 2))
    for name in words[2:]:
        number = 0 if name in ("EXIT", "0") else signal_number(name)
        if number is None:
            return await shell.ctx.complain(f"trap: {name}: bad signal", 1)
        shell.trap(number, None if words[1] == "-" else words[1])
    return 0


async def _wait(shell: Shell, words: list[str]) -> int:
    wanted = [int(word) for word in words[1:] if word.isdigit()]
    code = 0
    for pid in wanted or list(shell.jobs):
        process = shell.jobs.pop(pid, None)
        if process is None:
            code = 127
            continue
        shell.trap_news.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (process.ended, shell.trap_news)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if process.status is None:
            shell.jobs[pid] = process
            return 128 + shell.trapped[0] if shell.trapped else 1
        code = process.status[0] if wanted else 0
    return code


async def _exec(shell: Shell, words: list[str]) -> int:
    if len(words) > 1:
        await shell.become(words[1:], shell.environment())
    return 0


async def _test(shell: Shell, words: list[str]) -> int:
    if words[0] == "[":
        if words[-1] != "]":
            return await shell.ctx.complain("[: missing ]", 2)
        words = words[:-1]
    return int(not test(shell.ctx.files, shell.process.cwd, words[1:]))


async def _command(shell: Shell, words: list[str]) -> int:
    if words[1:2] != ["-v"]:
        raise Exit(await shell.ctx.complain("the fake shell knows only: command -v NAME", 2))
    for name in words[2:]:
        if name in COMMANDS:
            await shell.ctx.write(1, name + "\n")
            continue
        for directory in shell.variables.get("PATH", "").split(":"):
            path = f"{directory}/{name}"
            if shell.ctx.files.exists(path):
                await shell.ctx.write(1, path + "\n")
                break
        else:
            return 127
    return 0


async def _umask(_shell: Shell, _words: list[str]) -> int:
    return 0


def _inside(main: Main) -> Command:
    """Run a program in the shell's own process."""

    async def command(shell: Shell, words: list[str]) -> int:
        return await main(Program(shell.process, shell.process.kernel, words))

    return command


COMMANDS: dict[str, Command] = {
    ":": _nothing,
    "[": _test,
    "break": _break,
    "cd": _cd,
    "command": _command,
    "continue": _break,
    "echo": _inside(echo),
    "exec": _exec,
    "exit": _exit,
    "export": _export,
    "false": _nothing,
    "kill": _inside(kill),
    "printf": _inside(printf),
    "pwd": _inside(pwd),
    "read": _read,
    "set": _set,
    "shift": _shift,
    "test": _test,
    "trap": _trap,
    "true": _nothing,
    "umask": _umask,
    "unset": _unset,
    "wait": _wait,
}
