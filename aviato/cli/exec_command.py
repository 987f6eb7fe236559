"""`aviato exec`."""

from __future__ import annotations

import click

from aviato.cli import _loop, _options


@click.command("exec", context_settings={"allow_interspersed_args": False})
@_options.env_option
@click.option("--workdir", metavar="DIR", help="Absolute directory to start in.")
@click.option("--user", metavar="USER", help="Name or number to run as.")
@click.option("--timeout", type=_options.SECONDS, help="Kill the command after this time and exit with 124.")
@click.option("-i", "--interactive", is_flag=True, help="Forward stdin; without it, only when something is piped in.")
@_options.engine_option
@_options.raw_option
@click.argument("sandbox_id", metavar="ID")
@click.argument("cmd", metavar="[--] CMD [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(  # noqa: PLR0917 - click passes them by keyword
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    timeout: float | None,
    interactive: bool,
    engine: str | None,
    raw: bool,
    sandbox_id: str,
    cmd: tuple[str, ...],
) -> int:
    """Run a command in a sandbox that is there, whichever program made it.

    The exit code is the command's; Ctrl-C kills the command and leaves the sandbox.
    """
    cmd = _options.words(cmd)
    if not cmd:
        raise click.UsageError("say what to run: aviato exec ID -- CMD [ARG]...")
    variables = _options.variables(env)

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without
        from aviato.cli._processes import attach  # noqa: PLC0415 - likewise

        sandbox = await Sandbox.from_id(sandbox_id, engine=engine)
        return await attach(
            sandbox,
            cmd,
            env=variables,
            cwd=workdir,
            user=user,
            timeout_seconds=timeout,
            interactive=interactive,
            raw=raw,
        )

    return _loop.run(body)
