"""Files by paths that a sandbox has prepared: none leads to a file of this machine, and none blocks the reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aviato import aio
from aviato.exceptions import SandboxFileError
from tests.helpers.local import require_local
from tests.helpers.shapes import RACE, SECRET, SHAPES, Canary

WRITTEN = b"from the sandbox's client"


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A file of this machine that nobody may touch."""
    made = Canary(tmp_path)
    yield made
    made.check()


async def read(sandbox: aio.Sandbox, path: str) -> list[bytes]:
    """Read in both ways, and give what came; at most a megabyte each."""
    found = []
    with contextlib.suppress(SandboxFileError):
        found.append(await sandbox.read_file(path))
    with contextlib.suppress(SandboxFileError):
        async with sandbox.read_file_streaming(path) as pieces:
            async for piece in pieces:
                found.append(piece)
                assert sum(map(len, found)) < 1 << 20
    return found


@pytest.mark.parametrize("name", SHAPES)
async def test_shape(sandbox: aio.Sandbox, canary: Canary, name: str) -> None:
    """Each is a SandboxFileError in time, or a file of the sandbox."""
    prepare, path = map(canary.fill, SHAPES[name])
    await sandbox.exec(["sh", "-c", prepare], check=True)
    async with asyncio.timeout(20):
        assert SECRET not in b"".join(await read(sandbox, path))
        for writing in (sandbox.write_file, sandbox.write_file_streaming):
            with contextlib.suppress(SandboxFileError):
                await writing(path, WRITTEN)
            canary.check()
        assert SECRET not in b"".join(await read(sandbox, path))
        assert (await sandbox.exec(["echo", "alive"])).stdout == "alive\n"


async def test_swapped_while_it_is_used(sandbox: aio.Sandbox, canary: Canary) -> None:
    """A folder that changes into a link and back all the time leads, at each moment, to places in the sandbox."""
    process = sandbox.exec(["python3", "-c", canary.fill(RACE)])
    assert await anext(aiter(process.stdout)) == "on\n"
    path = "/tmp/race/canary"
    seen: list[bytes] = []
    while len(seen) < 50:  # half of the time there is nothing to read
        seen += await read(sandbox, path)
        assert SECRET not in b"".join(seen)
        with contextlib.suppress(SandboxFileError):
            await sandbox.write_file(path, WRITTEN)
        canary.check()
    assert process.poll() is None
