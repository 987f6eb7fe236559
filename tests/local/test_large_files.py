"""A file of two gigabytes goes in and comes out while this process's memory stays flat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aviato import aio
from tests.helpers.local import require_local

MIB = 1 << 20
SIZE = 2048 * MIB
GROWTH_AT_MOST = 64 * MIB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def _status(key: str, path: str = "/proc/self/status") -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


def _forget_peak() -> int:
    """Count the peak from here, where this much is used."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


async def test_memory_stays_flat_for_two_gigabytes() -> None:
    """Written by pieces, read by pieces, the same digest, and no more memory than some pieces."""
    if _status("MemAvailable", "/proc/meminfo") < 2 * SIZE:
        pytest.skip("the sandbox's files lie in memory, and this machine has less than 4 GiB of it free")
    written = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(SIZE // MIB):
            piece = number.to_bytes(8, "big") * (MIB // 8)
            written.update(piece)
            yield piece

    read, size = hashlib.sha256(), 0
    async with aio.Sandbox.run(engine="local", resources={"memory": "256Mi", "disk": "2200Mi"}) as sandbox:
        await sandbox
        before = _forget_peak()
        assert await sandbox.write_file_streaming("/tmp/large", pieces()) == SIZE
        async for piece in sandbox.read_file_streaming("/tmp/large"):
            read.update(piece)
            size += len(piece)
        growth = _status("VmHWM") - before
    assert size == SIZE
    assert read.digest() == written.digest()
    assert growth <= GROWTH_AT_MOST, f"{growth >> 20} MiB"
