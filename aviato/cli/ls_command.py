"""`aviato ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aviato.cli import _loop, _options, _tables

if TYPE_CHECKING:
    from aviato.aio import Sandbox


@click.command("ls")
@click.option("--tag", multiple=True, metavar="TAG", help="Only those which have this tag; may be repeated.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have ended.")
@_options.output_option
@_options.engine_option
def command(tag: tuple[str, ...], everything: bool, output: str, engine: str | None) -> int:
    """List your sandboxes, whichever program made them."""

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without

        found = await Sandbox.list(tags=tag, include_stopped=everything, engine=engine)
        if output == "json":
            _tables.show_json([_as_json(sandbox) for sandbox in found])
        else:
            _tables.show_table(("ID", "STATUS", "IMAGE", "AGE", "TAGS"), [_as_row(sandbox) for sandbox in found])
        return 0

    return _loop.run(body)


def _as_row(sandbox: Sandbox) -> tuple[str, ...]:
    status = sandbox.status.value
    if sandbox.returncode is not None:
        status += f" ({sandbox.returncode})"
    elif sandbox.exit_reason is not None:
        status += f" ({sandbox.exit_reason.value})"
    return (
        sandbox.sandbox_id,
        status,
        sandbox.container_image,
        _tables.age(sandbox.created_at),
        " ".join(sandbox.tags),
    )


def _as_json(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "sandbox_id": sandbox.sandbox_id,
        "status": sandbox.status.value,
        "returncode": sandbox.returncode,
        "exit_reason": None if sandbox.exit_reason is None else sandbox.exit_reason.value,
        "container_image": sandbox.container_image,
        "created_at": sandbox.created_at.isoformat(),
        "started_at": None if sandbox.started_at is None else sandbox.started_at.isoformat(),
        "tags": list(sandbox.tags),
        "annotations": dict(sandbox.annotations),
        "engine": sandbox.engine_name,
    }
