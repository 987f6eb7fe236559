"""Small programs that every fake sandbox has."""

from __future__ import annotations

import asyncio
import math
import posixpath
import signal as signals

from aviato.testing._processes import CannotExecuteError, Program
from aviato.testing._text import format_printf, unescape

_CHUNK = 65536


async def echo(ctx: Program) -> int:
    """Write the arguments; `-n` leaves the newline out, `-e` reads escapes."""
    words = ctx.argv[1:]
    newline, escapes = True, False
    while words and words[0] in ("-n", "-e", "-E", "-ne", "-en"):
        option = words.pop(0)
        newline = newline and "n" not in option
        escapes = escapes or "e" in option
    text = " ".join(words)
    raw = unescape(text) if escapes else text.encode("utf-8", "surrogateescape")
    await ctx.write(1, raw + b"\n" * newline)
    return 0


async def printf(ctx: Program) -> int:
    """Write a format with arguments."""
    if len(ctx.argv) < 2:  # noqa: PLR2004 - a format is needed
        return await ctx.complain("usage: printf FORMAT [ARGUMENT]...", 2)
    try:
        await ctx.write(1, format_printf(ctx.argv[1], ctx.argv[2:]))
    except ValueError as error:
        return await ctx.complain(str(error))
    return 0


async def cat(ctx: Program) -> int:
    """Copy files, or standard input, to standard output."""
    code = 0
    for path in ctx.argv[1:] or ["-"]:
        try:
            source = ctx.process.open(0).dup() if path == "-" else ctx.open(path)
        except OSError as error:
            code = await ctx.complain(f"{path}: {error.strerror}")
            continue
        try:
            while piece := await source.read(_CHUNK):
                await ctx.write(1, piece)
        finally:
            source.close()
    return code


async def head(ctx: Program) -> int:
    """Copy the first lines (`-n N`) or bytes (`-c N`)."""
    count, in_bytes, paths = 10, False, []
    words = ctx.argv[1:]
    while words:
        word = words.pop(0)
        if word[:2] in ("-n", "-c"):
            in_bytes = word[1] == "c"
            number = word[2:] or (words.pop(0) if words else "")
            if not number.isdigit():
                return await ctx.complain(f"{number!r} is not a number")
            count = int(number)
        elif word.startswith("-") and word[1:].isdigit():
            count = int(word[1:])
        else:
            paths.append(word)
    code = 0
    for path in paths or ["-"]:
        try:
            source = ctx.process.open(0).dup() if path == "-" else ctx.open(path)
        except OSError as error:
            code = await ctx.complain(f"{path}: {error.strerror}")
            continue
        left = count
        try:
            while left > 0:
                piece = await source.read(min(left, _CHUNK)) if in_bytes else await source.read_line()
                if not piece:
                    break
                await ctx.write(1, piece)
                left -= len(piece) if in_bytes else 1
        finally:
            source.close()
    return code


async def wc(ctx: Program) -> int:
    """Count lines (`-l`), words (`-w`) or bytes (`-c`)."""
    options = [word for word in ctx.argv[1:] if word.startswith("-")]
    paths = [word for word in ctx.argv[1:] if not word.startswith("-")]
    chosen = "".join(option[1:] for option in options) or "lwc"
    if set(chosen) - set("lwc"):
        return await ctx.complain(f"the fake wc does not know {options}", 2)
    for path in paths or [""]:
        if path:
            try:
                data = bytes(ctx.files.node(path, ctx.cwd).data)
            except OSError as error:
                return await ctx.complain(f"{path}: {error.strerror}")
        else:
            data = await ctx.read()
        counts = {"l": data.count(b"\n"), "w": len(data.split()), "c": len(data)}
        shown = " ".join(str(counts[letter]) for letter in "lwc" if letter in chosen)
        await ctx.write(1, f"{shown} {path}".rstrip() + "\n")
    return 0


async def seq(ctx: Program) -> int:
    """Write numbers."""
    try:
        numbers = [int(word) for word in ctx.argv[1:]]
    except ValueError as error:
        return await ctx.complain(str(error))
    if not 1 <= len(numbers) <= 3:  # noqa: PLR2004 - last, first and last, or with a step between
        return await ctx.complain("usage: seq [FIRST [STEP]] LAST", 2)
    first = numbers[0] if len(numbers) > 1 else 1
    step = numbers[1] if len(numbers) > 2 else 1  # noqa: PLR2004 - likewise
    if not step:
        return await ctx.complain("a step of 0 never ends", 2)
    lines: list[str] = []
    for number in range(first, numbers[-1] + (1 if step > 0 else -1), step):
        lines.append(f"{number}\n")
        if len(lines) == 1000:  # noqa: PLR2004 - a few kilobytes at a time
            await ctx.write(1, "".join(lines))
            lines.clear()
    await ctx.write(1, "".join(lines))
    return 0


async def yes(ctx: Program) -> int:
    """Write a line for ever."""
    line = (" ".join(ctx.argv[1:]) or "y").encode("utf-8", "surrogateescape") + b"\n"
    block = line * max(1, 8192 // len(line))
    while True:
        await ctx.write(1, block)


async def true(_ctx: Program) -> int:
    """Succeed."""
    return 0


async def false(_ctx: Program) -> int:
    """Fail."""
    return 1


async def sleep(ctx: Program) -> int:
    """Wait, by the loop's clock."""
    total = 0.0
    for word in ctx.argv[1:]:
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(word[-1:], 0)
        try:
            total += float(word[:-1] if unit else word) * (unit or 1)
        except ValueError:
            return await ctx.complain(f"invalid time interval {word!r}")
    if len(ctx.argv) < 2 or total < 0:  # noqa: PLR2004 - a time is needed
        return await ctx.complain("missing or negative time", 1)
    if math.isinf(total):
        await asyncio.Event().wait()
    await asyncio.sleep(total)
    return 0


async def env(ctx: Program) -> int:
    """Write the environment, or run a command in a changed one."""
    words, variables = ctx.argv[1:], dict(ctx.env)
    while words and (words[0] == "-i" or "=" in words[0]):
        word = words.pop(0)
        if word == "-i":
            variables.clear()
        else:
            name, _, value = word.partition("=")
            variables[name] = value
    if words:
        return await run(ctx, words, variables)
    await ctx.write(1, "".join(f"{name}={value}\n" for name, value in variables.items()))
    return 0


async def run(ctx: Program, argv: list[str], variables: dict[str, str]) -> int:
    """Become another program."""
    try:
        main, argv = ctx.kernel.resolve(argv, variables, ctx.cwd)
    except CannotExecuteError as error:
        return await ctx.complain(error.text, error.code)
    ctx.process.env = variables
    return await main(Program(ctx.process, ctx.kernel, argv))


async def pwd(ctx: Program) -> int:
    """Write the working directory."""
    await ctx.write(1, ctx.cwd + "\n")
    return 0


async def kill(ctx: Program) -> int:
    """Send a signal."""
    words, number = ctx.argv[1:], int(signals.SIGTERM)
    if words and words[0].startswith("-") and len(words) > 1:
        option = words.pop(0)[1:]
        name = words.pop(0) if option == "s" else option
        found = signal_number(name)
        if found is None:
            return await ctx.complain(f"unknown signal {name}")
        number = found
    code = 0
    for word in words:
        target = ctx.kernel.processes.get(int(word)) if word.isdigit() else None
        if target is None:
            code = await ctx.complain(f"({word}) - No such process")
        else:
            target.signal(number)
            await asyncio.sleep(0)  # a signal to oneself ends this here
    return code


def signal_number(name: str) -> int | None:
    """Read a signal's name or number."""
    if name.isdigit():
        return int(name) if int(name) <= 64 else None  # noqa: PLR2004 - as many as there are
    found = getattr(signals, "SIG" + name.upper().removeprefix("SIG"), None)
    return int(found) if isinstance(found, signals.Signals) else None


async def basename(ctx: Program) -> int:
    """Write the last part of a path."""
    await ctx.write(1, posixpath.basename(ctx.argv[1] if len(ctx.argv) > 1 else "") + "\n")
    return 0


async def whoami(ctx: Program) -> int:
    """Write the user, who is always root."""
    await ctx.write(1, "0\n" if posixpath.basename(ctx.argv[0]) == "id" else "root\n")
    return 0


async def tee(ctx: Program) -> int:
    """Copy input to output and to files."""
    files = [ctx.open(path, write=True, truncate=True) for path in ctx.argv[1:]]
    try:
        while piece := await ctx.process.open(0).read(_CHUNK):
            for file in files:
                await file.write(piece)
            await ctx.write(1, piece)
    finally:
        for file in files:
            file.close()
    return 0
