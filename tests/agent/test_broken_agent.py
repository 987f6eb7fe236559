"""An agent that is sly over time: hang-ups again and again, late words, floods, and faults of this side."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from aviato.agent.channel import Channel
from aviato.agent.frames import S_ERROR, S_OFFSET, S_STARTED, FrameReader, FrameType, Which, pack_strings
from aviato.exceptions import AgentProtocolError, EngineConnectionError, SandboxExecutionError
from tests.agent.enemy import FLOOD, STARTED, STREAM, WELCOME, Enemy, Pipe, end, frame, out
from tests.agent.harness import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


async def test_hangs_up_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that welcomes and hangs up each time is given up in bounded time and tries."""
    monkeypatch.setattr("aviato.agent.channel.RECONNECT_SECONDS", 0.3)
    tries = 0

    def on_write(pipe: Pipe, data: bytes) -> None:
        if next(FrameReader().feed(data)).type == FrameType.HELLO:
            pipe.say(WELCOME)
            asyncio.get_running_loop().call_later(0.001, pipe.abort)

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        nonlocal tries
        tries += 1
        pipe = Pipe(protocol, on_write)
        protocol.connection_made(pipe)
        return pipe

    channel = Channel(connect, sandbox_id="sbx-enemy")
    await channel.open(5)
    recorder = Recorder()
    channel.exec(["true"], recorder)
    with pytest.raises(EngineConnectionError):
        await recorder.end
    assert tries < 40
    await channel.close()


async def test_input_closed_while_away() -> None:
    """An honest agent says after a broken connection that the input is closed, and then how much of it was taken."""
    pipes: list[Pipe] = []

    def on_write(pipe: Pipe, data: bytes) -> None:
        for type_, _, _ in FrameReader().feed(data):
            if type_ == FrameType.HELLO:
                pipe.say(WELCOME)
            elif type_ == FrameType.START:
                pipe.say(STARTED)
                pipe.abort()
            elif type_ == FrameType.ATTACH:
                pipe.say(frame(FrameType.STDIN_CLOSED) + frame(FrameType.STARTED, S_STARTED.pack(5, 2)) + end(3))

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        pipes.append(Pipe(protocol, on_write))
        protocol.connection_made(pipes[-1])
        return pipes[-1]

    channel = Channel(connect, sandbox_id="sbx-test")
    await channel.open(5)
    recorder = Recorder()
    recorder.remote = channel.exec(["true"], recorder, stdin=True, process_id=STREAM)
    recorder.remote.send_stdin(b"in")
    assert (await recorder.end).returncode == 3
    assert len(pipes) == 2
    assert not channel.closed
    await channel.close()


def liar(enemy: Enemy, kind: int, lie: Callable[[int], bytes]) -> None:
    """Make the enemy answer requests of a kind on the stream they came on."""

    def on_write(pipe: Pipe, data: bytes) -> None:
        for type_, stream, _ in enemy.reader.feed(data):
            if type_ == FrameType.HELLO:
                pipe.say(WELCOME)
            elif type_ == kind:
                pipe.say(lie(stream))

    enemy.on_write = on_write  # type: ignore[method-assign]  # this enemy's own way


async def test_end_of_a_write_before_its_end() -> None:
    """A file that is in place before it was sent is a lie."""
    enemy = Enemy()
    liar(enemy, FrameType.FILE_WRITE, lambda stream: frame(FrameType.FILE_END, S_OFFSET.pack(0), stream=stream))
    await enemy.channel.open(5)

    async def chunks() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    writing = asyncio.create_task(enemy.channel.write_file("/f", chunks()))
    with pytest.raises(AgentProtocolError):
        await enemy.channel.ping(5)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_flood_on_a_released_stream() -> None:
    """What comes for a released stream is tolerated up to a bound, and kept nowhere."""
    enemy = Enemy()
    await enemy.channel.open(5)
    recorder = Recorder()
    remote = enemy.channel.exec(["true"], recorder, process_id=STREAM)
    remote.release()
    assert enemy.pipe is not None
    enemy.pipe.say(out(123, b"late"))
    assert not enemy.channel.closed
    tracemalloc.start()
    try:
        for _ in range(100):
            enemy.pipe.say(FLOOD)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(AgentProtocolError, match="released"):
        await enemy.channel.ping(5)


async def test_links_share_their_buffer() -> None:
    """Output in two pieces, another connection's between them, is whole, and so is what was given out before."""
    begun = STARTED + out(0, b"first") + out(0, b"second", FrameType.STDERR)
    sent = out(5, bytes(range(256)) * 400) + end(out=5 + 256 * 400, err=6)
    half = len(sent) // 2
    recorders = [Recorder(), Recorder()]
    enemies = [Enemy(), Enemy()]
    for enemy, recorder in zip(enemies, recorders, strict=True):
        await enemy.channel.open(5)
        enemy.channel.exec(["true"], recorder, process_id=STREAM)
    for piece in (begun, sent[:half], sent[half:]):
        for enemy in enemies:
            assert enemy.pipe is not None
            enemy.pipe.say(piece)
    for enemy, recorder in zip(enemies, recorders, strict=True):
        await recorder.end
        assert b"".join(recorder.output[Which.STDOUT]) == b"first" + bytes(range(256)) * 400
        assert b"".join(recorder.output[Which.STDERR]) == b"second"
        await enemy.channel.close()


async def test_printable_errors() -> None:
    """A message of the agent reaches no terminal as an escape."""
    text = pack_strings(["\x1b[31mé\n\udc80".encode("utf-8", "surrogatepass")])
    enemy = Enemy(answers={FrameType.START: frame(FrameType.ERROR, S_ERROR.pack(13), text)})
    await enemy.channel.open(5)
    recorder = Recorder()
    enemy.channel.exec(["true"], recorder, process_id=STREAM)
    with pytest.raises(SandboxExecutionError) as caught:
        await recorder.end
    assert caught.value.message.isprintable()
    assert "é" in caught.value.message
    await enemy.channel.close()


async def test_failing_sink_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a receiver on this side is told to the loop and drops the channel; nothing is lost in silence."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    enemy = Enemy(answers={FrameType.START: STARTED})
    await enemy.channel.open(5)
    recorder = Recorder()

    def fail(_pid: int) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(recorder, "process_started", fail)
    enemy.channel.exec(["true"], recorder, process_id=STREAM)
    with pytest.raises(EngineConnectionError, match="receiver"):
        await recorder.end
    assert isinstance(told[0]["exception"], LookupError)
