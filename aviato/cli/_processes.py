"""Joins a command in a sandbox to this program's own streams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aviato.cli._exits import BROKEN_PIPE
from aviato.cli._streams import Output, has_input, read_input
from aviato.exceptions import SandboxExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aviato.aio import Process, Sandbox, StreamWriter

KILL_SECONDS = 2.0


def wants_input(interactive: bool) -> bool:
    """Tell whether to forward stdin: when something is piped in, or when it was asked for."""
    return interactive or has_input()


async def attach(
    sandbox: Sandbox,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    user: str | None = None,
    timeout_seconds: float | None = None,
    interactive: bool = False,
    raw: bool = False,
) -> int:
    """Run a command, forward all three streams as bytes, and return its exit code.

    If cancelled because of a signal, the command gets that signal and two seconds; then it and everything it started
    are killed.

    Raises:
        AviatoError: As `Process.result`.
    """
    process = sandbox.exec(
        command,
        env=env,
        cwd=cwd,
        user=user,
        timeout_seconds=timeout_seconds,
        stdin=wants_input(interactive),
        max_output_bytes=0,
    )
    # The iterators are made before anything can arrive: what nobody reads is not kept, since it would never be used.
    outputs = [aiter(process.stdout.buffer), aiter(process.stderr.buffer)]
    tasks = [
        asyncio.ensure_future(Output(number, raw=raw).copy(chunks)) for number, chunks in enumerate(outputs, start=1)
    ]
    feeder = asyncio.ensure_future(_feed(process.stdin)) if process.stdin is not None else None
    try:
        return await _finish(process, tasks)
    except BrokenPipeError:
        await _end(process)
        return BROKEN_PIPE
    except asyncio.CancelledError as error:
        await _pass_on(error.args, process, tasks)
        await _end(process)
        raise
    except BaseException:
        await _end(process)
        raise
    finally:
        for task in (*tasks, *([feeder] if feeder else [])):
            task.cancel()
        await asyncio.gather(*tasks, *([feeder] if feeder else []), return_exceptions=True)


async def _finish(process: Process, outputs: Sequence[asyncio.Future[None]]) -> int:
    """Wait for the output to be written and then for the end; an error while writing comes first."""
    await asyncio.shield(asyncio.gather(*outputs))  # when this is cancelled, they go on until the command has ended
    return (await process.result()).returncode


async def _pass_on(said: tuple[object, ...], process: Process, outputs: Sequence[asyncio.Future[None]]) -> None:
    """Give the command the signal that this program got, and a moment to end by itself."""
    number = said[0] if said else None
    if isinstance(number, int) and process.returncode is None:
        process.send_signal(number)
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await process.wait(KILL_SECONDS)
        await asyncio.wait(outputs, timeout=KILL_SECONDS)


async def _end(process: Process) -> None:
    """Kill the command, unless it has ended, and wait a moment for its death."""
    process.cancel()
    with contextlib.suppress(
        Exception, asyncio.CancelledError
    ):  # its own cancellation; there is no other error to tell
        await process.wait(KILL_SECONDS)


async def _feed(writer: StreamWriter) -> None:
    with contextlib.suppress(SandboxExecutionError):  # it has ended, or has closed its input
        async with contextlib.aclosing(read_input()) as pieces:
            async for piece in pieces:
                await writer.write(piece)
        await writer.close()
