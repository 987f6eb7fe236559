"""`aviato run`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from aviato._defaults import PULL_POLICIES
from aviato.cli import _loop, _options, _pulling
from aviato.exceptions import SandboxError

if TYPE_CHECKING:
    from aviato.aio import Sandbox

INTERRUPTED_GRACE_SECONDS = 2.0


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.option("--image", metavar="NAME", help="Image; this machine's own root unless told otherwise.")
@click.option(
    "--pull", type=click.Choice(PULL_POLICIES), help="Pull the image; when it is missing, unless told otherwise."
)
@_options.env_option
@click.option("--tag", multiple=True, metavar="TAG", help="Tag to find it by; may be repeated.")
@click.option("--cpu", metavar="AMOUNT", help="Limit of CPU time, such as 2 or 500m.")
@click.option("--memory", metavar="SIZE", help="Limit of memory, such as 512Mi.")
@click.option("--disk", metavar="SIZE", help="Limit of what it may write, such as 1Gi.")
@click.option("--gpu", metavar="COUNT", help="GPUs, where the engine has any.")
@click.option("--network", type=click.Choice(["none", "internet"]), help="What it may reach; nothing by default.")
@click.option("--timeout", type=_options.SECONDS, help="Kill the command after this time and exit with 124.")
@_options.engine_option
@click.option("--workdir", metavar="DIR", help="Absolute directory to start in.")
@click.option("--user", metavar="USER", help="Name or number to run as.")
@click.option("--file", "files", multiple=True, metavar="LOCAL:REMOTE", help="A read-only file in it; may be repeated.")
@click.option("-i", "--interactive", is_flag=True, help="Forward stdin; without it, only when something is piped in.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its id.")
@_options.raw_option
@click.argument("cmd", metavar="[--] CMD [ARG]...", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0917 - click passes them by keyword
    image: str | None,
    pull: str | None,
    env: tuple[str, ...],
    tag: tuple[str, ...],
    cpu: str | None,
    memory: str | None,
    disk: str | None,
    gpu: str | None,
    network: str | None,
    timeout: float | None,
    engine: str | None,
    workdir: str | None,
    user: str | None,
    files: tuple[str, ...],
    interactive: bool,
    detach: bool,
    raw: bool,
    cmd: tuple[str, ...],
) -> int:
    """Run a command in a new sandbox, which is gone afterwards.

    Output is shown as it comes, what is piped in is forwarded, and the exit code is the command's. Ctrl-C reaches the
    command in the sandbox, which is killed when it has not ended after two seconds. With --detach the sandbox stays
    until its command ends or it is stopped, for a day at most.
    """
    if not cmd and not detach:
        raise click.UsageError("say what to run: aviato run -- CMD [ARG]...")
    if detach and timeout is not None:
        raise click.UsageError("--timeout and --detach do not go together")
    config: dict[str, Any] = {"tags": tag, "environment_variables": _options.variables(env), "engine": engine}
    resources = {"cpu": cpu, "memory": memory, "disk": disk, "gpu": gpu}
    config["resources"] = {name: value for name, value in resources.items() if value is not None}
    config["mounted_files"] = _options.local_files(files)
    optional = {"container_image": image, "pull_policy": pull, "working_dir": workdir, "user": user}
    config |= {name: value for name, value in optional.items() if value is not None}
    if network is not None:
        config["network"] = {"egress_mode": network}
    if detach:
        return _loop.run(lambda: _detached(cmd, config))
    return _loop.run(lambda: _attached(cmd, config, limit=timeout, interactive=interactive, raw=raw))


async def _detached(cmd: tuple[str, ...], config: dict[str, Any]) -> int:
    from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without

    with _pulling.shown() as show:
        sandbox = Sandbox.run(*cmd, detached=True, on_pull_progress=show, **config)
        await _started_detached(sandbox)
    click.echo(sandbox.sandbox_id)
    return 0


async def _started_detached(sandbox: Sandbox) -> None:
    try:
        await sandbox.wait()
    except SandboxError:
        if sandbox.returncode is None:
            await sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True)
            raise  # otherwise it was so quick that it has ended, which is no failure of the start
    except BaseException:
        await sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True)
        raise


async def _attached(
    cmd: tuple[str, ...], config: dict[str, Any], *, limit: float | None, interactive: bool, raw: bool
) -> int:
    from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without
    from aviato.cli._processes import attach  # noqa: PLC0415 - likewise

    grace = INTERRUPTED_GRACE_SECONDS
    with contextlib.ExitStack() as starting:
        sandbox = Sandbox.run(on_pull_progress=starting.enter_context(_pulling.shown()), **config)
        try:
            await sandbox.wait()
            starting.close()  # what is shown of a pull ends before the command writes anything
            code = await attach(sandbox, cmd, env={}, timeout_seconds=limit, interactive=interactive, raw=raw)
            grace = 0.0  # the command has ended; what it left behind has nothing to wait for
        finally:
            await sandbox.stop(graceful_shutdown_seconds=grace, missing_ok=True)
    await Sandbox.delete(sandbox.sandbox_id, missing_ok=True, engine=config["engine"])
    return code
