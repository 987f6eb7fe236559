"""File transfers, through a channel and a real agent."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aviato.agent.frames import WINDOW
from aviato.agent.transfers import Download
from aviato.exceptions import SandboxFileError
from tests.agent.harness import names, process_status, run, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aviato.agent.channel import Channel
    from tests.agent.harness import AgentProcess


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    """Give the data piece by piece."""
    for item in data:
        yield item


async def read(channel: Channel, path: Path | str, **options: int) -> bytes:
    """Read a whole file."""
    return b"".join([piece async for piece in channel.read_file(str(path), **options)])


async def test_round_trip(channel: Channel, tmp_path: Path) -> None:
    """What was written is read; parents are made; the mode is as asked."""
    path = tmp_path / "a" / "b" / "c.bin"
    data = os.urandom(3_000_001)
    assert await channel.write_file(str(path), pieces(data, b"", b"end"), mode=0o640) == len(data) + 3
    assert path.read_bytes() == data + b"end"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert await read(channel, path) == data + b"end"
    assert [item.name for item in path.parent.iterdir()] == ["c.bin"]


async def test_empty_file(channel: Channel, tmp_path: Path) -> None:
    """An empty file is a file."""
    assert await channel.write_file(str(tmp_path / "empty"), pieces()) == 0
    assert await read(channel, tmp_path / "empty") == b""


async def test_part_of_a_file(channel: Channel, tmp_path: Path) -> None:
    """Offset and length choose a part."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    assert await read(channel, path, offset=100_000, length=7) == path.read_bytes()[100_000:100_007]
    assert await read(channel, path, offset=255_999) == b"\xff"
    assert await read(channel, path, offset=300_000) == b""


async def test_existing_mode_and_link_are_kept(channel: Channel, tmp_path: Path) -> None:
    """A file that is replaced keeps its mode, and a link to it stays a link."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o700)
    link.symlink_to("file")
    await channel.write_file(str(link), pieces(b"new"))
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def test_write_is_atomic(channel: Channel, tmp_path: Path) -> None:
    """Until the end the old content shows, and a source that fails leaves it, and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    async def source() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        await channel.ping(5)
        assert path.read_bytes() == b"old"
        raise LookupError("the source failed")

    with pytest.raises(LookupError):
        await channel.write_file(str(path), source())
    await channel.ping(5)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"agent.sock", "file"}


async def test_write_in_place(channel: Channel, tmp_path: Path) -> None:
    """Without `atomic` the same file is written."""
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    inode = path.stat().st_ino
    await channel.write_file(str(path), pieces(b"new"), atomic=False)
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino == inode


async def test_cancelled_write(channel: Channel, tmp_path: Path) -> None:
    """Cancelling leaves the old file and no temporary one."""
    reached = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"begin"
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(channel.write_file(str(tmp_path / "file"), source()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await channel.ping(5)
    assert names(tmp_path) == {"agent.sock"}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing", errno.ENOENT),
        ("directory", errno.EISDIR),
        ("fifo", errno.EINVAL),
        ("/dev/zero", errno.EINVAL),
        ("file/below", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("agent.sock", errno.ENXIO),
    ],
)
async def test_cannot_read(channel: Channel, tmp_path: Path, path: str, number: int) -> None:
    """What is no readable regular file is refused at once, with errno and path."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SandboxFileError) as caught:
        await read(channel, tmp_path / path)
    assert caught.value.errno == number
    assert caught.value.filepath == str(tmp_path / path)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("directory", errno.EISDIR),
        ("fifo", errno.EINVAL),
        ("/dev/null", errno.EINVAL),
        ("file/below", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
@pytest.mark.parametrize("atomic", [True, False])
async def test_cannot_write(channel: Channel, tmp_path: Path, path: str, number: int, *, atomic: bool) -> None:
    """What cannot be a regular file is refused, and nothing is left."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    with pytest.raises(SandboxFileError) as caught:
        await channel.write_file(str(tmp_path / path), pieces(bytes(1_000_000)), atomic=atomic)
    assert caught.value.errno == number
    assert names(tmp_path) == before


async def test_no_parents(channel: Channel, tmp_path: Path) -> None:
    """Without `parents` a missing directory is an error."""
    with pytest.raises(SandboxFileError, match="No such file"):
        await channel.write_file(str(tmp_path / "a" / "b"), pieces(b""), parents=False)


async def test_full_disk(channel: Channel) -> None:
    """A full disk says how far it got; `/dev/full`, a device, is refused before."""
    with pytest.raises(SandboxFileError) as caught:
        await channel.write_file("/dev/full", pieces(b"x"))
    assert caught.value.errno == errno.EINVAL


async def test_file_size_limit(channel: Channel, agent: AgentProcess, tmp_path: Path) -> None:
    """A write beyond what the system allows tells the bytes written and removes the temporary file."""
    import resource

    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(SandboxFileError, match="after 100000 bytes were written") as caught:
        await channel.write_file(str(tmp_path / "big"), pieces(bytes(1_000_000)))
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == {"agent.sock"}


async def test_proc_files(channel: Channel) -> None:
    """Files without a size are read to their end."""
    assert b"Name:" in await read(channel, "/proc/self/status")


async def test_flat_memory(channel: Channel, agent: AgentProcess, tmp_path: Path) -> None:
    """Fifty megabytes each way leave the agent small."""
    path = tmp_path / "big"
    block = os.urandom(1 << 20)
    expected = hashlib.sha256(block * 50).digest()
    assert await channel.write_file(str(path), pieces(*[block] * 50)) == 50 << 20
    digest = hashlib.sha256()
    async for piece in channel.read_file(str(path)):
        digest.update(piece)
    assert digest.digest() == expected
    status = process_status(agent)
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak < 24_000


async def test_slow_reader(channel: Channel, tmp_path: Path) -> None:
    """A reader that pauses holds one window and disturbs nobody; closing it early ends the transfer."""
    path = tmp_path / "big"
    path.write_bytes(bytes(3_000_000))
    reader = channel.read_file(str(path))
    first = await anext(reader)
    assert (await run(channel, "true").end).returncode == 0
    await channel.ping(5)
    (download,) = channel._streams.values()
    assert isinstance(download, Download)
    assert download._received <= len(first) + WINDOW
    await reader.aclose()
    assert not channel._streams
    assert (await shell(channel, "echo fine").end).returncode == 0
