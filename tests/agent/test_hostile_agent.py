"""A channel whose agent is an enemy: one error, at once, and bounded memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviato.agent.channel import Channel
from aviato.agent.frames import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    S_CLOSING,
    S_CREDIT,
    S_ERROR,
    S_EXIT,
    S_OFFSET,
    S_STARTED,
    S_WELCOME,
    WINDOW,
    FrameReader,
    FrameType,
    pack_frame,
    pack_strings,
)
from aviato.exceptions import AgentProtocolError, AviatoError, EngineConnectionError, SandboxExecutionError
from tests.agent.harness import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WELCOME = pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, 1, 0), pack_strings([b"3.11", b"x86_64"]))
STREAM = 77


class Pipe(asyncio.Transport):
    """A transport with no other end; what the channel writes goes to a function."""

    def __init__(self, protocol: asyncio.Protocol, on_write: Callable[[Pipe, bytes], None]) -> None:
        super().__init__()
        self.protocol = protocol
        self.on_write = on_write
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand to the script, as another turn of the loop would."""
        asyncio.get_running_loop().call_soon(self.on_write, self, bytes(data))

    def abort(self) -> None:
        """Close."""
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def say(self, data: bytes) -> None:
        """Speak as the agent."""
        if not self.aborted:
            self.protocol.data_received(data)


class Enemy:
    """Answers the first hello, then every frame as the script says; refuses to be connected to again."""

    def __init__(self, welcome: bytes = WELCOME, answers: dict[int, bytes] | None = None) -> None:
        self.welcome = welcome
        self.answers = answers or {}
        self.reader = FrameReader()
        self.pipe: Pipe | None = None
        self.channel = Channel(self.connect, sandbox_id="sbx-enemy")

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect once."""
        if self.pipe is not None:
            raise AviatoError("only once")
        self.pipe = Pipe(protocol, self.on_write)
        protocol.connection_made(self.pipe)
        return self.pipe

    def on_write(self, pipe: Pipe, data: bytes) -> None:
        """Answer."""
        for type_, _, _ in self.reader.feed(data):
            answer = self.welcome if type_ == FrameType.HELLO else self.answers.get(type_)
            if answer is not None:
                pipe.say(answer)


def frame(type_: int, *parts: bytes, stream: int = STREAM) -> bytes:
    """Pack a frame about the command."""
    return pack_frame(type_, stream, *parts)


STARTED = frame(FrameType.STARTED, S_STARTED.pack(5, 0))


def out(offset: int, data: bytes, type_: int = FrameType.STDOUT) -> bytes:
    """Pack output."""
    return frame(type_, S_OFFSET.pack(offset), data)


def end(returncode: int = 0, signal: int = 0, flags: int = 0, out: int = 0, err: int = 0) -> bytes:
    """Pack an exit."""
    return frame(FrameType.EXIT, S_EXIT.pack(returncode, signal, flags, 1, out, err))


FLOOD = b"".join(out(start, bytes(65536)) for start in range(0, 2 * WINDOW, 65536))
LIES = {
    "unknown type": frame(200),
    "client's own type": frame(FrameType.START, b""),
    "unknown stream": frame(FrameType.STDOUT, S_OFFSET.pack(0), b"x", stream=78),
    "stream nobody opened ends": pack_frame(FrameType.EXIT, 99, S_EXIT.pack(0, 0, 0, 0, 0, 0)),
    "second welcome": WELCOME,
    "too large": HEADER.pack(MAX_PAYLOAD + 1, FrameType.STDOUT, STREAM),
    "length of 4 GiB": b"\xff" * 13 + bytes(100_000),
    "offset ahead": STARTED + out(1, b"x"),
    "offset repeated": STARTED + out(0, b"x") + out(0, b"x"),
    "offset huge": STARTED + out(2**64 - 1, b"x"),
    "empty output": STARTED + out(0, b""),
    "output without offset": STARTED + frame(FrameType.STDOUT, b"1234"),
    "more than credit": STARTED + FLOOD,
    "two starts": STARTED + STARTED,
    "pid 0": frame(FrameType.STARTED, S_STARTED.pack(0, 0)),
    "input that was not sent": frame(FrameType.STARTED, S_STARTED.pack(5, 1)),
    "short start": frame(FrameType.STARTED, b"\0"),
    "ack that was not sent": STARTED + frame(FrameType.ACK, S_OFFSET.pack(1)),
    "ack of nothing": STARTED + frame(FrameType.ACK, S_OFFSET.pack(0)),
    "long ack": STARTED + frame(FrameType.ACK, bytes(9)),
    "two ends": STARTED + end() + end(),
    "output after the end": STARTED + end() + out(0, b"x"),
    "totals too large": STARTED + end(out=1),
    "totals too small": STARTED + out(0, b"x") + end(),
    "stderr missing": STARTED + end(err=5),
    "short exit": STARTED + frame(FrameType.EXIT, bytes(5)),
    "negative code": STARTED + end(-1),
    "code of 256": STARTED + end(256),
    "signal without its code": STARTED + end(0, 9),
    "unknown exit flag": STARTED + end(flags=4),
    "gap backwards": STARTED + out(0, b"xy") + frame(FrameType.GAP, S_CREDIT.pack(1, 1)),
    "gap beyond credit": STARTED + frame(FrameType.GAP, S_CREDIT.pack(1, WINDOW + 1)),
    "gap in a third output": STARTED + frame(FrameType.GAP, S_CREDIT.pack(3, 5)),
    "input closed twice": STARTED + frame(FrameType.STDIN_CLOSED) * 2,
    "input closed with data": STARTED + frame(FrameType.STDIN_CLOSED, b"x"),
    "file end of a command": STARTED + frame(FrameType.FILE_END, S_OFFSET.pack(0)),
    "error cut short": frame(FrameType.ERROR, b"\0"),
    "error with a million texts": frame(FrameType.ERROR, S_ERROR.pack(1), b"\x00\x0f\xff\xff"),
    "error with a long text": frame(FrameType.ERROR, S_ERROR.pack(1), pack_strings([bytes(5000)])),
    "pong to nothing": pack_frame(FrameType.PONG, 0, b""),
    "pong on a command": frame(FrameType.PONG),
    "extended unasked": pack_frame(FrameType.EXTENDED, 0),
    "end for an unknown reason": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(9, 0)),
    "end with an impossible code": pack_frame(FrameType.CLOSING, 0, S_CLOSING.pack(1, 999)),
    "end cut short": pack_frame(FrameType.CLOSING, 0, b"\1"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_a_command(lie: str) -> None:
    """Whatever may not be said ends the channel with `AgentProtocolError`, and the command with it."""
    enemy = Enemy(answers={FrameType.START: LIES[lie]})
    await enemy.channel.open(5)
    recorder = Recorder()
    other = Recorder()
    enemy.channel.exec(["other"], other, process_id=STREAM - 1)
    recorder.remote = enemy.channel.exec(["true"], recorder, process_id=STREAM)
    recorder.consume = False
    with pytest.raises(AgentProtocolError):
        await other.end
    assert recorder.end.done()
    assert enemy.channel.closed
    assert sum(recorder.totals.values()) <= WINDOW
    with pytest.raises(AgentProtocolError):
        enemy.channel.exec(["true"], Recorder())
    await enemy.channel.close()


HELLOS = {
    "not a welcome": STARTED,
    "magic": pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(b"EVIL", 1, 0), pack_strings([b"", b""])),
    "version": pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, 2, 0), pack_strings([b"", b""])),
    "three facts": pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, 1, 0), pack_strings([b""] * 3)),
    "long fact": pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, 1, 0), pack_strings([b"", b"x" * 300])),
    "terminal escape": pack_frame(FrameType.WELCOME, 0, S_WELCOME.pack(MAGIC, 1, 0), pack_strings([b"\x1b[2J", b""])),
    "cut short": pack_frame(FrameType.WELCOME, 0, b"AV"),
    "other stream": pack_frame(FrameType.WELCOME, 5, WELCOME[13:]),
    "refusal": pack_frame(FrameType.ERROR, 0, S_ERROR.pack(71), pack_strings([b"no common version"])),
    "noise": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("hello", HELLOS)
async def test_lies_at_hello(hello: str) -> None:
    """What is no welcome is refused."""
    enemy = Enemy(welcome=HELLOS[hello])
    with pytest.raises(AgentProtocolError):
        await enemy.channel.open(5)
    assert enemy.pipe is not None
    assert enemy.pipe.aborted
    await enemy.channel.close()


async def test_silence_at_hello() -> None:
    """An agent that says nothing is a timeout that names the stage."""
    enemy = Enemy(welcome=b"")
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


async def test_hangs_up_at_hello() -> None:
    """An agent that hangs up is an error, not a wait."""
    enemy = Enemy()
    enemy.on_write = lambda pipe, _data: pipe.abort()  # type: ignore[method-assign, assignment]  # this enemy's own way
    with pytest.raises(EngineConnectionError, match="lost"):
        await enemy.channel.open(5)


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


DATA = S_OFFSET.pack(0) + b"x"
FILE_LIES: dict[str, Callable[[int], bytes]] = {
    "offset": lambda stream: frame(FrameType.STDOUT, S_OFFSET.pack(5), b"x", stream=stream),
    "empty": lambda stream: frame(FrameType.STDOUT, S_OFFSET.pack(0), stream=stream),
    "beyond length": lambda stream: frame(FrameType.STDOUT, S_OFFSET.pack(0), b"x" * 11, stream=stream),
    "other end": lambda stream: frame(FrameType.FILE_END, S_OFFSET.pack(5), stream=stream),
    "start": lambda stream: frame(FrameType.STARTED, S_STARTED.pack(5, 0), stream=stream),
    "two ends": lambda stream: frame(FrameType.FILE_END, S_OFFSET.pack(0), stream=stream) * 2,
    "short": lambda stream: frame(FrameType.FILE_END, b"", stream=stream),
}


def liar(enemy: Enemy, kind: int, lie: Callable[[int], bytes]) -> None:
    """Make the enemy answer requests of a kind on the stream they came on."""

    def on_write(pipe: Pipe, data: bytes) -> None:
        for type_, stream, _ in enemy.reader.feed(data):
            if type_ == FrameType.HELLO:
                pipe.say(WELCOME)
            elif type_ == kind:
                pipe.say(lie(stream))

    enemy.on_write = on_write  # type: ignore[method-assign]  # this enemy's own way


@pytest.mark.parametrize("lie", FILE_LIES)
async def test_lies_about_a_read(lie: str) -> None:
    """A read whose agent lies is `AgentProtocolError`."""
    enemy = Enemy()
    liar(enemy, FrameType.FILE_READ, FILE_LIES[lie])
    await enemy.channel.open(5)
    waiting = asyncio.create_task(enemy.channel.ping(5))
    reading = enemy.channel.read_file("/f", length=10)
    if lie == "two ends":
        assert [piece async for piece in reading] == []
    else:
        with pytest.raises(AgentProtocolError):
            await anext(reading)
    with pytest.raises(AgentProtocolError):
        await waiting
    await enemy.channel.close()


WRITE_LIES: dict[str, Callable[[int], bytes]] = {
    "ack too much": lambda stream: frame(FrameType.ACK, S_OFFSET.pack(4), stream=stream),
    "ack nothing": lambda stream: frame(FrameType.ACK, S_OFFSET.pack(0), stream=stream),
    "end too small": lambda stream: frame(FrameType.FILE_END, S_OFFSET.pack(2), stream=stream),
    "output": lambda stream: frame(FrameType.STDOUT, DATA, stream=stream),
}


@pytest.mark.parametrize("lie", WRITE_LIES)
async def test_lies_about_a_write(lie: str) -> None:
    """A write whose agent lies is `AgentProtocolError`."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"

    enemy = Enemy()
    liar(enemy, FrameType.STDIN_EOF, WRITE_LIES[lie])
    await enemy.channel.open(5)
    with pytest.raises(AgentProtocolError):
        await enemy.channel.write_file("/f", chunks())
    await enemy.channel.close()


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


ANSWER = st.one_of(
    st.binary(max_size=60),
    st.builds(
        pack_frame,
        st.sampled_from([*map(int, FrameType), 0, 255]),
        st.sampled_from([0, STREAM, STREAM, STREAM, 5]),
        st.one_of(st.binary(max_size=40), st.integers(0, 50).map(lambda n: S_OFFSET.pack(n) + b"data")),
    ),
    st.sampled_from([STARTED, out(0, b"ab"), out(2, b"cd", FrameType.STDOUT), end(out=2), end()]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ANSWER, max_size=12))
def test_any_answers(answers: list[bytes]) -> None:
    """Whatever an agent says, the command ends with a status or one error of the tree, and nothing else is raised."""

    async def check() -> None:
        unexpected: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unexpected.append(context))
        enemy = Enemy(answers={FrameType.START: b"".join(answers)})
        await enemy.channel.open(5)
        recorder = Recorder()
        recorder.remote = enemy.channel.exec(["true"], recorder, stdin=True, process_id=STREAM)
        recorder.remote.send_stdin(b"in")
        for _ in range(4):
            await asyncio.sleep(0)
        await enemy.channel.close()
        assert recorder.end.done()
        assert recorder.end.exception() is None or isinstance(recorder.end.exception(), AviatoError)
        assert not unexpected

    asyncio.run(check())
