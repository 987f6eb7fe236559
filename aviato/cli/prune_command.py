"""`aviato prune`."""

from __future__ import annotations

import click


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def command(dry_run: bool) -> int:
    """Remove what ended sandboxes and crashed programs left on this machine.

    Running sandboxes are not touched. Also removed are the files of images
    that have no name and no user any more, and what interrupted pulls have downloaded.
    """
    from aviato import settings  # noqa: PLC0415 - --help does without
    from aviato.engines.local import reaper  # noqa: PLC0415 - likewise
    from aviato.engines.local.images import ImageStore  # noqa: PLC0415 - likewise

    home = settings.home()
    removed = reaper.prune(home, dry_run=dry_run)
    for name in removed:
        click.echo(name)
    images = 0 if dry_run else ImageStore(home).collect(downloads=True)
    if images:
        click.echo(
            f"{images} unused image director{'y' if images == 1 else 'ies'} or download{'' if images == 1 else 's'}"
        )
    if not removed and not images:
        click.echo("nothing to remove", err=True)
    return 0
