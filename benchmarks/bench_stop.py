"""How long a forced stop takes: of an idle sandbox, of one full of processes that ignore SIGTERM, of a frozen agent.

Timed is `stop(graceful_shutdown_seconds=0)`, which returns when nothing of the sandbox runs any more. The baseline is
SIGKILL and `waitpid` of a bare bubblewrap that sleeps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

from common import Options, Row, agents, bare_bwrap, interleave, main, timed, timed_await

from aviato import aio

STUBBORN = 40
STUBBORN_SCRIPT = f"""
trap '' TERM
for number in $(seq {STUBBORN}); do sh -c "trap '' TERM; while :; do sleep 1000; done" & done
echo ready
wait
"""


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    with asyncio.Runner() as runner:
        samples = interleave(
            {
                "bwrap": lambda: [_kill_bwrap() for _ in range(5)],
                "idle": lambda: [runner.run(_stop_idle()) for _ in range(5)],
                "stubborn": lambda: [runner.run(_stop_stubborn()) for _ in range(2)],
                "frozen": lambda: [runner.run(_stop_frozen())],
            },
            options.count(30),
        )
    wide = (
        ("idle", "of an idle sandbox", 250),
        ("stubborn", f"of {STUBBORN} processes that ignore SIGTERM", 250),
        ("frozen", "with a frozen agent", 2000),
    )
    return [
        Row(
            f"forced stop {what}",
            "ms",
            samples[name],
            samples["bwrap"],
            "SIGKILL of a bare bwrap",
            f"p99 <= {limit} ms",
            limit=limit,
            statistic="p99",
        )
        for name, what, limit in wide
    ]


def _kill_bwrap() -> float:
    with subprocess.Popen(bare_bwrap("sh", "-c", "echo ready; sleep 1000"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        def end() -> None:
            process.kill()
            process.wait()

        return timed(end)


async def _stop_idle() -> float:
    sandbox = aio.Sandbox.run()
    await sandbox.wait()
    return await timed_await(sandbox.stop(graceful_shutdown_seconds=0))


async def _stop_stubborn() -> float:
    sandbox = aio.Sandbox.run()
    process = sandbox.exec(["sh", "-c", STUBBORN_SCRIPT])
    async for _ in process.stdout:
        break
    taken = await timed_await(sandbox.stop(graceful_shutdown_seconds=0))
    await process.exception()
    return taken


async def _stop_frozen() -> float:
    before = set(agents())
    sandbox = aio.Sandbox.run()
    await sandbox.exec(["true"])
    (agent,) = set(agents()) - before
    os.kill(agent, signal.SIGSTOP)
    return await timed_await(sandbox.stop(graceful_shutdown_seconds=0))


if __name__ == "__main__":
    main(measure)
