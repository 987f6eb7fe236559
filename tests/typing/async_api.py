"""What type checkers must see of the core; read by mypy and pyright, not run."""

from __future__ import annotations

from typing import assert_type

from aviato import ProcessResult, aio


async def session() -> None:
    """Sessions."""
    async with aio.Session({"tags": ["a"]}) as session:
        assert_type(session, aio.Session)
        assert_type(session.sandbox(), aio.Sandbox)
        assert_type(await session.list(tags=["a"]), list[aio.Sandbox])
        assert_type(await session.close(), None)


async def sandbox(sandbox: aio.Sandbox) -> None:
    """Sandboxes and processes."""
    assert_type(await sandbox, aio.Sandbox)
    assert_type(await aio.Sandbox.list(), list[aio.Sandbox])
    assert_type(await sandbox.read_file("/x"), bytes)
    process = sandbox.exec(["true"], stdin=True)
    assert_type(process, aio.Process)
    assert_type(await process, ProcessResult)
    assert_type(await process.result(timeout=1), ProcessResult)
    assert_type(process.stdin, aio.StreamWriter | None)
    async for line in process.stdout:
        assert_type(line, str)
    async for chunk in process.stdout.buffer:
        assert_type(chunk, bytes)


async def several(sandbox: aio.Sandbox) -> None:
    """Waiting for several."""
    assert_type(await aio.results([sandbox.exec(["true"])]), list[ProcessResult])
    assert_type(await aio.results(sandbox.exec(["true"])), ProcessResult)
