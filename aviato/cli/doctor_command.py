"""`aviato doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from aviato.cli import _loop, _options, _tables
from aviato.cli._terminal import printable
from aviato.engines import check_name
from aviato.exceptions import CapabilityError

if TYPE_CHECKING:
    from aviato.engines.diagnosis import Report


@click.command("doctor")
@_options.output_option
@_options.engine_option
def command(output: str, engine: str | None) -> int:
    """Check what an engine can do here, by starting real sandboxes, and name what is in the way with its cure.

    The exit code is 0 when a sandbox ran, 1 otherwise.
    """

    async def body() -> int:
        report = await _examine(engine)
        if output == "json":
            _tables.show_json({"works": report.works, **asdict(report)})
        else:
            _show(report)
        return 0 if report.works else 1

    return _loop.run(body)


async def _examine(engine: str | None) -> Report:
    from aviato import settings  # noqa: PLC0415 - --help does without

    found = settings.load_settings(engine=engine)
    name = found.base_url or found.engine
    if name == "docker":
        from aviato.engines.docker import doctor as of_docker  # noqa: PLC0415 - likewise

        return await of_docker.examine()
    if name == "local":
        from aviato.engines.local import doctor as of_local  # noqa: PLC0415 - likewise

        return await of_local.examine(found.home)
    check_name(name)
    raise CapabilityError(f"the engine {name!r} cannot be examined here", hint="Use --engine local or docker.")


def _show(report: Report) -> None:
    for check in report.checks:
        _line("ok" if check.ok else "BLOCKER" if check.blocker else "limited", check.name, check.detail, check.remedy)
    for trial in report.trials:
        step = f"{trial.step}: " if trial.step and not trial.detail.startswith(trial.step) else ""
        detail = f"{step}{trial.detail}, {trial.seconds * 1000:.0f} ms"
        word = "ok" if trial.ok else "limited" if trial.optional else "FAILED"
        _line(word, trial.name, detail, trial.remedy)
        if trial.ok and not trial.optional:
            _show_isolation(trial.isolation)
    click.echo("sandboxes work here" if report.works else "no sandbox can run here; the first fix above comes first")


def _line(word: str, name: str, detail: str, remedy: str) -> None:
    click.echo(f"{word:8} {name}: {printable(detail)}")
    if remedy:
        click.echo(f"         fix: {printable(remedy)}")


def _show_isolation(isolation: dict[str, object]) -> None:
    notes = isolation.get("notes")
    protections = ", ".join(f"{name} {value}" for name, value in isolation.items() if name != "notes")
    click.echo(f"         isolation: {printable(protections)}")
    for note in notes if isinstance(notes, (list, tuple)) else ():
        click.echo(f"         note: {printable(str(note))}")
