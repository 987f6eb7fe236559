"""What type checkers must see of the core; read by mypy and pyright, not run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable
from typing import Any, assert_type

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


async def functions(session: aio.Session) -> None:
    """Remote functions: an asynchronous one is awaited there, so here one sees what it gives."""

    @session.function
    def plain(x: int, *, y: str = "") -> str:
        return y * x

    @session.function(concurrency=2)
    async def later(x: int) -> str:
        return str(x)

    assert_type(plain(1, y="x"), str)
    assert_type(await plain.remote(1, y="x"), str)
    assert_type(await later.remote(1), str)
    assert_type(await plain.close(), None)
    local: Coroutine[Any, Any, str] = later.local(1)
    assert_type(await local, str)
    async for text in plain.map([(1,)]):
        assert_type(text, str)
    async for kept in plain.map([(1,)], return_exceptions=True):
        assert_type(kept, str | Exception)
    async for kept in later.map([(1,)], return_exceptions=True):
        assert_type(kept, str | Exception)
    async with contextlib.aclosing(later.map([(1,)], ordered=False)) as mapped:
        async for text in mapped:
            assert_type(text, str)
    anything: Any = eval
    assert_type(await session.function(anything).remote(1), Any)
    untyped: aio.RemoteFunction[..., Any] = session.function(eval)
    assert_type(await untyped.remote(1, z=2), Any)
    async for item in untyped.stream(1, z=2):
        assert_type(item, Any)


async def generators(session: aio.Session) -> None:
    """Items of generators."""

    @session.function
    def items(x: int) -> Generator[int, None, None]:
        yield x

    @session.function
    async def slow_items(x: int) -> AsyncIterator[str]:
        yield str(x)

    @session.function
    def loose(x: int) -> Iterable[bytes]:
        yield bytes(x)

    async for number in items.stream(1):
        assert_type(number, int)
    async with contextlib.aclosing(slow_items.stream(1)) as texts:
        async for text in texts:
            assert_type(text, str)
    async for data in loose.stream(1):
        assert_type(data, bytes)


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
