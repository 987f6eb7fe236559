"""Bytes out of a sandbox: a command's output as bytes and by lines, and a file, against a plain pipe.

The baseline runs the same command on the host and reads its pipe 64 KiB at a time. Nothing is kept: bytes are
counted and dropped. `--long` adds 10 GB through one sandbox, its sha256 computed at both ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from common import Options, Row, interleave, main, peak, read_pipe, reset_peak

from aviato import aio

GB = 10**9
LINE = "a line of some sixty characters, as a build or a test prints."
HASHED = """
import hashlib, os, sys
left, block, digest = int(sys.argv[1]), os.urandom(1 << 20), hashlib.sha256()
while left:
    piece = block[:left]
    digest.update(piece)
    sys.stdout.buffer.write(piece)
    left -= len(piece)
    block = block[1:] + block[:1]
sys.stdout.buffer.flush()
print(digest.hexdigest(), file=sys.stderr)
"""


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    size = GB // 10 if options.quick else GB
    zeros = ["head", "-c", str(size), "/dev/zero"]
    lines = ["sh", "-c", f"yes '{LINE}' | head -c {size}"]
    growth: dict[str, list[float]] = {"bytes": [], "lines": [], "file": []}

    with asyncio.Runner() as runner, tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        sandbox = runner.run(_start(size))

        def ours(name: str, read: Callable[[], Awaitable[int]]) -> list[float]:
            async def run() -> int:
                return await read()

            before, start = reset_peak(), time.perf_counter()
            total = runner.run(run())
            wall = time.perf_counter() - start
            assert total == size, f"{name}: {total} bytes instead of {size}"
            growth[name].append((peak() - before) / 2**20)
            return [size / wall / 2**20]

        def host(argv: list[str]) -> list[float]:
            start = time.perf_counter()
            assert read_pipe(argv) == size
            return [size / (time.perf_counter() - start) / 2**20]

        samples = interleave(
            {
                "pipe": lambda: host(zeros),
                "pipe lines": lambda: host(lines),
                "pipe file": lambda: host(["cat", file.name]),
                "bytes": lambda: ours("bytes", lambda: _count_bytes(sandbox, zeros)),
                "lines": lambda: ours("lines", lambda: _count_lines(sandbox, lines)),
                "file": lambda: ours("file", lambda: _count_file(sandbox, "/tmp/big")),  # noqa: S108 - in the sandbox
            },
            3,
        )
        rows = [
            Row(
                f"{what}, {size / GB:g} GB",
                "MiB/s",
                samples[name],
                samples[base],
                "a plain pipe, 64 KiB reads",
                f">= {floor} x",
                ratio_floor=floor,
                facts={"growth of the client's memory": f"{max(growth[name]):.0f} MiB"},
            )
            for name, base, what, floor in (
                ("bytes", "pipe", "stdout as bytes", 0.5),
                ("lines", "pipe lines", "stdout by lines", 0.2),
                ("file", "pipe file", "a file read", 0.5),
            )
        ]
        if options.long:
            rows += _hashed(runner, sandbox, size * 10)
        runner.run(sandbox.stop())
    return rows


async def _start(size: int) -> aio.Sandbox:
    sandbox = aio.Sandbox.run(resources={"disk": size + (64 << 20)})
    await sandbox.exec(["sh", "-c", f"head -c {size} /dev/zero > /tmp/big"], check=True)
    return sandbox


async def _count_bytes(sandbox: aio.Sandbox, argv: list[str]) -> int:
    process = sandbox.exec(argv, max_output_bytes=0)
    total = 0
    async for piece in process.stdout.buffer:
        total += len(piece)
    await process
    return total


async def _count_lines(sandbox: aio.Sandbox, argv: list[str]) -> int:
    process = sandbox.exec(argv, max_output_bytes=0)
    total = 0
    async for line in process.stdout:
        total += len(line)
    await process
    return total


async def _count_file(sandbox: aio.Sandbox, path: str) -> int:
    pieces: AsyncIterator[bytes] = sandbox.read_file_streaming(path)
    total = 0
    async for piece in pieces:
        total += len(piece)
    return total


def _hashed(runner: asyncio.Runner, sandbox: aio.Sandbox, size: int) -> list[Row]:
    async def run() -> tuple[str, str]:
        digest = hashlib.sha256()
        process = sandbox.exec(["python3", "-c", HASHED, str(size)], max_output_bytes=1000, timeout_seconds=600)
        async for piece in process.stdout.buffer:
            digest.update(piece)
        result = await process
        return digest.hexdigest(), result.stderr.strip()

    before, start = reset_peak(), time.perf_counter()
    here, there = runner.run(run())
    rate = size / (time.perf_counter() - start) / 2**20
    growth = (peak() - before) / 2**20
    if here != there:
        sys.exit(f"sha256 differs: {there} was sent and {here} arrived")
    return [
        Row(
            f"{size / GB:g} GB through one sandbox, sha256 at both ends",
            "MiB/s",
            [rate],
            goal=">= 200 MiB/s, exact",
            floor=200,
            facts={"sha256": "equal"},
        ),
        Row(f"growth of the client's memory, {size / GB:g} GB", "MiB", [growth], goal="<= 64 MiB", limit=64),
    ]


if __name__ == "__main__":
    main(measure)
