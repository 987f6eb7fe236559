"""A container whose agent is an enemy, behind the stream that a daemon hands over: the same table, the same ends.

Beside what the agent may say to the channel, whoever holds the program in the container may lie about who it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from aviato.agent.channel import Channel
from aviato.engines.base import SandboxSpec
from aviato.engines.docker import hijack, stage
from aviato.engines.docker.container import make_plan
from aviato.engines.docker.endpoint import Endpoint
from aviato.engines.docker.engine import DockerEngine
from aviato.exceptions import EngineConnectionError, EngineError
from tests.agent.behaviours import BEHAVIOURS
from tests.agent.enemy import Enemy, Pipe, Streams
from tests.agent.test_hostile_agent import speech, withstand
from tests.docker.conftest import ID, VERSION

NO_TIME = "0001-01-01T00:00:00Z"


def container(status: str) -> dict[str, Any]:
    """Describe the container as `inspect` does."""
    plan = make_plan(SandboxSpec(sandbox_id=ID), {"Id": "sha256:1"}, "image", "token", {})
    state = {"Status": status, "StartedAt": NO_TIME, "FinishedAt": NO_TIME, "ExitCode": 137, "Error": ""}
    return {"Id": "c", "Name": f"/{ID}", "State": state, "Config": {"Labels": plan.body["Labels"], "Env": []}}


class Hijacked(asyncio.Protocol):
    """One connection to a daemon by the book; a stream into the container is the enemy's.

    Attributes:
        aborted: The client has hung up.
    """

    def __init__(self, enemy: DockerEnemy) -> None:
        self.enemy = enemy
        self.buffer = b""
        self.hijacked = self.aborted = False
        self.left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.aborted = True
        self.left.set()

    def data_received(self, data: bytes) -> None:
        """Answer a request, or hand what is said to the enemy."""
        if self.hijacked:
            self.enemy.on_write(self, data)  # type: ignore[arg-type]  # it speaks and hangs up as a Pipe does
            return
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        if end and len(body) >= length:
            self.buffer = b""
            self.answer(head.split()[1].decode())

    def answer(self, path: str) -> None:
        """Answer as a daemon does."""
        path = path.removeprefix("/v1.41")
        if path.startswith("/exec/"):
            self.hijacked, self.enemy.stream = True, self
            self.transport.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            self.say(self.enemy.greeting)
            return
        used = self.enemy.stream is not None and self.enemy.greeting == stage.GREETING
        table: dict[str, Any] = {
            "/version": VERSION,
            "/info": {"ServerVersion": "27.0"},
            f"/containers/{ID}/json": container("exited" if used else "running"),
            "/containers/c/exec": {"Id": "e"},
        }
        content = json.dumps(table[path]).encode() if path in table else b""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.transport.write(head.encode() + content)

    def say(self, data: bytes) -> None:
        """Speak as the program in the container, through the daemon."""
        if data:
            self.transport.write(bytes([1, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)

    def abort(self) -> None:
        """Hang up behind what was said."""
        self.transport.close()


class DockerEnemy(Enemy):
    """An enemy in a container; the engine connects to it."""

    def __init__(
        self, folder: Path, script: Callable[[Pipe, Streams], None] | None = None, greeting: bytes = stage.GREETING
    ) -> None:
        super().__init__(script=script)
        self.endpoint = Endpoint("unix", str(folder / "docker.sock"))
        self.engine = DockerEngine(self.endpoint)
        self.greeting = greeting
        self.stream: Hijacked | None = None
        self.channel = Channel(lambda protocol: self.engine.connect(ID, protocol), sandbox_id=ID)

    async def __aenter__(self) -> Self:
        """Start the daemon."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_unix_server(lambda: Hijacked(self), self.endpoint.address)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End it."""
        await self.engine.close()
        self.server.close()

    async def is_heard(self, operations: Sequence[Awaitable[object]]) -> None:
        """Wait until an operation has ended, or for what ends none, as long as bytes take."""
        tasks = [asyncio.ensure_future(operation) for operation in operations]
        await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)

    async def is_left(self) -> bool:
        """Wait until the client has hung up."""
        assert self.stream is not None
        async with asyncio.timeout(5):
            await self.stream.left.wait()
        return True


@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_behaviour(name: str, tmp_path: Path) -> None:
    """Every operation settles, with a value or with an error that the case allows, and nothing else is raised."""
    case, spoken = BEHAVIOURS[name], asyncio.Event()
    async with DockerEnemy(tmp_path, speech(case, spoken)) as enemy:
        await withstand(enemy, case, spoken)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for less."""
    monkeypatch.setattr(hijack, "ANSWER_SECONDS", 0.2)


@pytest.mark.parametrize(
    "greeting", [b"", b"avia", b"AVIATO\n", b"OCI runtime exec failed: no python3", bytes(1 << 20)], ids=len
)
async def test_a_program_that_does_not_say_who_it_is(short: None, tmp_path: Path, greeting: bytes) -> None:
    """It is no agent: an error in time, and the stream is let go."""
    del short
    async with DockerEnemy(tmp_path, greeting=greeting) as enemy:
        with pytest.raises(EngineError) as caught:
            await enemy.engine.connect(ID, asyncio.Protocol())
        assert isinstance(caught.value, EngineConnectionError)
        assert len(str(caught.value)) < 10_000
        assert await enemy.is_left()
