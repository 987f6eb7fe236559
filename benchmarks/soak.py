"""Make thousands of sandboxes from many processes, break things at random: every byte must come, and nothing stay.

python benchmarks/soak.py [--count 2000] [--seed N] [--minutes M] [--short] [--json FILE]

Several client processes make sandboxes at the same time, each with a deck of scenarios: output, input and files whose
length and SHA-256 are computed at the far end, cancelled and timed out commands, starts that are stopped half-way,
process bombs. Clients and agents (the first process of a sandbox) are killed in the middle. At the end no process,
mount, control group, socket, lock or directory of a sandbox may be there: without `aviato prune` for attached ones,
after it for detached ones, which must have outlived their makers until then.

A fault that never fired fails the run, as does a byte too few. The same seed gives the same decks and the same fates
of clients; when exactly a fault falls is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from common import machine
from soak_client import AT_ONCE, DECK, STEP_SECONDS, client_main
from soak_traces import Traces

ROOT = Path(__file__).parents[1]
ORPHAN_SECONDS = 2.0
SLACK_SECONDS = 10.0
"""What a busy machine may need beyond the orphan time; the table says how long it really took."""
CLIENT_SECONDS = 600.0

FAULTS = (
    "command cancelled",
    "waiter cancelled",
    "command timed out",
    "agent killed",
    "start stopped half-way",
    "bomb left running",
    "client killed",
    "client told to end",
)
DEEDS = (
    "outputs compared",
    "inputs compared",
    "files compared",
    "used from another process",
    "outlived a killed client",
    "outlived their client",
    "pruned",
)


@attrs.define
class Soak:
    """The parent: starts clients, kills some, and looks at what is left."""

    given: argparse.Namespace
    home: str
    traces: Traces
    chance: random.Random
    born: dict[str, str] = attrs.field(factory=dict)
    up: set[str] = attrs.field(factory=set)
    of_killed: set[str] = attrs.field(factory=set)
    counts: Counter[str] = attrs.field(factory=Counter)
    ends: Counter[str] = attrs.field(factory=Counter)
    facts: dict[str, Any] = attrs.field(factory=dict)
    failures: list[str] = attrs.field(factory=list)
    bytes_compared: int = 0
    planned: int = 0
    deadline: float = float("inf")

    async def run(self) -> None:
        """Make the sandboxes, then look."""
        watching = asyncio.create_task(self.watch())
        began = time.monotonic()
        await asyncio.gather(*(self.clients() for _ in range(self.given.clients)))
        ended = time.monotonic()
        self.facts["seconds of making"] = round(ended - began, 1)
        await self.attached_are_gone(ended)
        watching.cancel()
        await self.detached_are_there()
        await self.end_detached()

    async def watch(self) -> None:
        """Note what runs, for the search for leftovers, and how much at once."""
        while True:
            self.traces.watch()
            self.facts["most at once"] = max(self.facts.get("most at once", 0), self.traces.live())
            await asyncio.sleep(0.05)

    async def clients(self) -> None:
        """Run one client after another until enough sandboxes have been made."""
        while len(self.born) + self.planned < self.given.count and time.monotonic() < self.deadline:
            size = min(len(DECK), self.given.count - len(self.born) - self.planned)
            number = self.counts["clients"]
            self.counts["clients"] += 1
            spared = 1.0 if self.given.short else 0.7  # in the short form, or too few get through their deck
            often = [spared, 0.75 * (1 - spared), 0.25 * (1 - spared)]
            fate = {0: "kill", 1: "term"}.get(number) or self.chance.choices(["", "kill", "term"], often)[0]
            self.planned += size
            try:
                await self.client(number, size, fate)
            finally:
                self.planned -= size

    async def client(self, number: int, size: int, fate: str) -> None:
        """Run one client, to its end or to one that it did not choose."""
        seed = self.given.seed * 100_000 + number
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--client", "--seed", str(seed), "--count", str(size),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "AVIATO_HOME": self.home, "TMPDIR": f"{self.home}-tmp", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        mine: set[str] = set()
        fired = False

        async def end(wait: float) -> None:
            nonlocal fired
            await asyncio.sleep(wait)
            if process.returncode is None:
                fired = True
                process.send_signal(signal.SIGKILL if fate == "kill" else signal.SIGTERM)

        ending: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                async for line in process.stdout:
                    self.heard(line, mine)
                    if fate and ending is None and mine & self.up & self.of("leave"):
                        ending = asyncio.create_task(end(self.chance.uniform(0, 1 if number > 1 else 0.2)))
                await process.wait()
        except TimeoutError:
            self.failures.append(f"client with seed {seed} did not end")
            process.kill()
            await process.wait()
        if ending is not None:
            ending.cancel()
            await asyncio.wait([ending])
        fired = fired and process.returncode != 0  # else it had ended by itself just before
        expected = {"kill": -signal.SIGKILL, "term": -signal.SIGTERM}.get(fate, 0) if fired else 0
        errors = (await said).decode(errors="replace").strip()
        if process.returncode != expected:
            self.failures.append(
                f"client with seed {seed} returned {process.returncode}, not {expected}: {errors[-2000:]}"
            )
        if fired and fate == "kill":
            self.counts["client killed"] += 1
            self.of_killed |= mine
            await self.orphans_end(mine & self.of("session", "run"), time.monotonic())
        elif fired:
            self.counts["client told to end"] += 1

    async def orphans_end(self, attached: set[str], killed: float) -> None:
        """Wait until what a killed client held is gone, and note how long that took."""
        while left := self.traces.directories() & attached:
            if time.monotonic() > killed + ORPHAN_SECONDS + SLACK_SECONDS:
                self.failures.append(f"left of a killed client: {sorted(left)}")
                break
            await asyncio.sleep(0.05)
        name = "seconds from a client's kill to its last sandbox's end"
        self.facts[name] = max(self.facts.get(name, 0.0), round(time.monotonic() - killed, 2))

    def heard(self, line: bytes, mine: set[str]) -> None:
        """Count what a client says."""
        try:
            event = json.loads(line)
        except ValueError:  # killed in the middle of it
            return
        kind = event["event"]
        if kind == "born":
            self.born[event["id"]] = event["owner"]
            mine.add(event["id"])
        elif kind == "up":
            self.up.add(event["id"])
        elif kind == "ending":
            self.ends[event["how"]] += 1
        elif kind == "failed":
            self.failures.append(f"{event['what']} (seed {event['seed']}, number {event['number']}, {event['face']})")
            print(f"FAILED {self.failures[-1]}", file=sys.stderr, flush=True)
        else:
            self.counts[event["what"]] += 1
            self.bytes_compared += event.get("bytes", 0)

    def of(self, *owners: str) -> set[str]:
        """Return the ids of sandboxes by owner."""
        return {name for name, owner in self.born.items() if owner in owners}

    async def attached_are_gone(self, ended: float) -> None:
        """Wait, without `prune`, until nothing of an attached sandbox is left."""
        attached = self.of("session", "run")
        while True:
            left = sorted(self.traces.directories() & attached)
            left += [f"control group of {name}" for name in self.traces.groups() & attached]
            left += self.traces.processes(attached)
            if not left:
                break
            if time.monotonic() > ended + ORPHAN_SECONDS + SLACK_SECONDS:
                self.failures += [f"left of an attached sandbox, without prune: {what}" for what in left]
                break
            await asyncio.sleep(0.1)
        self.facts["seconds until nothing attached was left"] = round(time.monotonic() - ended, 1)

    async def detached_are_there(self) -> None:
        """See that those which were left to themselves still work."""
        from aviato import aio  # noqa: PLC0415 - the state directory is set before

        survivors = sorted(self.of("leave") & self.up)
        self.counts["outlived their client"] = len(survivors)
        self.counts["outlived a killed client"] = len(self.of_killed & set(survivors))
        gate = asyncio.Semaphore(AT_ONCE)

        async def check(name: str) -> None:
            async with gate, asyncio.timeout(STEP_SECONDS):
                sandbox = await aio.Sandbox.from_id(name)
                result = await sandbox.exec(["sh", "-c", "echo $AVIATO_SOAK"])
                assert (sandbox.status, result.stdout) == ("running", self.home + "\n"), (sandbox.status, result)

        await self.each(check, survivors, "detached sandbox {} is not as it was left")

    async def end_detached(self) -> None:
        """Stop some and delete others; the records of the former stay."""
        from aviato import aio  # noqa: PLC0415 - likewise

        running = {sandbox.sandbox_id for sandbox in await aio.Sandbox.list()}
        if strangers := running - self.of("detached", "leave"):
            self.failures.append(f"still running, and not detached: {sorted(strangers)}")
        gate = asyncio.Semaphore(AT_ONCE)

        async def end(name: str) -> None:
            async with gate, asyncio.timeout(STEP_SECONDS):
                if self.chance.random() < 0.2:
                    await aio.Sandbox.delete(name)
                else:
                    await (await aio.Sandbox.from_id(name)).stop(graceful_shutdown_seconds=0)

        await self.each(end, sorted(running), "cannot end {}")

    async def each(self, action: Callable[[str], Awaitable[None]], names: list[str], text: str) -> None:
        """Do something with each sandbox; what fails is written down."""
        for name, error in zip(names, await asyncio.gather(*map(action, names), return_exceptions=True), strict=True):
            if error is not None:
                self.failures.append(f"{text.format(name)}: {type(error).__name__}: {error}")

    def prune(self) -> None:
        """Have what detached sandboxes left removed, once this process is no client any more."""
        command = [sys.executable, "-m", "aviato.cli", "prune"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            self.failures.append(f"prune failed: {done.stderr}")
        self.counts["pruned"] = sum(line in self.born for line in done.stdout.split())

    def nothing_is_left(self) -> None:
        """Look for everything that a sandbox is made of."""
        until = time.monotonic() + SLACK_SECONDS
        while left := self.traces.everything(set(self.born)):
            if time.monotonic() > until:
                self.failures += [f"left at the end, after prune: {what}" for what in left[:50]]
                break
            time.sleep(0.1)
        left = [f"temporary file {path}" for path in Path(f"{self.home}-tmp").rglob("*")]
        self.failures += left

    def judge(self) -> None:
        """Fail for what never happened."""
        for what in (*FAULTS, *DEEDS):
            if not self.counts[what]:
                self.failures.append(f"never happened: {what}")
        log = Path(self.home, "supervisors/log")
        text = log.read_text(errors="replace") if log.exists() else ""
        if "Traceback" in text or "supervisor failed" in text:
            self.failures.append(f"a supervisor failed: {text[-2000:]}")

    def as_json(self) -> dict[str, Any]:
        """Return all that happened."""
        return {
            "seed": self.given.seed,
            "sandboxes": len(self.born),
            "owners": Counter(self.born.values()),
            "ran": len(self.up),
            "bytes_compared": self.bytes_compared,
            "counts": self.counts,
            "ends": self.ends,
            "facts": self.facts,
            "failures": self.failures,
        }

    def show(self) -> str:
        """Lay it out as a table."""
        owners = Counter(self.born.values())
        rows: list[tuple[str, object]] = [
            ("seed", self.given.seed),
            ("client processes", self.counts["clients"]),
            ("sandboxes made", len(self.born)),
            *((f"    {name}", owners[name]) for name in ("session", "run", "detached", "leave")),
            ("    that ran", len(self.up)),
            *((what, self.counts[what]) for what in (*FAULTS, *DEEDS)),
            *((what, number) for what, number in self.counts.items() if what not in {*FAULTS, *DEEDS, "clients"}),
            ("MiB compared", round(self.bytes_compared / 2**20, 1)),
            *((f"ended: {how}", number) for how, number in sorted(self.ends.items())),
            *self.facts.items(),
            ("failures", len(self.failures)),
        ]
        return "\n".join([f"{name:<56} {value:>10}" for name, value in rows] + [f"  {text}" for text in self.failures])


def main() -> int:
    """Run, and return 1 when anything was lost, left or never happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="how many sandboxes; 2000 unless told otherwise")
    parser.add_argument("--seed", type=int, help="of decks and fates; random unless told otherwise")
    parser.add_argument("--minutes", type=float, help="make no more after this time, whatever the count")
    parser.add_argument(
        "--short", action="store_true", help="the least that lets every fault happen, in under a minute"
    )
    parser.add_argument("--clients", type=int, help="client processes at once")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(client_main(given))
        return 0
    given.count = given.count or (4 * len(DECK) if given.short else 2000)
    given.clients = given.clients or 4
    given.seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    home = tempfile.mkdtemp(prefix="aviato-soak-")
    Path(f"{home}-tmp").mkdir()
    os.environ["AVIATO_HOME"] = home
    soak = Soak(given, home, Traces(home), random.Random(given.seed))  # noqa: S311
    if given.minutes:
        soak.deadline = time.monotonic() + 60 * given.minutes
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    facts = machine()
    print(f"seed {given.seed}, {given.count} sandboxes, state directory {home}", flush=True)
    asyncio.run(soak.run())
    soak.prune()
    soak.nothing_is_left()
    soak.judge()
    facts["load_after"] = os.getloadavg()[0]
    print(soak.show())
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"machine": facts, **soak.as_json()}, indent=1) + "\n")
    if soak.failures:
        print(f"what is left stays in {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    shutil.rmtree(f"{home}-tmp")
    return 0


if __name__ == "__main__":
    sys.exit(main())
