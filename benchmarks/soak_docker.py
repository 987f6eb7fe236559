"""Hundreds of containers from many processes, some of which are killed, and a daemon that restarts: nothing may stay.

python benchmarks/soak_docker.py [--count 500] [--seed N] [--restart COMMAND] [--json FILE]

Each client makes some sandboxes at once and compares what a command writes in each, by length and SHA-256 from the far
end. A third of the clients is killed with SIGKILL in the middle. At half of the count the daemon is restarted by the
shell command that is given: what ran then was lost, or was stopped if the daemon ended in good order, and has to be
said to be; new clients wait until it is back. After `aviato prune` no container, volume or network that was not there
before may be left. A fault that never fired fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aviato import aio
from aviato.engines.docker.api import Api
from aviato.engines.docker.endpoint import find_endpoint
from aviato.exceptions import AviatoError, EngineError, SandboxError, SandboxExecutionError, SandboxTerminatedError

ROOT = Path(__file__).parents[1]
AT_ONCE = 10
CLIENTS = 3
ORPHAN_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
TERMINATED_CODE = 143
WRITER = """
import hashlib, os, sys
data = os.urandom(int(sys.argv[1]))
sys.stdout.buffer.write(data)
sys.stdout.buffer.flush()
print(len(data), hashlib.sha256(data).hexdigest(), file=sys.stderr)
"""


async def one(session: aio.Session, size: int) -> str:
    """Use one sandbox; say what came of it."""
    try:
        sandbox = session.sandbox(orphan_timeout_seconds=ORPHAN_SECONDS)
        done = await sandbox.exec(["python", "-c", WRITER, str(size)], check=True)
        length, digest = done.stderr.split()
        if (len(done.stdout_bytes), hashlib.sha256(done.stdout_bytes).hexdigest()) != (int(length), digest):
            return "WRONG BYTES"
        await sandbox.stop(graceful_shutdown_seconds=0)
    except SandboxTerminatedError:
        return "stopped by the daemon"
    except SandboxExecutionError as error:
        code = None if error.exec_result is None else error.exec_result.returncode
        return "stopped by the daemon" if code == TERMINATED_CODE else f"FAILED: {error!r}"
    except (EngineError, SandboxError) as error:
        return "lost" if error.is_infrastructure else f"FAILED: {error!r}"
    return "right"


async def client(count: int, seed: int) -> None:
    """Make some sandboxes at once, and print what came of each as it comes."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    try:
        async with aio.Session(engine="docker") as session:
            works = [asyncio.create_task(one(session, chance.randrange(1 << 20))) for _ in range(count)]
            for work in asyncio.as_completed(works):
                print(await work, flush=True)
    except AviatoError as error:  # the end of a session whose daemon is away
        print("close failed" if error.is_infrastructure else f"FAILED: {error!r}", flush=True)


class Soak:
    """The parent: starts clients, kills some, restarts the daemon, and looks at what is left."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.chance = random.Random(given.seed)  # noqa: S311 - no secret
        self.counts: Counter[str] = Counter()
        self.left = given.count
        self.restarted = False
        self.daemon = asyncio.Lock()

    async def run(self) -> list[str]:
        """Do it all; return what is wrong."""
        before = await everything()
        await asyncio.gather(*(self._clients() for _ in range(CLIENTS)))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := [name for name, state in (await everything())["containers"].items() if state == "running"]:
            if time.monotonic() > deadline:
                return [f"still running: {left}"]
            await asyncio.sleep(0.2)
        prune = [sys.executable, "-m", "aviato.cli", "prune", "--engine", "docker"]
        self.counts["pruned"] = len((await self._output(prune)).split())
        after = await everything()
        wrong = [f"left: {kind} {name}" for kind, found in after.items() for name in set(found) - set(before[kind])]
        wrong += [what for what in self.counts if what.isupper() or what.startswith("FAILED")]
        if not self.restarted:
            wrong += [what for what in ("lost", "close failed", "stopped by the daemon") if self.counts[what]]
        faults = ["client killed", *(["daemon restarted"] if self.given.restart else [])]
        return wrong + [f"never happened: {what}" for what in (*faults, "right", "pruned") if not self.counts[what]]

    async def _output(self, argv: list[str]) -> str:
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        return (await process.communicate())[0].decode()

    async def _clients(self) -> None:
        while self.left > 0:
            count = min(AT_ONCE, self.left)
            self.left -= count
            kills = self.chance.random() < 1 / 3
            argv = [sys.executable, __file__, "--client", str(count), "--seed", str(self.chance.randrange(1 << 30))]
            process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
            assert process.stdout is not None
            heard = 0
            async for line in process.stdout:
                heard += 1
                self.counts[line.decode().strip()] += 1
                if kills and heard == count // 2:
                    process.kill()
                    self.counts["client killed"] += 1
            if await process.wait() not in {0, -9}:
                self.counts[f"FAILED: a client returned {process.returncode}"] += 1
            self.counts["clients"] += 1
            async with self.daemon:  # whoever comes while it restarts waits here
                if self.given.restart and self.left < self.given.count / 2 and not self.restarted:
                    self.restarted = True
                    restart = await asyncio.create_subprocess_shell(self.given.restart)
                    if await restart.wait() == 0:
                        self.counts["daemon restarted"] += 1


async def everything() -> dict[str, dict[str, str]]:
    """List what the daemon has."""
    api = Api(find_endpoint())
    for _ in range(100):  # it may be starting
        try:
            await api.open()
            containers = await api.request("GET", "/containers/json", params={"all": "1"}, what="list containers")
            break
        except EngineError:
            await asyncio.sleep(0.2)
    else:
        raise SystemExit("the daemon did not come back")
    volumes = await api.request("GET", "/volumes", what="list volumes")
    networks = await api.request("GET", "/networks", what="list networks")
    await api.close()
    return {
        "containers": {item["Names"][0]: item["State"] for item in containers},
        "volumes": {item["Name"]: "" for item in volumes["Volumes"] or ()},
        "networks": {item["Name"]: "" for item in networks},
    }


def main() -> int:
    """Run, and return 1 when anything was wrong, left or never happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="how many sandboxes")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of sizes and fates")
    parser.add_argument("--restart", help="shell command that restarts the daemon")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(client(given.client, given.seed))
        return 0

    async def soak() -> tuple[list[str], Counter[str]]:
        it = Soak(given)
        return await it.run(), it.counts

    began = time.monotonic()
    wrong, counts = asyncio.run(soak())
    result: dict[str, Any] = {"seed": given.seed, "count": given.count, "counts": counts, "wrong": wrong}
    result["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
