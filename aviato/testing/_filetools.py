"""Programs that handle files: minimal forms of the usual ones."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Awaitable, Callable

from aviato.testing._processes import Main, Program


def _split(ctx: Program) -> tuple[set[str], list[str]]:
    options = {letter for word in ctx.argv[1:] if word.startswith("-") and word != "--" for letter in word[1:]}
    return options, [word for word in ctx.argv[1:] if not word.startswith("-")]


def _tool(known: str) -> Callable[[Callable[[Program, set[str], list[str]], Awaitable[int]]], Main]:
    """Make a program of a function of options and paths; options it does not know are refused."""

    def decorate(function: Callable[[Program, set[str], list[str]], Awaitable[int]]) -> Main:
        async def main(ctx: Program) -> int:
            options, paths = _split(ctx)
            if options - set(known):
                return await ctx.complain(f"the fake {ctx.argv[0]} does not know -{''.join(options - set(known))}", 2)
            try:
                return await function(ctx, options, paths)
            except OSError as error:
                return await ctx.complain(f"{error.filename or ''}: {error.strerror}")

        main.__doc__ = function.__doc__
        return main

    return decorate


@_tool("p")
async def mkdir(ctx: Program, options: set[str], paths: list[str]) -> int:
    """Make directories."""
    for path in paths:
        if options:
            ctx.files.make_dirs(path, ctx.cwd)
        else:
            ctx.files.make_dir(path, cwd=ctx.cwd)
    return 0


@_tool("rRf")
async def rm(ctx: Program, options: set[str], paths: list[str]) -> int:
    """Remove files, with `-r` trees."""
    for path in paths:
        try:
            ctx.files.remove(path, ctx.cwd, tree=bool(options & {"r", "R"}))
        except FileNotFoundError:
            if "f" not in options:
                raise
    return 0


@_tool("")
async def rmdir(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Remove empty directories."""
    for path in paths:
        ctx.files.remove(path, ctx.cwd, directory=True)
    return 0


@_tool("la1AF")
async def ls(ctx: Program, options: set[str], paths: list[str]) -> int:
    """List names, with `-l` mode and size."""
    for path in paths or ["."]:
        try:
            node = ctx.files.node(path, ctx.cwd)
        except OSError as error:
            return await ctx.complain(f"{path}: {error.strerror}", 2)
        items = sorted(node.entries.items()) if node.entries is not None else [(path, node)]
        for name, item in items:
            if name.startswith(".") and not options & {"a", "A"} and node.entries is not None:
                continue
            info = item.stat()
            text = f"{stat.filemode(info.st_mode)} {info.st_size:>8} {name}" if "l" in options else name
            await ctx.write(1, text + "\n")
    return 0


@_tool("")
async def touch(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Make files that are not there."""
    for path in paths:
        ctx.files.create(path, ctx.cwd)
    return 0


@_tool("f")
async def mv(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Move files."""
    *sources, target = paths
    into = ctx.files.exists(target, ctx.cwd) and ctx.files.node(target, ctx.cwd).entries is not None
    for source in sources:
        ctx.files.rename(source, posixpath.join(target, posixpath.basename(source)) if into else target, ctx.cwd)
    return 0


@_tool("f")
async def cp(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Copy files."""
    *sources, target = paths
    into = ctx.files.exists(target, ctx.cwd) and ctx.files.node(target, ctx.cwd).entries is not None
    for source in sources:
        place = posixpath.join(target, posixpath.basename(source)) if into else target
        node = ctx.files.node(source, ctx.cwd)
        ctx.files.create(place, ctx.cwd, mode=node.mode).data[:] = node.data
    return 0


@_tool("sfn")
async def ln(ctx: Program, options: set[str], paths: list[str]) -> int:
    """Make symbolic links; hard ones are not known."""
    if "s" not in options or len(paths) != 2:  # noqa: PLR2004 - a target and a name
        return await ctx.complain("the fake ln knows only -s TARGET NAME", 2)
    ctx.files.link(paths[0], paths[1], ctx.cwd)
    return 0


@_tool("")
async def chmod(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Set permissions, by number or `+x`."""
    mode, *names = paths
    for path in names:
        node = ctx.files.node(path, ctx.cwd)
        if mode == "+x":
            node.mode |= 0o111
        elif mode.isdigit():
            node.mode = int(mode, 8) & 0o7777
        else:
            return await ctx.complain(f"the fake chmod does not know {mode!r}", 2)
    return 0


@_tool("lws")
async def stat_tool(ctx: Program, _options: set[str], paths: list[str]) -> int:
    """Tell whether files exist."""
    for path in paths:
        info = ctx.files.node(path, ctx.cwd).stat()
        await ctx.write(1, f"{path} {stat.filemode(info.st_mode)} {info.st_size}\n")
    return 0


FILE_TOOLS: dict[str, Main] = {
    "chmod": chmod,
    "cp": cp,
    "ln": ln,
    "ls": ls,
    "mkdir": mkdir,
    "mv": mv,
    "rm": rm,
    "rmdir": rmdir,
    "stat": stat_tool,
    "touch": touch,
}
