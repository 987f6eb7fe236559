# type: ignore  # noqa: PGH003 - the mistakes are on purpose; test_types.py counts them without this line
"""Mistakes that type checkers must find: exactly one on each line that ends in `# wrong`."""

from __future__ import annotations

import aviato
from aviato import ProcessResult, Sandbox, Session, aio


def functions(session: Session) -> None:
    """Mistakes with remote functions."""

    @session.function
    async def later(x: int) -> str:
        return str(x)

    later.remote("1")  # wrong
    later.remote(1, 2)  # wrong
    later.remote(1).result().send(None)  # wrong
    later.stream(1)  # wrong


def front_door(session: Session, sandbox: Sandbox, core: aio.Sandbox) -> None:
    """Mistakes on the front door."""
    sandbox.exec("ls -l").returncode.bit_length()  # wrong
    result: ProcessResult = sandbox.exec(["true"])  # wrong
    data: str = sandbox.read_file("/x").result()  # wrong
    session.adopt(core)  # wrong
    session.adopt("sbx-1")  # wrong
    for line in sandbox.exec(["true"]).stdout:
        line.decode()  # wrong
    sandbox.exec(["true"], timeout=3)  # wrong
    session.sandboxes()  # wrong
    sandbox.status = aviato.SandboxStatus.RUNNING  # wrong
    aviato.wait(sandbox.exec(["true"]))  # wrong
    aviato.Sesion()  # wrong
    del result, data


async def core(sandbox: aio.Sandbox) -> None:
    """Mistakes on the core."""
    sandbox.exec(["true"]).returncode.bit_length()  # wrong
    sandbox.read_file("/x").result()  # wrong
    await sandbox.read_file(3)  # wrong
