"""`aviato logs`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from aviato.cli import _loop, _options
from aviato.cli._exits import BROKEN_PIPE


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the main command ends.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time (UTC) before each line.")
@_options.engine_option
@_options.raw_option
@click.argument("sandbox_id", metavar="ID")
def command(  # noqa: PLR0917 - click passes them by keyword
    follow: bool,
    tail: int | None,
    timestamps: bool,
    engine: str | None,
    raw: bool,
    sandbox_id: str,
) -> int:
    """Show what a sandbox's main command wrote, also after it ended."""

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without
        from aviato.cli._streams import Output  # noqa: PLC0415 - likewise

        sandbox = await Sandbox.from_id(sandbox_id, engine=engine)
        async with sandbox.stream_logs(follow=follow, tail_lines=tail, timestamps=timestamps) as lines:
            try:
                await Output(1, raw=raw).copy(_encoded(lines))
            except BrokenPipeError:
                return BROKEN_PIPE
        return 0

    return _loop.run(body)


async def _encoded(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield line.encode()
