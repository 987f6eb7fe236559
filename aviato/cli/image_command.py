"""`aviato image`."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from aviato.cli import _options, _pulling, _tables
from aviato.cli._exits import describe
from aviato.cli._images import images_of

if TYPE_CHECKING:
    from aviato.engines.images import ImageInfo


@click.group("image")
def command() -> None:
    """Manage the images of the local engine, or of a Docker daemon."""


@command.command("import")
@_options.engine_option
@click.argument("name")
@click.argument("source", metavar="TAR|DIR", type=click.Path(exists=True))
def import_command(engine: str | None, name: str, source: str) -> int:
    """Store a root file system under a name.

    It comes from a directory, a tar of one, `docker save` or an OCI layout; gzip, bzip2 and xz are understood.
    """
    info = images_of(engine).import_(name, source)
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
@_options.engine_option
@click.argument("name")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never"]),
    default="always",
    show_default=True,
    help="Ask the registry always, only if the engine does not have the name, or never.",
)
def pull_command(engine: str | None, name: str, policy: Literal["always", "missing", "never"]) -> int:
    """Bring an image from its registry.

    Names are those of docker: python:3.12 is on Docker Hub, localhost:5000/app on this machine. A login that `docker
    login` has stored is used. What is interrupted goes on where it stopped, on a Docker daemon with the layers that it
    had not finished.
    """
    with _pulling.shown() as show:
        info = images_of(engine).pull(name, policy=policy, progress=show)
    _say(info)
    return 0


@command.command("tag")
@_options.engine_option
@click.argument("src")
@click.argument("dst")
def tag_command(engine: str | None, src: str, dst: str) -> int:
    """Give an image another name; on the local engine SRC may be `host`, this machine's own root."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        info = images_of(engine).tag(src, dst)
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)
    click.echo(info.name)
    return 0


@command.command("ls")
@_options.engine_option
@_options.output_option
def ls_command(engine: str | None, output: str) -> int:
    """List the names of images."""
    found = images_of(engine).list()
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
@_options.engine_option
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm_command(engine: str | None, names: tuple[str, ...]) -> int:
    """Remove names; the files go when no other name and no sandbox needs them."""
    store = images_of(engine)
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
