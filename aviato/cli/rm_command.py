"""`aviato rm`."""

from __future__ import annotations

import click

from aviato.cli import _loop, _options
from aviato.cli._many import each


@click.command("rm")
@_options.engine_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def command(engine: str | None, ids: tuple[str, ...]) -> int:
    """Stop sandboxes at once and remove every trace of them, logs included."""

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without

        async def remove(sandbox_id: str) -> None:
            await Sandbox.delete(sandbox_id, engine=engine)

        return await each(ids, remove)

    return _loop.run(body)
