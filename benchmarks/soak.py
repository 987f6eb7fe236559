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
import concurrent.futures
import contextlib
import hashlib
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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from common import machine

ROOT = Path(__file__).parents[1]
SLOTS = Path("/run/aviato-slots")
GROUPS = Path("/sys/fs/cgroup")
ORPHAN_SECONDS = 2.0
SLACK_SECONDS = 10.0
"""What a busy machine may need beyond the orphan time; the table says how long it really took."""
STEP_SECONDS = 120.0
CLIENT_SECONDS = 600.0
AT_ONCE = 6

DECK = (
    *["output"] * 4,
    *["lines"] * 2,
    *["input"] * 2,
    *["files"] * 2,
    *["cancel"] * 2,
    *["timeout"] * 2,
    *["agent killed"] * 2,
    *["start stopped"] * 2,
    "waiter",
    "bomb",
)
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

WRITER = """
import hashlib, os, random, sys
seed, *sizes = map(int, sys.argv[2:])
chance, left, sums = random.Random(seed), dict(zip((1, 2), sizes)), {1: hashlib.sha256(), 2: hashlib.sha256()}
while any(left.values()):
    fd = chance.choice([fd for fd in left if left[fd]])
    piece = chance.randbytes(min(left[fd], chance.choice((1, 90, 4096, 65536, 300000))))
    left[fd] -= len(piece)
    sums[fd].update(piece)
    while piece:
        piece = piece[os.write(fd, piece):]
with open(sys.argv[1], "w") as file:
    file.write(" ".join(f"{size} {sums[fd].hexdigest()}" for fd, size in zip((1, 2), sizes)))
"""
SLEEPERS = "cat /proc/[0-9]*/stat 2>/dev/null | grep -v ') Z ' | grep -c '(sleep)'"
BOMB = "trap '' TERM HUP; for i in $(seq 20); do (trap '' TERM; setsid sleep 1000) & done; echo up; wait"


# --- what a client does


@attrs.define
class Client:
    """One client process: a session, some sandboxes, and reports of what happened, a JSON line each."""

    face: Any
    chance: random.Random
    session: Any
    home: str
    abandoned: list[Any] = attrs.field(factory=list)

    def say(self, **event: Any) -> None:
        """Report, at once: the process may be killed at any moment."""
        os.write(1, (json.dumps(event) + "\n").encode())

    async def one(self, scenario: str, *, leave: bool) -> None:
        """Make one sandbox, do something with it and end it, or leave that to somebody else."""
        owners = ["session", "session", "run", "detached"] + ([] if scenario in {"agent killed", "bomb"} else ["leave"])
        owner = "leave" if leave else "run" if scenario == "start stopped" else self.chance.choice(owners)
        detached = owner in {"detached", "leave"}
        config: dict[str, Any] = {
            "tags": ["leave"] if owner == "leave" else [],
            "environment_variables": {"AVIATO_SOAK": self.home},
            "detached": detached,
        }
        make = self.session.sandbox if owner == "session" else self.face.Sandbox.run
        sandbox = make(**config)
        self.say(event="born", id=sandbox.sandbox_id, owner=owner)
        if scenario == "start stopped":
            await self.start_stopped(sandbox)
            return
        await sandbox.wait()
        self.say(event="up", id=sandbox.sandbox_id)
        await getattr(self, scenario.replace(" ", "_"))(sandbox)
        if self.chance.random() < 0.1:
            await self.other()
        await self.end(sandbox, owner, scenario)

    async def end(self, sandbox: Any, owner: str, scenario: str) -> None:
        """End a sandbox in one of the ways there are."""
        if owner == "leave":
            return
        way = self.chance.choice(["stop", "stop at once", "delete", "abandon"])
        if owner == "detached" and way == "abandon":
            way = "stop"
        self.say(event="ending", id=sandbox.sandbox_id, how=way)
        if way == "abandon":  # the session, the end of the process or its death have to do it
            self.abandoned.append(sandbox)
        elif way == "delete" and scenario != "agent killed":  # an attached one that is lost leaves no record
            await self.face.Sandbox.delete(sandbox.sandbox_id)
        else:
            grace = 0 if scenario == "bomb" or way == "stop at once" else 5
            await sandbox.stop(graceful_shutdown_seconds=grace, missing_ok=True)

    async def output(self, sandbox: Any, size: int | None = None) -> None:
        """Compare what arrives on both streams with what was written, read in one of three ways."""
        sizes = [int(2 ** self.chance.uniform(0, most)) - 1 if size is None else size for most in (23, 18)]
        place, seed = f"/workspace/sums-{self.chance.getrandbits(64):x}", self.chance.getrandbits(32)
        process = sandbox.exec(["python3", "-c", WRITER, place, str(seed), *map(str, sizes)], timeout_seconds=60)
        way = self.chance.choice(["result", "bytes", "slowly"])
        if way == "result":
            result = await process
            got = [result.stdout_bytes, result.stderr_bytes]
        else:
            readers = (process.stdout.buffer, process.stderr.buffer)
            got = list(await asyncio.gather(*(_drain(reader, slow=way == "slowly") for reader in readers)))
            result = await process
            assert [result.stdout_bytes, result.stderr_bytes] == got, "the result differs from the stream"
        assert result.returncode == 0, result
        await self.compare(sandbox, place, got)

    async def lines(self, sandbox: Any) -> None:
        """Compare text that is no UTF-8, read by lines, with the result's."""
        place, size = f"/workspace/sums-{self.chance.getrandbits(64):x}", int(2 ** self.chance.uniform(0, 19))
        process = sandbox.exec(["python3", "-c", WRITER, place, str(self.chance.getrandbits(32)), str(size), "0"])
        text = "".join([piece async for piece in process.stdout])
        result = await process
        assert text == result.stdout == result.stdout_bytes.decode(errors="replace"), "the text differs"
        await self.compare(sandbox, place, [result.stdout_bytes, result.stderr_bytes])

    async def compare(self, sandbox: Any, place: str, got: list[bytes]) -> None:
        """Compare with the lengths and sums that the far end wrote to a file."""
        there = (await sandbox.read_file(place)).decode()
        here = " ".join(f"{len(data)} {hashlib.sha256(data).hexdigest()}" for data in got)
        assert here == there, f"here {here}, there {there}"
        self.say(event="did", what="outputs compared", bytes=sum(map(len, got)))

    async def input(self, sandbox: Any) -> None:
        """Compare the sum of what was sent with that of what arrived."""
        data = self.chance.randbytes(int(2 ** self.chance.uniform(0, 21)))
        if self.chance.random() < 0.5:
            result = await sandbox.exec(["sha256sum"], stdin=data)
        else:
            process, place = sandbox.exec(["sha256sum"], stdin=True), 0
            while place < len(data):
                piece = data[place : place + self.chance.choice((1000, 65536, 500_000))]
                await process.stdin.write(piece)
                place += len(piece)
            await process.stdin.close()
            result = await process
        assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest(), result
        self.say(event="did", what="inputs compared", bytes=len(data))

    async def files(self, sandbox: Any) -> None:
        """Compare a file's sum there and its bytes when they are back."""
        data = self.chance.randbytes(int(2 ** self.chance.uniform(0, 22)))
        await sandbox.write_file("/workspace/deep/data", data)
        result = await sandbox.exec(["sha256sum", "/workspace/deep/data"])
        assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest(), result
        assert await sandbox.read_file("/workspace/deep/data") == data, "the file came back changed"
        self.say(event="did", what="files compared", bytes=2 * len(data))

    async def cancel(self, sandbox: Any) -> None:
        """Cancel a command; it and its children are dead when that is said."""
        process = sandbox.exec(["sh", "-c", "sleep 600 & setsid sleep 600 & sleep 600"])
        await asyncio.sleep(self.chance.uniform(0, 0.1))
        assert process.cancel(), "nothing to cancel"
        with contextlib.suppress(asyncio.CancelledError, concurrent.futures.CancelledError):
            raise AssertionError(f"a cancelled command gave {await process!r}")
        await self.nothing_sleeps(sandbox)
        self.say(event="fired", what="command cancelled")

    async def waiter(self, sandbox: Any) -> None:
        """Cancel one who waits; the command goes on for the others."""
        process = sandbox.exec(["sh", "-c", "sleep 0.3; echo on"])

        async def wait() -> Any:
            return await process

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(self.chance.uniform(0, 0.1))
        assert waiting.cancel(), "nobody waited"
        await asyncio.wait([waiting])
        assert (await process).stdout == "on\n", "the command ended with its waiter"
        self.say(event="fired", what="waiter cancelled")

    async def timeout(self, sandbox: Any) -> None:
        """Let a command run out of time; its output until then is kept, its children are dead."""
        from aviato import SandboxTimeoutError  # noqa: PLC0415 - only clients load it

        process = sandbox.exec(
            ["sh", "-c", "echo begun; sleep 600 & setsid sleep 600 & sleep 600"],
            timeout_seconds=self.chance.uniform(0.1, 0.5),
        )
        result = None
        so_far = None
        try:
            result = await process
        except SandboxTimeoutError as error:
            so_far = error.exec_result
        assert so_far is not None, f"no time-out or no output, but {result!r}"
        assert "begun\n".startswith(so_far.stdout), so_far
        await self.nothing_sleeps(sandbox)
        self.say(event="fired", what="command timed out")

    async def nothing_sleeps(self, sandbox: Any) -> None:
        """Check that the sandbox works and that nothing of an ended command runs in it, a moment after its end."""
        until = time.monotonic() + 5
        while (count := (await sandbox.exec(["sh", "-c", SLEEPERS])).stdout) != "0\n":
            assert time.monotonic() < until, f"{count!r} processes outlived their command"
            self.say(event="did", what="looked again for children of an ended command")
            await asyncio.sleep(0.05)

    async def agent_killed(self, sandbox: Any) -> None:
        """Kill the sandbox's first process under a running command: it is lost, and says so."""
        from aviato import SandboxLostError  # noqa: PLC0415 - only clients load it

        process = sandbox.exec(["sh", "-c", "echo up; sleep 600"])
        async for _ in process.stdout:
            break
        await asyncio.sleep(self.chance.uniform(0, 0.05))
        self.say(event="ending", id=sandbox.sandbox_id, how="agent killed")
        record = json.loads((Path(self.home) / "sandboxes" / sandbox.sandbox_id / "record.json").read_text())
        os.kill(record["record"]["init"]["pid"], signal.SIGKILL)
        with contextlib.suppress(SandboxLostError):
            raise AssertionError(f"the agent is dead, and the command gave {await process!r}")
        with contextlib.suppress(SandboxLostError):
            raise AssertionError(f"the agent is dead, and {await sandbox.wait_until_complete(timeout=60)!r} is well")
        assert (sandbox.status, sandbox.exit_reason) == ("failed", "lost"), (sandbox, sandbox.exit_reason)
        self.say(event="fired", what="agent killed")

    async def start_stopped(self, sandbox: Any) -> None:
        """Stop a sandbox while it starts."""
        await asyncio.sleep(self.chance.uniform(0, 0.1))
        early = sandbox.status in {"pending", "creating"}
        self.say(event="ending", id=sandbox.sandbox_id, how="stopped at start")
        await sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True)
        if early:
            self.say(event="fired", what="start stopped half-way")

    async def bomb(self, sandbox: Any) -> None:
        """Leave processes running that ignore every polite signal."""
        async for line in sandbox.exec(["sh", "-c", BOMB]).stdout:
            assert line == "up\n", line
            break
        self.say(event="fired", what="bomb left running")

    async def other(self) -> None:
        """Use a sandbox of some other process, which is never stopped before the end."""
        found = await self.face.Sandbox.list(tags=["leave"], status="running")
        if found:
            await self.output(self.chance.choice(found), size=2000)
            self.say(event="did", what="used from another process")


async def _drain(reader: Any, *, slow: bool) -> bytes:
    pieces = []
    async for piece in reader:
        pieces.append(piece)
        if slow and len(pieces) < 50:
            await asyncio.sleep(0.002)
    return b"".join(pieces)


async def client_main(given: argparse.Namespace) -> None:
    """Be a client: work through a deck, several sandboxes at a time."""
    import aviato  # noqa: PLC0415 - only clients load it
    from aviato import aio  # noqa: PLC0415 - likewise

    chance = random.Random(given.seed)  # noqa: S311 - a seed is to repeat it
    face: Any = aio if chance.random() < 0.6 else aviato
    scenarios = list(DECK)
    chance.shuffle(scenarios)
    scenarios.remove("output")
    first_left = chance.randrange(4)
    scenarios.insert(first_left, "output")  # so that each client leaves one soon
    gate = asyncio.Semaphore(AT_ONCE)
    async with face.Session({"tags": ["soak"]}) as session:
        home = os.environ["AVIATO_HOME"]

        async def guarded(number: int, scenario: str) -> None:
            client = Client(face, random.Random(given.seed * 1000 + number), session, home)  # noqa: S311
            async with gate:
                try:
                    async with asyncio.timeout(STEP_SECONDS):
                        await client.one(scenario, leave=number == first_left)
                except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on and fails
                    text = f"{scenario}: {type(error).__name__}: {error}"
                    client.say(event="failed", what=text, seed=given.seed, number=number, face=face.__name__)
            kept.extend(client.abandoned)

        kept: list[Any] = []
        await asyncio.gather(*(guarded(number, scenario) for number, scenario in enumerate(scenarios[: given.count])))


# --- what is left on the machine


def _target(link: Path | str) -> str:
    return str(Path(link).readlink())


@attrs.define
class Traces:
    """What sandboxes of one state directory can leave, and how to tell theirs from everybody else's."""

    home: str
    namespaces: dict[str, str] = attrs.field(factory=dict)
    pinned: list[int] = attrs.field(factory=list)

    def watch(self) -> None:
        """Note the process namespaces of the sandboxes that are running."""
        for record in Path(self.home).glob("sandboxes/sbx-*/record.json"):
            if record.parent.name in self.namespaces.values():
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                pid = json.loads(record.read_text())["record"]["init"]["pid"]
                descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)  # kept, so that nobody else gets the number
                self.pinned.append(descriptor)
                space = _target(f"/proc/self/fd/{descriptor}")
                if space != _target("/proc/self/ns/pid"):
                    self.namespaces[space] = record.parent.name

    def directories(self) -> set[str]:
        """Return the ids that have a directory."""
        return {path.name for path in Path(self.home).glob("sandboxes/*")}

    def live(self) -> int:
        """Count the sandboxes that run."""
        return len(list(Path(self.home).glob("sandboxes/*/agent.sock")))

    def groups(self) -> set[str]:
        """Return the ids that have control groups of any state directory."""
        found = [*GROUPS.glob("*/aviato*/sbx-*"), *GROUPS.glob("aviato*/sbx-*")]
        found += [*GROUPS.glob("*/*/*/*/*/aviato*/sbx-*")]  # below a delegated group of systemd
        return {path.name for path in found}

    def processes(self, ids: set[str] | None = None) -> Iterator[str]:
        """Name processes that belong to sandboxes (of these ids only) or hold something of the state directory."""
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) == os.getpid():
                continue
            owner = self._owner(folder)
            if owner is None or (ids is not None and owner not in ids):
                continue
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:80].decode(errors="replace")
                if line:  # else it has ended and waits to be reaped
                    yield f"process {folder.name} of {owner}: {line!r}"

    def _owner(self, folder: Path) -> str | None:
        with contextlib.suppress(OSError):
            space = _target(folder / "ns/pid")
            if space in self.namespaces:
                return self.namespaces[space]
        marker = self.home.encode()
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if marker in (folder / name).read_bytes():
                    return self.home
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if _target(link).startswith(self.home + "/"):
                        return self.home
        return None

    def everything(self, ids: set[str]) -> list[str]:
        """List all that is left when nothing may be."""
        left = list(self.processes())
        left += [f"control group of {name}" for name in sorted(self.groups() & ids)]
        for file in ("/proc/self/mountinfo", "/proc/net/unix"):
            lines = Path(file).read_text().splitlines()
            left += [f"{file}: {line}" for line in lines if self.home in line or any(name in line for name in ids)]
        left += self._locks()
        home = Path(self.home)
        allowed = {home / "images/lock", home / "supervisors/log"}
        for path in sorted(home.rglob("*")):
            kept = path in allowed or (path.parent == home / "slots" and path.stat().st_size == 0)
            if not kept and not (path.is_dir() and not path.is_symlink() and len(path.relative_to(home).parts) <= 2):
                left.append(f"file {path}")
        left += [
            f"directory {path}" for path in sorted(home.glob("sandboxes/*")) + sorted(home.glob("supervisors/etc-*"))
        ]
        return list(dict.fromkeys(left))

    def _locks(self) -> list[str]:
        """List locks in the state directory, and locked id ranges of the machine that no living process explains."""
        own: dict[tuple[int, int], Path] = {}
        for path in Path(self.home).rglob("*"):
            with contextlib.suppress(OSError):
                own[path.stat().st_dev, path.stat().st_ino] = path
        slots: dict[tuple[int, int], Path] = {}
        with contextlib.suppress(OSError):
            slots = {(path.stat().st_dev, path.stat().st_ino): path for path in SLOTS.iterdir()}
        left = []
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            at = next(number for number, word in enumerate(fields) if word in {"READ", "WRITE"})
            pid, place = fields[at + 1], fields[at + 2]
            major, minor, inode = place.split(":")
            key = os.makedev(int(major, 16), int(minor, 16)), int(inode)
            if key in own:
                left.append(f"lock on {own[key]} held by {pid}")
            elif key in slots and not Path(f"/proc/{pid}").exists():
                left.append(f"lock on {slots[key]} held by {pid}, which is gone")
        return left


# --- the run


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
