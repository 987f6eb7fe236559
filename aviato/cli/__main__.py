"""The `aviato` program: finds the command, and turns every error into one line, a hint and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from aviato.cli._exits import USAGE, describe

COMMANDS = {
    "run": "Run a command in a new sandbox.",
    "exec": "Run a command in a sandbox that is there.",
    "ls": "List sandboxes.",
    "stop": "Stop sandboxes.",
    "rm": "Stop sandboxes and remove every trace of them.",
    "logs": "Show what a sandbox's main command wrote.",
    "cp": "Copy a file into or out of a sandbox.",
    "prune": "Remove what ended sandboxes and crashed programs left.",
    "image": "Manage the images of the local engine, or of a Docker daemon.",
    "doctor": "Check what this machine can do, by really doing it.",
}


class Program(click.Group):
    """Commands that are imported when they are used, and errors without tracebacks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which they are shown."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aviato.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without importing the commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and end the process with the exit code unless not `standalone_mode`."""
        if not standalone_mode:
            inherited: Any = super().main  # its overloads know no subclass that passes arguments on
            return inherited(args, *rest, standalone_mode=False, **extra)
        _occupy_standard_descriptors()
        sys.exit(self._guarded(args, *rest, **extra))

    def _guarded(self, args: Sequence[str] | None, *rest: Any, **extra: Any) -> int:
        try:
            code = self.main(args, *rest, standalone_mode=False, **extra)
            return code if isinstance(code, int) else 0
        except click.Abort:
            return 130
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return USAGE
        except click.ClickException as error:
            text, code = describe(error)
            click.echo(text, err=True)
            return code
        except Exception as error:
            if os.environ.get("AVIATO_FULL_TRACEBACK") == "1":
                raise
            text, code = describe(error)
            click.echo(text, err=True)
            return code


def _occupy_standard_descriptors() -> None:
    """Fill 0, 1 and 2 where they are closed, or the next file to be opened would get our output.

    What stands in cannot be used in that direction, so that lost output is an error.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free is this one


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aviato", message="%(prog)s %(version)s")
def main() -> None:
    """Run untrusted code in sandboxes.

    Exit codes: that of the command for run and exec, 2 for wrong usage, 124 when --timeout passed,
    125 when aviato itself failed, 130 and 143 after Ctrl-C and SIGTERM.
    """


if __name__ == "__main__":
    main()
