"""Connections that break while things go on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from aviato.agent.channel import Channel
from aviato.agent.frames import Which
from aviato.exceptions import EngineConnectionError, Outcome, SandboxTerminatedError
from tests.agent.harness import python, run, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.agent.harness import AgentProcess

NUMBERS = "import sys\nfor n in range(400000): sys.stdout.write('%d\\n' % n); n % 7 or sys.stderr.write('%d\\n' % n)"


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_lost_or_doubled(agent: AgentProcess, channel: Channel, seed: int) -> None:
    """Cut at random points, both outputs are still complete and in order."""
    chance = random.Random(seed)
    recorder = python(channel, NUMBERS)
    cuts = 0
    position = 0
    while not recorder.end.done():
        position += chance.randrange(1, 900_000)
        while recorder.totals[Which.STDOUT] < position and not recorder.end.done():
            recorder.changed.clear()
            if recorder.end.done():
                break
            await recorder.changed.wait()
        agent.cut()
        cuts += 1
    status = await recorder.end
    assert status.returncode == 0
    assert cuts > 2
    assert recorder.stdout == b"".join(b"%d\n" % number for number in range(400_000))
    assert recorder.stderr == b"".join(b"%d\n" % number for number in range(0, 400_000, 7))


async def test_input_survives(agent: AgentProcess, channel: Channel) -> None:
    """Input that was on its way is sent again, and none of it twice."""
    data = os.urandom(4_000_000)
    recorder = run(channel, "cat", stdin=True)
    feeding = asyncio.create_task(recorder.feed(data))
    for size in range(500_000, 4_000_000, 700_000):
        await recorder.until(size)
        agent.cut()
    await feeding
    assert (await recorder.end).stdout_total == len(data)
    assert hashlib.sha256(recorder.stdout).digest() == hashlib.sha256(data).digest()


async def test_cut_before_started(agent: AgentProcess, channel: Channel, tmp_path: Path) -> None:
    """A start whose answer was lost is repeated, and the command runs once."""
    log = tmp_path / "log"
    recorders = []
    for _ in range(6):
        recorders.append(shell(channel, f"echo run >> {log}"))
        await asyncio.sleep(0)  # the frame leaves in this turn of the loop
        agent.cut()
        await asyncio.gather(*(recorder.end for recorder in recorders))
    assert log.read_text() == "run\n" * 6


async def test_end_while_away(agent: AgentProcess, channel: Channel, tmp_path: Path) -> None:
    """A command that ended while nobody was connected is told after."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    recorder = shell(channel, f"cat {fifo}; exit 5")
    await recorder.started.wait()
    agent.cut()
    await asyncio.get_running_loop().run_in_executor(None, fifo.write_text, "while away")
    assert (await recorder.end).returncode == 5
    assert recorder.stdout == b"while away"


async def test_start_and_signal_while_away(agent: AgentProcess, channel: Channel) -> None:
    """What is asked for while the connection is down happens when it is back."""
    agent.cut()
    await asyncio.sleep(0)  # the loss is noticed
    recorder = run(channel, "sleep", "600")
    assert recorder.remote is not None
    recorder.remote.signal(signal.SIGTERM)
    assert (await recorder.end).signal == signal.SIGTERM


async def test_broken_read(agent: AgentProcess, channel: Channel) -> None:
    """A read that is cut says so."""
    with pytest.raises(EngineConnectionError, match="broke"):
        async for _ in channel.read_file("/proc/kallsyms" if os.access("/proc/kallsyms", os.R_OK) else "/etc/services"):
            agent.cut()
            await asyncio.sleep(0.01)  # whatever was queued is read first
    assert (await run(channel, "true").end).returncode == 0


async def test_broken_write(agent: AgentProcess, channel: Channel, tmp_path: Path) -> None:
    """A write that is cut before its end did not take place, and leaves nothing."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"begin"
        await channel.ping(5)
        agent.cut()
        await asyncio.sleep(0)
        yield b"end"

    with pytest.raises(EngineConnectionError) as caught:
        await channel.write_file(str(tmp_path / "sub/file"), chunks())
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert (await shell(channel, f"ls -A {tmp_path}/sub").end).stdout_total == 0


async def test_sandbox_that_ended_stops_the_retries(agent: AgentProcess) -> None:
    """What `connect` says of an ended sandbox is what its commands end with."""
    ended = False

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        if ended:
            raise SandboxTerminatedError("it was stopped")
        return await agent.connect(protocol)

    channel = Channel(connect, sandbox_id="sbx-test")
    agent.channels.append(channel)
    await channel.open(5)
    recorder = run(channel, "sleep", "600")
    await recorder.started.wait()
    ended = True
    agent.cut()
    with pytest.raises(SandboxTerminatedError, match="it was stopped"):
        await recorder.end
    assert channel.closed
    with pytest.raises(SandboxTerminatedError):
        run(channel, "true")


async def test_gives_up_after_a_while(agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that stays away is an error in bounded time."""
    monkeypatch.setattr("aviato.agent.channel.RECONNECT_SECONDS", 0.2)
    away = False

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        if away:
            raise ConnectionRefusedError("not there")
        return await agent.connect(protocol)

    channel = Channel(connect, sandbox_id="sbx-test")
    agent.channels.append(channel)
    await channel.open(5)
    recorder = run(channel, "sleep", "600")
    await recorder.started.wait()
    away = True
    agent.cut()
    with pytest.raises(EngineConnectionError, match=r"could not be made again within 0\.2 s"):
        await recorder.end


async def test_close_loses_what_is_open(channel: Channel) -> None:
    """Closing fails open commands and requests, and is idempotent."""
    recorder = run(channel, "sleep", "600")
    await recorder.started.wait()
    await channel.close()
    with pytest.raises(SandboxTerminatedError, match="was closed"):
        await recorder.end
    await channel.close()
    with pytest.raises(SandboxTerminatedError):
        await channel.ping(1)
