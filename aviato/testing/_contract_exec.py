"""Checks of commands, files and logs, through the channel that the core uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aviato.agent.channel import Channel
from aviato.agent.frames import ExitFlags
from aviato.exceptions import AviatoError, SandboxFileError
from aviato.models import MountedFile
from aviato.testing._ground import OPEN_SECONDS, Ground, NotApplicable, expect, expect_error

Check = Callable[[Ground], Awaitable[None]]


async def _channel(ground: Ground) -> Channel:
    return await ground.channel((await ground.sandbox()).sandbox_id)


async def commands_run(ground: Ground) -> None:
    """Output of both streams and the return code arrive."""
    channel = await _channel(ground)
    ended = await ground.run(channel, "sh", "-c", "echo out; echo err >&2; exit 3")
    expect((ended.stdout, ended.stderr, ended.code) == (b"out\n", b"err\n", 3), f"got {ended}")
    ended = await ground.run(channel, "echo", "a  b", "")
    expect(ended.stdout == b"a  b \n", f"arguments came as {ended.stdout!r}")


async def exit_codes_are_those_of_a_shell(ground: Ground) -> None:
    """0, 1, 3, 126 not executable, 127 not found, 128 and N killed by signal N."""
    channel = await _channel(ground)
    await _write(channel, "/tmp/text", b"no program\n")  # noqa: S108 - inside
    for command, code, signal in (
        (("true",), 0, 0),
        (("false",), 1, 0),
        (("sh", "-c", "exit 3"), 3, 0),
        (("/tmp/text",), 126, 0),  # noqa: S108 - inside
        (("no-such-program-anywhere",), 127, 0),
        (("/no/such/program",), 127, 0),
        (("sh", "-c", "kill -TERM $$"), 143, 15),
        (("sh", "-c", "kill -KILL $$"), 137, 9),
    ):
        ended = await ground.run(channel, *command)
        expect((ended.code, ended.signal) == (code, signal), f"{command} gave {ended}")
        if code in (126, 127):
            expect(command[0].encode() in ended.stderr, f"{command} was not named on stderr: {ended.stderr!r}")
            expect(ended.flags & ExitFlags.NOT_STARTED, f"{command} counts as started")


async def large_output_is_complete(ground: Ground) -> None:
    """Four megabytes on each stream at once."""
    size = 4 << 20
    script = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
    ended = await ground.run(await _channel(ground), "sh", "-c", script)
    expect((len(ended.stdout), len(ended.stderr)) == (size, size), f"{len(ended.stdout)} and {len(ended.stderr)} bytes")


async def input_arrives(ground: Ground) -> None:
    """Two megabytes of every byte come back from cat; without input there is its end."""
    channel = await _channel(ground)
    data = bytes(range(256)) * 8192
    ended = await ground.run(channel, "cat", stdin=data)
    expect(ended.stdout == data, f"{len(ended.stdout)} of {len(data)} bytes came back, or others")
    ended = await ground.run(channel, "cat")
    expect((ended.code, ended.stdout) == (0, b""), f"cat without input gave {ended}")


async def environment_and_directory(ground: Ground) -> None:
    """The sandbox's own variables, the command's over them, and where it starts."""
    info = await ground.sandbox(environment={"A": "1", "B": "2"}, working_dir="/tmp")  # noqa: S108 - inside
    channel = await ground.channel(info.sandbox_id)
    ended = await ground.run(channel, "sh", "-c", "echo $A $B $C; pwd", env={"B": "3", "C": "4"})
    expect(ended.stdout == b"1 3 4\n/tmp\n", f"got {ended.stdout!r}")
    ended = await ground.run(channel, "pwd", cwd="/")
    expect(ended.stdout == b"/\n", f"cwd came as {ended.stdout!r}")
    with expect_error(AviatoError, "a working directory that is not there"):
        await ground.run(channel, "pwd", cwd="/no/such/place")


async def signals_arrive(ground: Ground) -> None:
    """A signal ends the command, or reaches its trap; a tree is ended with its children."""
    channel = await _channel(ground)
    watcher = ground.start(channel, "sh", "-c", "echo on; exec sleep 600")
    await watcher.seen(b"on\n")
    assert watcher.remote is not None  # noqa: S101 - started
    watcher.remote.signal(15)
    ended = await watcher.ended()
    expect((ended.code, ended.signal) == (143, 15), f"got {ended}")
    watcher = ground.start(channel, "sh", "-c", "sleep 600 & echo on; wait; echo after")
    await watcher.seen(b"on\n")
    assert watcher.remote is not None  # noqa: S101 - started
    watcher.remote.signal(9, tree=True)
    ended = await watcher.ended()
    expect((ended.code, ended.stdout) == (137, b"on\n"), f"got {ended}")


async def time_limits_kill(ground: Ground) -> None:
    """The limit kills the command and keeps its output; the sandbox stays usable."""
    channel = await _channel(ground)
    began = time.monotonic()
    ended = await ground.run(channel, "sh", "-c", "echo before; sleep 600; echo after", timeout_ms=300)
    expect(ended.flags & ExitFlags.TIMED_OUT and ended.code == 137, f"got {ended}")  # noqa: PLR2004 - 128 + SIGKILL
    expect(ended.stdout == b"before\n", f"output was {ended.stdout!r}")
    expect(time.monotonic() - began < OPEN_SECONDS, "it took too long")
    expect((await ground.run(channel, "echo", "alive")).stdout == b"alive\n", "the sandbox is not usable")


async def many_commands_at_once(ground: Ground) -> None:
    """Each gets its own output, in one sandbox, over one connection."""
    channel = await _channel(ground)
    found = await asyncio.gather(*(ground.run(channel, "echo", str(number)) for number in range(50)))
    expect([item.stdout for item in found] == [f"{number}\n".encode() for number in range(50)], "outputs are mixed up")


async def a_broken_connection_goes_on(ground: Ground) -> None:
    """Commands live on while their connection is down; nothing is lost or doubled."""
    name = (await ground.sandbox()).sandbox_id
    transports: list[asyncio.Transport] = []

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        transport = await ground.engine.connect(name, protocol)
        transports.append(transport)
        return transport

    channel = Channel(connect, sandbox_id=name)
    try:
        await channel.open(OPEN_SECONDS)
        script = "echo on; read go; head -c 3000000 /dev/zero; echo end; exit 5"
        watcher = ground.start(channel, "sh", "-c", script, stdin=True)
        await watcher.seen(b"on\n")
        transports[-1].abort()
        await watcher.send(b"go\n")
        ended = await watcher.ended()
        expect((ended.code, len(ended.stdout)) == (5, 3_000_007), f"code {ended.code}, {len(ended.stdout)} bytes")
        expect(len(transports) > 1, "the connection was not made again")
    finally:
        await channel.close()


async def _write(channel: Channel, path: str, data: bytes, *, mode: int = 0o644, parents: bool = True) -> int:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    return await channel.write_file(path, pieces(), mode=mode, parents=parents)


async def _read(channel: Channel, path: str, **options: int) -> bytes:
    return b"".join([piece async for piece in channel.read_file(path, **options)])


async def files_are_written_and_read(ground: Ground) -> None:
    """Content, a part of it, mode, parents, and the errors."""
    channel = await _channel(ground)
    data = bytes(range(256)) * 4096
    path = "/tmp/deep/er/data"  # noqa: S108 - inside
    expect(await _write(channel, path, data) == len(data), "write gave another size")
    expect(await _read(channel, path) == data, "other content came back")
    expect(await _read(channel, path, offset=1000, length=10) == data[1000:1010], "another part came back")
    await _write(channel, path, b"")
    expect(await _read(channel, path) == b"", "an empty file is not empty")
    await _write(channel, "/tmp/run", b"#!/bin/sh\necho ran\n", mode=0o755)  # noqa: S108 - inside
    expect((await ground.run(channel, "/tmp/run")).stdout == b"ran\n", "a written script does not run")  # noqa: S108 - inside
    for bad in ("/tmp/none", "/tmp"):  # noqa: S108 - inside
        with expect_error(SandboxFileError, f"reading {bad}") as caught:
            await _read(channel, bad)
        expect(caught[0].filepath == bad, f"the error names {caught[0].filepath!r}")
    with expect_error(SandboxFileError, "writing where there is no directory"):
        await _write(channel, "/tmp/no/where", b"", parents=False)  # noqa: S108 - inside


async def mounted_files_are_there(ground: Ground) -> None:
    """They are there before the main command starts, and read-only."""
    info = await ground.sandbox(
        "sh",
        "-c",
        "cat /app/in; sleep 600",
        mounted_files=(MountedFile("/app/in", b"mounted\n"), MountedFile("/app/bin", b"\x00\xff")),
    )
    async for record in ground.engine.logs(info.sandbox_id, follow=True):
        expect(record.data == b"mounted\n", f"the main command saw {record.data!r}")
        break
    channel = await ground.channel(info.sandbox_id)
    expect(await _read(channel, "/app/bin") == b"\x00\xff", "other content came back")
    ended = await ground.run(channel, "sh", "-c", "echo x > /app/in")
    expect(ended.code != 0, "a mounted file could be written")


async def logs_are_the_main_commands_output(ground: Ground) -> None:
    """With streams and times, also after the end; tail, since and follow."""
    began = time.time()
    name = (await ground.sandbox("sh", "-c", "echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three")).sandbox_id
    followed = [record async for record in ground.engine.logs(name, follow=True)]
    again = [record async for record in ground.engine.logs(name)]
    for records in (followed, again):
        found = [(record.stream, record.data) for record in records]
        wanted = [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\n")]
        expect(found == wanted, f"the log is {found}")
        times = [record.timestamp for record in records]
        expect(times == sorted(times) and abs(times[0] - began) < OPEN_SECONDS, f"the times are {times}")
    last = [record.data async for record in ground.engine.logs(name, tail_lines=1)]
    expect(last == [b"three\n"], f"tail_lines=1 gave {last}")
    since = (again[0].timestamp + again[1].timestamp) / 2
    late = [record.data async for record in ground.engine.logs(name, since=since)]
    expect(late == [b"two\n", b"three\n"], f"since={since} gave {late}")


async def another_client_follows_logs(ground: Ground) -> None:
    """A client that neither made nor connected to the sandbox sees its output live, and its end."""
    script = "echo on; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo off"
    name = (await ground.sandbox("sh", "-c", script)).sandbox_id
    other = ground.another_engine()
    found: list[bytes] = []
    async for record in other.logs(name, follow=True):
        found.append(record.data)
        if record.data == b"on\n":
            await _write(await ground.channel(name), "/tmp/go", b"")  # noqa: S108 - inside
    expect(b"".join(found) == b"on\noff\n", f"the log is {found}")


async def python_runs_where_there_is_one(ground: Ground) -> None:
    """`python3 -c` prints and returns its code."""
    channel = await _channel(ground)
    if (await ground.run(channel, "sh", "-c", "command -v python3")).code:
        raise NotApplicable("the image has no python3")
    ended = await ground.run(channel, "python3", "-c", "import sys; print(6 * 7); sys.exit(4)")
    expect((ended.stdout, ended.code) == (b"42\n", 4), f"got {ended}")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        commands_run,
        exit_codes_are_those_of_a_shell,
        large_output_is_complete,
        input_arrives,
        environment_and_directory,
        signals_arrive,
        time_limits_kill,
        many_commands_at_once,
        a_broken_connection_goes_on,
        files_are_written_and_read,
        mounted_files_are_there,
        logs_are_the_main_commands_output,
        another_client_follows_logs,
        python_runs_where_there_is_one,
    )
}
