"""Commands that misbehave, on every engine: each ends exactly, and the sandbox goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.models import ExitReason

Case = tuple[list[str], int, str]
CASES: dict[str, Case] = {
    "no output at all": (["true"], 0, ""),
    "input that is never read": (["sh", "-c", "echo done"], 0, "done\n"),
    "a missing program": (["/no/such/program"], 127, ""),
    "a directory": (["/tmp"], 126, ""),
    "an argument of 128 KiB less a little": (["printf", "%s", "x" * 131_000], 0, "x" * 131_000),
    "an empty argument": (["printf", "[%s]", ""], 0, "[]"),
    "a child that goes on": (["sh", "-c", "(sleep 600 &) ; echo hi"], 0, "hi\n"),
    "a child in a session of its own": (["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo hi"], 0, "hi\n"),
    "output after the error stream closed": (["sh", "-c", "exec 2>&-; echo out"], 0, "out\n"),
    "both streams closed, then a code": (["sh", "-c", "exec >&- 2>&-; exit 9"], 9, ""),
    "a code beyond a byte": (["sh", "-c", "exit 257"], 1, ""),
}
ONLY_LOCAL = {"a directory", "a child in a session of its own"}


@pytest.fixture
async def sandbox(engine: Any) -> AsyncIterator[aio.Sandbox]:
    """A sandbox that answers afterwards."""
    async with aio.Sandbox.run(engine=engine) as sandbox:
        await sandbox
        yield sandbox
        assert (await asyncio.wait_for(sandbox.exec(["echo", "on"]).result(), 20)).stdout == "on\n"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.fault("F20")
async def test_it_ends_exactly(sandbox: aio.Sandbox, name: str) -> None:
    """Code and output are those of the command, and nothing waits for what it left behind."""
    if name in ONLY_LOCAL and sandbox.engine_name != "local":
        pytest.skip("the fake shell has no such thing")
    command, code, output = CASES[name]
    process = sandbox.exec(command, stdin=b"x" * 300_000)
    result = await asyncio.wait_for(process.result(), 30)
    assert (result.returncode, result.stdout) == (code, output)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 24, 30, 31])
@pytest.mark.fault("F20")
async def test_every_deadly_signal(sandbox: aio.Sandbox, number: int) -> None:
    """The code is 128 and the signal, and the result names it."""
    result = await sandbox.exec(["sh", "-c", f"kill -{number} $$; sleep 600"])
    assert (result.returncode, result.signal, result.reason) == (128 + number, number, ExitReason.SIGNALLED)


async def test_one_that_ignores_the_end(engine: Any) -> None:
    """Stopping it takes the grace and no longer, and nothing of it is left."""
    async with aio.Sandbox.run(engine=engine) as sandbox:
        process = sandbox.exec(["sh", "-c", "trap '' TERM INT HUP; echo on; while :; do sleep 0.05; done"])
        assert await anext(aiter(process.stdout)) == "on\n"
        await asyncio.wait_for(sandbox.stop(graceful_shutdown_seconds=0.2), 20)
        assert (await process).returncode == 137


@pytest.mark.fault("F22")
async def test_a_full_disk_inside(engine: Any) -> None:
    """Writing a file fails with the reason, the old one stays, and no part of the new one is left."""
    if engine != "local":
        pytest.skip("a fake sandbox's disk does not fill")
    async with aio.Sandbox.run(engine="local", resources={"disk": "16Mi"}) as sandbox:
        await sandbox.write_file("/tmp/kept", b"old")
        before = (await sandbox.exec(["ls", "-a", "/tmp"])).stdout
        with pytest.raises(aviato.SandboxFileError, match="No space left") as caught:
            await sandbox.write_file("/tmp/kept", bytes(32 << 20))
        assert caught.value.filepath == "/tmp/kept"
        assert await sandbox.read_file("/tmp/kept") == b"old"
        assert (await sandbox.exec(["ls", "-a", "/tmp"])).stdout == before
        await sandbox.write_file("/tmp/kept", b"new")
        assert await sandbox.read_file("/tmp/kept") == b"new"


@pytest.mark.parametrize(
    "name", ["new\nline", " blank ", "-n", "ü€😀", "\\", "a" * 255, "\x01\x7f", "..x", "latin-\udce9"]
)
@pytest.mark.fault("F23")
async def test_unusual_names(sandbox: aio.Sandbox, name: str) -> None:
    """Any name that a file can have is written and read, also one that is no UTF-8."""
    path = f"/tmp/odd/{name}"
    await sandbox.write_file(path, name.encode("utf-8", "surrogateescape"))
    assert await sandbox.read_file(path) == name.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("path", ["/tmp/" + "a" * 256, "/tmp/a\0b", "/tmp/" + "d/" * 5000 + "f"])
async def test_names_that_no_file_can_have(sandbox: aio.Sandbox, path: str) -> None:
    """They are refused, by us or by the file system, and nothing else happens."""
    if sandbox.engine_name != "local" and "\0" not in path:
        pytest.skip("names in a fake sandbox have no limit")
    with pytest.raises((aviato.SandboxFileError, ValueError)):
        await sandbox.write_file(path, b"x")


async def test_a_file_that_grows_while_it_is_read(sandbox: aio.Sandbox) -> None:
    """What is read is a beginning of it, in order; reading ends."""
    if sandbox.engine_name != "local":
        pytest.skip("the fake shell's loop and its files take turns")
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done > /tmp/grows; sleep 600"
    process = sandbox.exec(["sh", "-c", script])
    await sandbox.exec(["sh", "-c", "while ! [ -s /tmp/grows ]; do sleep 0.01; done"])
    data = await asyncio.wait_for(sandbox.read_file("/tmp/grows"), 30)
    whole = "".join(f"line {n}\n" for n in range(3000)).encode()
    assert whole.startswith(data)
    process.kill()


@pytest.mark.fault("F23")
async def test_a_sparse_file_is_not_swallowed(sandbox: aio.Sandbox) -> None:
    """A file can claim to be large: reading it by pieces can be left at any time."""
    if sandbox.engine_name != "local":
        pytest.skip("fake files are not sparse")
    made = await sandbox.exec(
        ["sh", "-c", "ulimit -f unlimited 2>/dev/null; truncate -s 900M /tmp/sparse && echo made"]
    )
    assert made.stdout == "made\n", made.stderr
    seen = 0
    async for piece in sandbox.read_file_streaming("/tmp/sparse"):
        seen += len(piece)
        if seen > 8 << 20:
            break
    assert seen <= 16 << 20


async def test_every_byte_of_a_large_output(sandbox: aio.Sandbox) -> None:
    """Length and digest from the far end agree with what came, read slowly and fast."""
    if sandbox.engine_name != "local":
        pytest.skip("there is no sha256sum in a fake sandbox")
    script = "head -c 40000000 /dev/urandom | tee /tmp/copy; sha256sum < /tmp/copy >&2"
    process = sandbox.exec(["sh", "-c", script], max_output_bytes=1000)
    digest, size = hashlib.sha256(), 0
    async for piece in process.stdout.buffer:
        digest.update(piece)
        size += len(piece)
        if size % 7 == 0:
            await asyncio.sleep(0.001)
    result = await process
    assert size == 40_000_000
    assert result.stderr.split()[0] == digest.hexdigest()
