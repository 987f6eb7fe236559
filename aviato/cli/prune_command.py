"""`aviato prune`."""

from __future__ import annotations

import click

from aviato.cli import _loop, _options


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_options.engine_option
def command(dry_run: bool, engine: str | None) -> int:
    """Remove what ended sandboxes and crashed programs left.

    Running sandboxes are not touched. On the local engine the files of images that have no name and no user any more,
    and what interrupted pulls have downloaded, are removed too.
    """

    async def body() -> int:
        from aviato.aio._loop import open_link  # noqa: PLC0415 - --help does without

        removed = await (await open_link(engine, None)).engine.prune(dry_run=dry_run)
        for name in removed:
            click.echo(name)
        if not removed:
            click.echo("nothing to remove", err=True)
        return 0

    return _loop.run(body)
