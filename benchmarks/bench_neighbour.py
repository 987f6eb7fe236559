"""What one sandbox can do to another: the exec times of a quiet one while its neighbour runs a bomb.

The baseline is the same quiet sandbox with an idle neighbour. Every bomb runs in a fresh sandbox with limits of memory,
processes, disk and CPU, and is ended with it.
"""

from __future__ import annotations

import asyncio

from common import Options, Row, main, timed_await

from aviato import aio
from aviato.exceptions import AviatoError, CapabilityError

LIMITS = {"memory": "256Mi", "processes": 256, "disk": "128Mi"}
DISK = """
import os
while True:
    try:
        with open("/tmp/x", "wb") as file:
            while True:
                file.write(bytes(65536))
    except OSError:
        pass
"""
BOMBS = {
    "fork": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n",
    "memory": "blocks = []\nwhile True: blocks.append(bytearray(1 << 20))\n",
    "disk": DISK,
    "output": "import os\nblock = bytes(65536)\nwhile True: os.write(1, block)\n",
}


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    return asyncio.run(_measure(options.count(300)))


async def _measure(number: int) -> list[Row]:
    rows = []
    async with aio.Session() as session:
        quiet = session.sandbox()
        await quiet.exec(["true"])
        limits, note = await _limits(session)
        for name, code in BOMBS.items():
            idle = await _times(quiet, number)
            loud = session.sandbox(resources=limits)
            await loud.exec(["true"])
            bomb = loud.exec(["python3", "-c", f"print('ready', flush=True)\n{code}"], max_output_bytes=1000)
            async for _ in bomb.stdout:
                break
            reader = asyncio.create_task(_drain(bomb)) if name == "output" else None
            noisy = await _times(quiet, number)
            await loud.stop(graceful_shutdown_seconds=0, missing_ok=True)
            if reader is not None:
                await reader
            await bomb.exception()
            rows.append(
                Row(
                    f"exec of true beside a {name} bomb",
                    "ms",
                    noisy,
                    idle,
                    "the same beside an idle sandbox",
                    "p95 <= 2 x",
                    ratio_limit=2,
                    statistic="p95",
                    facts={"limits of the bomb's sandbox": note},
                )
            )
    return rows


async def _limits(session: aio.Session) -> tuple[dict[str, object], str]:
    """Ask for half a processor too, where there are the rights to limit it."""
    limits: dict[str, object] = {**LIMITS, "cpu": "500m"}
    probe = session.sandbox(resources=limits)
    try:
        await probe.wait()
    except CapabilityError as error:
        limits = {**LIMITS}
        return limits, f"{limits}; no CPU limit here: {error.message}"
    await probe.stop(graceful_shutdown_seconds=0)
    return limits, str(limits)


async def _times(sandbox: aio.Sandbox, number: int) -> list[float]:
    return [await timed_await(sandbox.exec(["true"])) for _ in range(number)]


async def _drain(process: aio.Process) -> None:
    try:
        async for _ in process.stdout.buffer:
            pass
    except AviatoError:
        return  # its sandbox was stopped


if __name__ == "__main__":
    main(measure)
