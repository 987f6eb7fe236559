"""`aviato image`."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from aviato.cli import _options, _pulling, _tables
from aviato.cli._exits import describe

if TYPE_CHECKING:
    from aviato.engines.local.imageinfo import ImageInfo
    from aviato.engines.local.images import ImageStore


def _store() -> ImageStore:
    from aviato import settings  # noqa: PLC0415 - --help does without
    from aviato.engines.local.images import ImageStore  # noqa: PLC0415 - likewise

    return ImageStore(settings.home())


@click.group("image")
def command() -> None:
    """Manage the images of the local engine."""


@command.command("import")
@click.argument("name")
@click.argument("source", metavar="TAR|DIR", type=click.Path(exists=True))
def import_command(name: str, source: str) -> int:
    """Store a root file system under a name.

    It comes from a directory, a tar of one, `docker save` or an OCI layout; gzip, bzip2 and xz are understood.
    """
    info = _store().import_(name, source)
    _say(info)
    return 0


def _say(info: ImageInfo) -> None:
    click.echo(" ".join(part for part in (info.name, info.digest or "this machine", _size(info)) if part))
    left_out = ", ".join(f"{count} x {what}" for what, count in sorted(info.skipped.items()))
    if left_out:
        click.echo(f"left out: {left_out}", err=True)


def _size(info: ImageInfo) -> str:
    return "" if info.kind == "host" else _tables.size(info.size_bytes)


@command.command("pull")
@click.argument("name")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never"]),
    default="always",
    show_default=True,
    help="Ask the registry always, only if the name is not in the store, or never.",
)
def pull_command(name: str, policy: Literal["always", "missing", "never"]) -> int:
    """Bring an image from its registry.

    Names are those of docker: python:3.12 is on Docker Hub, localhost:5000/app on this machine. A login that `docker
    login` has stored is used. What is interrupted goes on where it stopped.
    """
    with _pulling.shown() as show:
        info = _store().pull(name, policy=policy, progress=show)
    _say(info)
    return 0


@command.command("tag")
@click.argument("src")
@click.argument("dst")
def tag_command(src: str, dst: str) -> int:
    """Give an image another name; SRC may be `host`, this machine's own root."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        info = _store().tag(src, dst)
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)
    click.echo(info.name)
    return 0


@command.command("ls")
@_options.output_option
def ls_command(output: str) -> int:
    """List the names in the store."""
    found = _store().list()
    if output == "json":
        _tables.show_json([asdict(info) for info in found])
    else:
        _tables.show_table(("NAME", "DIGEST", "SIZE", "AGE"), [_as_row(info) for info in found])
    return 0


def _as_row(info: ImageInfo) -> tuple[str, ...]:
    if info.kind == "host":
        return (info.name, "this machine", "", "")
    return (
        info.name,
        info.digest.removeprefix("sha256:")[:12],
        _tables.size(info.size_bytes),
        _tables.age(info.created),
    )


@command.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm_command(names: tuple[str, ...]) -> int:
    """Remove names; the files go when no other name and no sandbox needs them."""
    store = _store()
    worst = 0
    for name in names:
        try:
            store.remove(name)
        except Exception as error:  # noqa: BLE001 - the others are tried as well
            text, code = describe(error)
            click.echo(text, err=True)
            worst = max(worst, code)
        else:
            click.echo(name)
    return worst
