"""`aviato stop`."""

from __future__ import annotations

import click

from aviato.cli import _loop, _options
from aviato.cli._many import each


@click.command("stop")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL.",
)
@_options.engine_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def command(grace: float, engine: str | None, ids: tuple[str, ...]) -> int:
    """Stop sandboxes, all at the same time, and wait until nothing of them runs.

    One that has ended already counts as stopped.
    """

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without

        async def stop(sandbox_id: str) -> None:
            sandbox = await Sandbox.from_id(sandbox_id, engine=engine)
            await sandbox.stop(graceful_shutdown_seconds=grace)

        return await each(ids, stop)

    return _loop.run(body)
