"""An agent whose client is an enemy, or merely unusual: raw frames to the real agent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aviato.agent.frames import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    S_ATTACH,
    S_CREDIT,
    S_ERROR,
    S_EXIT,
    S_FILE_READ,
    S_FILE_WRITE,
    S_HELLO,
    S_OFFSET,
    S_SIGNAL,
    S_STARTED,
    STDIN_WINDOW,
    WINDOW,
    Frame,
    FrameReader,
    FrameType,
    StartFlags,
    pack_frame,
    pack_start,
    pack_strings,
)
from tests.agent.harness import AgentProcess, names, process_status, run, shell

if TYPE_CHECKING:
    from aviato.agent.channel import Channel

HELLO = pack_frame(FrameType.HELLO, 0, S_HELLO.pack(MAGIC, 1, 1))
CAT = pack_start(5, [b"cat"], flags=StartFlags.STDIN)
TRUE = pack_start(5, [b"true"])


class Raw:
    """A connection on which the test says and hears single frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = FrameReader()
        self.heard: list[Frame] = []

    async def hear(self) -> Frame | None:
        """Wait for a frame, None at the end."""
        while not self.heard:
            try:
                data = await self.reader.read(65536)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self.heard.extend(self.frames.feed(data))
        return self.heard.pop(0)

    async def expect(self, type_: int) -> Frame:
        """Wait for a frame of a type, passing over others."""
        while (frame := await self.hear()) is not None:
            if frame.type == type_:
                return frame
        raise AssertionError(f"no frame {type_}")

    def say(self, *frames: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(frames))

    async def closed(self) -> None:
        """Wait until the agent has hung up."""
        while await self.hear() is not None:
            pass
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


async def connect(agent: AgentProcess, *frames: bytes) -> Raw:
    """Connect and say hello and more."""
    raw = Raw(*await agent.raw())
    raw.say(HELLO)
    assert (await raw.expect(FrameType.WELCOME)).payload.startswith(MAGIC)
    raw.say(*frames)
    return raw


RUDE = {
    "unknown type": pack_frame(99, 1),
    "agent's own type": pack_frame(FrameType.EXIT, 1),
    "second hello": HELLO,
    "too large": HEADER.pack(MAX_PAYLOAD + 1, 1, 1),
    "start on stream 0": pack_start(0, [b"true"]),
    "start cut short": pack_frame(FrameType.START, 5, b"\0"),
    "start with a million strings": TRUE[:41] + b"\x00\x0f\xff\xff" + TRUE[45:],
    "start with more behind": pack_frame(FrameType.START, 5, TRUE[13:], b"x"),
    "credit cut short": CAT + pack_frame(FrameType.CREDIT, 5, b"\1"),
    "credit for a third output": CAT + pack_frame(FrameType.CREDIT, 5, S_CREDIT.pack(3, 1)),
    "input ahead": CAT + pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(7), b"x"),
    "input for none": pack_start(5, [b"sleep", b"1"]) + pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(0), b"x"),
    "input after its end": CAT
    + pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(0))
    + pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(0), b"x"),
    "input of another length": CAT + pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(3)),
    "signal 0": CAT + pack_frame(FrameType.SIGNAL, 5, S_SIGNAL.pack(0, 0)),
    "signal 200": CAT + pack_frame(FrameType.SIGNAL, 5, S_SIGNAL.pack(200, 0)),
    "attach ahead": CAT + pack_frame(FrameType.ATTACH, 5, S_ATTACH.pack(9, 0, WINDOW, WINDOW)),
    "attach cut short": pack_frame(FrameType.ATTACH, 5, b""),
    "long ping": pack_frame(FrameType.PING, 0, bytes(65)),
    "short grace": pack_frame(FrameType.SHUTDOWN, 0, b"\0"),
    "file read cut short": pack_frame(FrameType.FILE_READ, 5, b"\0"),
    "file read of two": pack_frame(FrameType.FILE_READ, 5, S_FILE_READ.pack(0, 1, 1), pack_strings([b"a", b"b"])),
}


@pytest.mark.parametrize("rude", RUDE)
async def test_bad_frames_close_that_connection_only(agent: AgentProcess, channel: Channel, rude: str) -> None:
    """A client that breaks the protocol is dropped; the others do not notice."""
    recorder = run(channel, "cat", stdin=True)
    await recorder.started.wait()
    raw = await connect(agent, RUDE[rude])
    await raw.closed()
    await recorder.feed(b"still here")
    assert (await recorder.end).returncode == 0
    assert recorder.stdout == b"still here"


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", HELLO[:-8] + b"EVIL" + HELLO[-4:], TRUE, bytes(100)])
async def test_bad_hello(agent: AgentProcess, hello: bytes) -> None:
    """What is no hello is hung up on, and starts nothing."""
    raw = Raw(*await agent.raw())
    raw.say(hello)
    assert await raw.hear() is None
    raw.close()


async def test_other_version(agent: AgentProcess) -> None:
    """A client of another version is told, then hung up on."""
    raw = Raw(*await agent.raw())
    raw.say(pack_frame(FrameType.HELLO, 0, S_HELLO.pack(MAGIC, 7, 9)))
    assert b"version 1, not 7 to 9" in (await raw.expect(FrameType.ERROR)).payload
    await raw.closed()


async def test_noise(agent: AgentProcess, channel: Channel) -> None:
    """Random frames of every type never end the agent."""
    chance = random.Random(7)
    for _ in range(150):
        frames = [
            pack_frame(chance.randrange(2, 8), chance.choice([0, 5, 6]), chance.randbytes(chance.randrange(60)))
            for _ in range(8)
        ]
        raw = await connect(agent, TRUE, *frames)
        raw.close()
    assert (await run(channel, "true").end).returncode == 0
    assert agent.process.poll() is None


async def test_same_start_twice(agent: AgentProcess, tmp_path: Path) -> None:
    """A repeated `START` runs nothing again; it tells everything from the beginning."""
    script = b"echo run; echo run >> %b" % os.fsencode(tmp_path / "log")
    start = pack_start(5, [b"sh", b"-c", script])
    raw = await connect(agent, start)
    first = await raw.expect(FrameType.EXIT)
    raw.say(start)
    assert (await raw.expect(FrameType.STDOUT)).payload[8:] == b"run\n"
    assert await raw.expect(FrameType.EXIT) == first
    assert (tmp_path / "log").read_text() == "run\n"
    raw.close()


async def test_fresh_attach_tells_the_gap(agent: AgentProcess) -> None:
    """Output that was consumed is gone for a second client, which is told where it goes on."""
    size = 2 * WINDOW
    raw = await connect(agent, pack_start(5, [b"sh", b"-c", b"head -c %d /dev/zero; cat" % size], flags=1))
    got = 0
    while got < size:
        frame = await raw.expect(FrameType.STDOUT)
        got += len(frame.payload) - 8
        raw.say(pack_frame(FrameType.CREDIT, 5, S_CREDIT.pack(1, got + WINDOW)))
    raw.say(pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(0), b"input"))
    await raw.expect(FrameType.STDOUT)
    raw.say(pack_frame(FrameType.PING, 9))
    await raw.expect(FrameType.PONG)
    other = await connect(agent, pack_frame(FrameType.ATTACH, 5, S_ATTACH.pack(0, 0, WINDOW, WINDOW)))
    pid, accepted = S_STARTED.unpack((await other.expect(FrameType.STARTED)).payload)
    assert (pid > 0, accepted) == (True, 5)
    which, offset = S_CREDIT.unpack((await other.expect(FrameType.GAP)).payload)
    assert which == 1
    assert size - WINDOW <= offset <= size
    other.say(pack_frame(FrameType.CREDIT, 5, S_CREDIT.pack(1, size + WINDOW)))
    other.say(pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(5)))
    while (told := await other.hear()) and told.type == FrameType.STDOUT:
        assert S_OFFSET.unpack_from(told.payload)[0] == offset
        offset += len(told.payload) - 8
    assert told is not None
    assert told.type == FrameType.EXIT
    assert S_EXIT.unpack(told.payload)[4] == offset == size + 5
    raw.close()
    other.close()


async def test_attach_gets_the_rest_before_the_end(agent: AgentProcess) -> None:
    """One output was received whole, the other not at all, when the connection broke; the command has ended since."""
    raw = await connect(agent, pack_start(5, [b"sh", b"-c", b"echo out; echo error >&2"]))
    await raw.expect(FrameType.EXIT)
    raw.close()
    again = await connect(agent, pack_frame(FrameType.ATTACH, 5, S_ATTACH.pack(4, 0, WINDOW, WINDOW)))
    assert (await again.expect(FrameType.STARTED)).stream == 5
    heard = [await again.hear(), await again.hear()]
    assert [frame.type for frame in heard if frame is not None] == [FrameType.STDERR, FrameType.EXIT]
    assert heard[0] is not None
    assert heard[0].payload == S_OFFSET.pack(0) + b"error\n"
    again.close()


async def test_attach_to_nothing(agent: AgentProcess) -> None:
    """An unknown command is an error on its stream."""
    raw = await connect(agent, pack_frame(FrameType.ATTACH, 8, S_ATTACH.pack(0, 0, 0, 0)))
    assert S_ERROR.unpack_from((await raw.expect(FrameType.ERROR)).payload)[0] == 3
    raw.close()


async def test_input_may_be_repeated(agent: AgentProcess) -> None:
    """Input that is sent twice, or overlaps, is taken once."""
    pieces = [(0, b"abc"), (0, b"abc"), (1, b"bcde"), (5, b"f"), (0, b"abcdef")]
    frames = [pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(offset), data) for offset, data in pieces]
    ends = [pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(6))] * 2
    raw = await connect(agent, CAT, *frames, *ends)
    got = b""
    while (frame := await raw.hear()) and frame.type != FrameType.EXIT:
        if frame.type == FrameType.STDOUT:
            got += frame.payload[8:]
    assert got == b"abcdef"
    raw.close()


async def test_window_of_input_is_a_limit(agent: AgentProcess) -> None:
    """More input than the window is no way to fill the agent's memory."""
    raw = await connect(agent, pack_start(5, [b"sleep", b"600"], flags=StartFlags.STDIN))
    for start in range(0, 3 * STDIN_WINDOW, 65536):
        raw.say(pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(start), bytes(65536)))
    await raw.closed()


async def test_client_that_never_reads(agent: AgentProcess, channel: Channel) -> None:
    """A client that asks for much and reads nothing stops only itself, and the agent stays small."""
    raw = Raw(*await agent.raw())
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
    huge = 1 << 40
    starts = [
        pack_start(stream, [b"head", b"-c", b"20000000", b"/dev/zero"], stdout_limit=huge) for stream in range(1, 9)
    ]
    raw.say(HELLO, *starts)
    for number in range(20):
        assert (await shell(channel, f"exit {number}").end).returncode == number
    status = process_status(agent)
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < 40_000
    raw.close()


async def test_too_many_commands(tmp_path: Path) -> None:
    """Beyond the bound a start is refused with EAGAIN; ended commands of clients that are gone make room."""
    async with AgentProcess(tmp_path, max_processes=3) as agent:
        raw = await connect(agent, *[pack_start(stream, [b"true"]) for stream in (1, 2, 3)])
        for _ in range(3):
            await raw.expect(FrameType.EXIT)
        raw.say(pack_start(4, [b"true"]))
        refused = await raw.expect(FrameType.ERROR)
        assert S_ERROR.unpack_from(refused.payload)[0] == 11
        raw.say(pack_frame(FrameType.RELEASE, 2), pack_start(4, [b"true"]))
        assert (await raw.expect(FrameType.EXIT)).stream == 4
        raw.close()
        channel = await agent.channel()
        assert (await run(channel, "true").end).returncode == 0


async def test_file_stream_is_not_a_command(agent: AgentProcess, tmp_path: Path) -> None:
    """A signal or a second start on a transfer's stream harms nothing."""
    write = pack_frame(
        FrameType.FILE_WRITE, 5, S_FILE_WRITE.pack(1, 0o600), pack_strings([os.fsencode(tmp_path / "f")])
    )
    raw = await connect(agent, write, pack_frame(FrameType.SIGNAL, 5, S_SIGNAL.pack(9, 1)))
    raw.say(pack_frame(FrameType.STDIN_EOF, 5, S_OFFSET.pack(0)))
    await raw.expect(FrameType.FILE_END)
    raw.close()


async def test_unreleased_transfer_of_a_lost_client(agent: AgentProcess, tmp_path: Path) -> None:
    """A client that goes in the middle of a write leaves no file."""
    write = pack_frame(
        FrameType.FILE_WRITE, 5, S_FILE_WRITE.pack(1, 0o600), pack_strings([os.fsencode(tmp_path / "f")])
    )
    raw = await connect(agent, write, pack_frame(FrameType.STDIN, 5, S_OFFSET.pack(0), b"x"))
    await raw.expect(FrameType.ACK)
    assert len(names(tmp_path)) == 2
    raw.close()
    channel = await agent.channel()
    await channel.ping(5)
    assert names(tmp_path) == {"agent.sock"}


async def test_descriptors_run_out(agent: AgentProcess, channel: Channel) -> None:
    """Without descriptors a start is an error of that command, and the agent goes on."""
    import resource

    used = len(names(Path(f"/proc/{agent.process.pid}/fd")))
    held = run(channel, "sleep", "600")
    await held.started.wait()
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (used + 3, 4096))
    with pytest.raises(Exception, match="Too many open files"):
        await run(channel, "true").end
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
    assert (await run(channel, "true").end).returncode == 0
    assert held.remote is not None
    held.remote.signal(signal.SIGKILL)
    await held.end
