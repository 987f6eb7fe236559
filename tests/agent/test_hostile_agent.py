"""A channel whose agent is an enemy: a typed error, at once, for everything that was asked, and bounded memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from aviato.agent.channel import Channel
from aviato.agent.frames import WINDOW
from aviato.exceptions import AgentProtocolError, AviatoError, EngineConnectionError, SandboxTerminatedError
from tests.agent.behaviours import BEHAVIOURS, HELLOS, Behaviour
from tests.agent.enemy import STREAM, WELCOME, Enemy, Pipe, Streams
from tests.agent.harness import Recorder

pytestmark = pytest.mark.fault("F19")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

MEMORY = 16 << 20


async def chunks() -> AsyncIterator[bytes]:
    """Give a small file."""
    yield b"abc"


async def read(channel: Channel) -> bytes:
    """Read ten bytes at most."""
    return b"".join([piece async for piece in channel.read_file("/f", length=10)])


def ask_everything(channel: Channel) -> tuple[list[Awaitable[object]], Recorder]:
    """Ask for one of each thing, and for a second command; give what to wait for, and the first command."""
    recorder, other = Recorder(consume=False), Recorder()
    channel.exec(["other"], other, process_id=STREAM - 1)
    recorder.remote = channel.exec(["true"], recorder, stdin=True, process_id=STREAM)
    recorder.remote.send_stdin(b"in")
    requests = [read(channel), channel.write_file("/f", chunks()), channel.ping(30), channel.extend(30)]
    return [recorder.end, other.end, *map(asyncio.ensure_future, requests)], recorder


def speech(case: Behaviour, spoken: asyncio.Event) -> Any:
    """Make the script of a case."""

    def script(pipe: Pipe, streams: Streams) -> None:
        data = case.say(streams)
        step = case.piece or max(1, len(data))
        for start in range(0, len(data), step):
            pipe.say(data[start : start + step])
        if case.hangs_up:
            pipe.abort()
        spoken.set()

    return script


@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_behaviour(name: str) -> None:
    """Every operation settles, with a value or with an error that the case allows, and nothing else is raised."""
    spoken = asyncio.Event()
    case = BEHAVIOURS[name]
    await withstand(Enemy(script=speech(case, spoken)), case, spoken)


async def withstand(enemy: Enemy, case: Behaviour, spoken: asyncio.Event) -> None:
    """Ask for everything, and see that it ends as the case allows."""
    loop = asyncio.get_running_loop()
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: unexpected.append(context))
    await enemy.channel.open(5)
    tracemalloc.start()
    try:
        operations, recorder = ask_everything(enemy.channel)
        async with asyncio.timeout(20):
            await spoken.wait()
            errors = case.errors
            if case.survives:
                await enemy.is_heard(operations)
                assert not enemy.channel.closed
                await enemy.channel.close()
                errors = (*errors, SandboxTerminatedError)
            results = await asyncio.gather(*operations, return_exceptions=True)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    failed = [result for result in results if isinstance(result, BaseException)]
    assert [result for result in failed if not isinstance(result, errors)] == []
    assert len(failed) >= len(results) - 1  # one at most was answered as it should be
    for kind in case.errors:
        assert any(isinstance(result, kind) for result in failed), kind
    assert enemy.channel.closed
    with pytest.raises(errors):
        enemy.channel.exec(["true"], Recorder())
    assert sum(recorder.totals.values()) <= WINDOW
    assert not enemy.channel._replies
    assert await enemy.is_left()
    await enemy.channel.close()
    gc.collect()  # an exception nobody asked for would be told now
    assert unexpected == []


@pytest.mark.parametrize("piece", [1, 1 << 20], ids=["dripped", "whole"])
@pytest.mark.parametrize("hello", HELLOS)
async def test_lies_at_hello(hello: str, piece: int) -> None:
    """What is no welcome is refused, however it arrives."""
    enemy = Enemy(welcome=b"")
    opening = asyncio.ensure_future(enemy.channel.open(20))
    await asyncio.sleep(0)
    assert enemy.pipe is not None
    for start in range(0, len(HELLOS[hello]), piece):
        enemy.pipe.say(HELLOS[hello][start : start + piece])
    with pytest.raises(AgentProtocolError):
        await opening
    assert enemy.pipe.aborted
    await enemy.channel.close()


@pytest.mark.parametrize("said", [0, 1, 12, 13, len(WELCOME) - 1])
async def test_dies_in_the_hello(said: int) -> None:
    """An agent that hangs up in the middle of its welcome is an error, not a wait."""
    enemy = Enemy(welcome=b"")
    opening = asyncio.ensure_future(enemy.channel.open(20))
    await asyncio.sleep(0)
    assert enemy.pipe is not None
    enemy.pipe.say(WELCOME[:said])
    enemy.pipe.abort()
    with pytest.raises(EngineConnectionError, match="lost"):
        await opening
    await enemy.channel.close()


@pytest.mark.parametrize("said", [0, 5, len(WELCOME) - 1])
async def test_silence_at_hello(said: int) -> None:
    """An agent that does not finish its welcome is a timeout that names the stage."""
    enemy = Enemy(welcome=WELCOME[:said])
    with pytest.raises(EngineConnectionError, match=r"within 0\.05 s \(.*waiting for the agent's hello\)"):
        await enemy.channel.open(0.05)
    await enemy.channel.close()


async def test_silence_at_connect() -> None:
    """A connection that never comes is a timeout that names the stage."""

    async def connect(_protocol: asyncio.Protocol) -> asyncio.Transport:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(EngineConnectionError, match=r"\(connecting\)"):
        await Channel(connect, sandbox_id="sbx-enemy").open(0.05)


async def test_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that answers nothing after its welcome costs each request its own limit and no more."""
    monkeypatch.setattr("aviato.agent.channel._SHUTDOWN_MARGIN", 0.01)
    enemy = Enemy()
    await enemy.channel.open(5)
    for attempt in (enemy.channel.ping(0.01), enemy.channel.shutdown(0.01)):
        with pytest.raises(EngineConnectionError, match="did not"):
            await attempt
    assert not enemy.channel.closed
    await enemy.channel.close()


async def test_any_error_is_of_the_tree() -> None:
    """What the table allows are all errors of this library."""
    assert all(issubclass(kind, AviatoError) for case in BEHAVIOURS.values() for kind in case.errors)
    assert len(BEHAVIOURS) >= 100
