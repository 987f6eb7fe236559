"""What type checkers must see of the core; read by mypy and pyright, not run."""

from __future__ import annotations

from typing import assert_type

from aviato import PoolStats, ProcessResult, aio


async def session() -> None:
    """Sessions."""
    async with aio.Session({"tags": ["a"]}) as session:
        assert_type(session, aio.Session)
        assert_type(session.sandbox(), aio.Sandbox)
        assert_type(await session.list(tags=["a"]), list[aio.Sandbox])
        assert_type(await session.close(), None)


async def pool(session: aio.Session) -> None:
    """Pools."""
    async with session.pool(1) as pool, pool.acquire(policy="fail") as sandbox:
        assert_type(pool, aio.Pool)
        assert_type(sandbox, aio.Sandbox)
    assert_type(pool.stats(), PoolStats)
    assert_type(await pool.close(), None)
    async for _ in pool.map(["echo", "{}"], range(3), ordered=False):
        pass


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
