"""A client process of the soak: it works through a deck of scenarios and reports what happened."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import attrs

STEP_SECONDS = 120.0
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
