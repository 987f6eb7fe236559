"""What type checkers must see of the front door; read by mypy and pyright, not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, assert_type

import aviato
from aviato import (
    Lease,
    Limits,
    OperationRef,
    Pool,
    PoolStats,
    Process,
    ProcessResult,
    Sandbox,
    SandboxDefaults,
    Session,
    StreamReader,
    StreamWriter,
)


def session(session: Session) -> None:
    """Sessions."""
    with aviato.Session(defaults=SandboxDefaults(tags=("a",))) as opened:
        assert_type(opened, Session)
    assert_type(session.sandbox(), Sandbox)
    assert_type(session.sandbox_count, int)
    assert_type(session.list(tags=["a"]), OperationRef[list[Sandbox]])
    assert_type(session.list(tags=["a"]).result(), list[Sandbox])
    assert_type(session.from_id("x").result(timeout=1), Sandbox)
    assert_type(session.close(), OperationRef[None])
    session.adopt(session.sandbox())


def sandbox(sandbox: Sandbox) -> None:
    """Sandboxes."""
    with Sandbox.run("sleep", "1", container_image="python:3.11") as started:
        assert_type(started, Sandbox)
    assert_type(Sandbox.list(tags=["a"]).result(), list[Sandbox])
    assert_type(Sandbox.from_id("x").result(), Sandbox)
    assert_type(Sandbox.session(), Session)
    assert_type(sandbox.sandbox_id, str)
    assert_type(sandbox.status, aviato.SandboxStatus)
    assert_type(sandbox.read_file("/x").result(), bytes)
    assert_type(sandbox.wait().result(), Sandbox)
    assert_type(sandbox.stream_logs(), StreamReader[str])
    assert_type(sandbox.read_file_streaming("/x"), StreamReader[bytes])


def process(sandbox: Sandbox) -> None:
    """Processes and their streams."""
    process = sandbox.exec(["true"], check=True, stdin=True)
    assert_type(process, Process)
    assert_type(process.result(), ProcessResult)
    assert_type(process.result(timeout=1.5).stdout, str)
    assert_type(process.exception(), BaseException | None)
    assert_type(process.wait().result(), int)
    assert_type(process.cancel(), bool)
    assert_type(process.stdin, StreamWriter | None)
    for line in process.stdout:
        assert_type(line, str)
    for chunk in process.stdout.buffer:
        assert_type(chunk, bytes)
    assert_type(process.stderr.read().result(), str)
    ref: OperationRef[ProcessResult] = process
    assert_type(ref.result(), ProcessResult)


def pool(session: Session) -> None:
    """Pools."""
    with session.pool(2, warm=1, limits=Limits(running=4), reset="none", tags=["a"]) as pool:
        assert_type(pool, Pool)
    assert_type(pool.acquire(), Lease)
    with pool.acquire(policy="grow", timeout=1) as sandbox:
        assert_type(sandbox, Sandbox)
    assert_type(pool.stats(), PoolStats)
    assert_type(pool.close(), OperationRef[None])
    for _ in pool.map(["echo", "{}"], range(3), journal="x"):
        pass


def functions(session: Session) -> None:
    """Remote functions: an asynchronous one is awaited there, so here one sees what it gives."""

    @session.function
    def plain(x: int, *, y: str = "") -> str:
        return y * x

    @session.function(concurrency=2)
    async def later(x: int) -> str:
        return str(x)

    @session.function
    def items(x: int) -> Generator[int, None, None]:
        yield x

    @session.function
    async def slow_items(x: int) -> AsyncIterator[str]:
        yield str(x)

    assert_type(plain(1, y="x"), str)
    assert_type(plain.remote(1, y="x"), OperationRef[str])
    assert_type(plain.remote(1).result(), str)
    assert_type(later.remote(1), OperationRef[str])
    assert_type(plain.close(), OperationRef[None])
    local: Coroutine[Any, Any, str] = later.local(1)
    local.close()
    for text in plain.map([(1,)]):
        assert_type(text, str)
    for text in later.map([(1,)], ordered=False):
        assert_type(text, str)
    for number in items.stream(1):
        assert_type(number, int)
    for text in slow_items.stream(1):
        assert_type(text, str)


def several(sandbox: Sandbox) -> None:
    """Waiting for several."""
    processes = [sandbox.exec(["true"]) for _ in range(3)]
    assert_type(aviato.results(processes), list[ProcessResult])
    assert_type(aviato.results(processes[0]), ProcessResult)
    done, pending = aviato.wait(processes, num_returns=1)
    assert_type(done, list[Process])
    assert_type(pending, list[Process])
    assert_type(aviato.as_completed(processes), Iterator[Process])
    aviato.wait([sandbox, processes[0]])
    aviato.wait([sandbox, sandbox.read_file("/x")])


async def awaited(sandbox: Sandbox) -> None:
    """The same, awaited."""
    async with aviato.Session() as session:
        assert_type(session, Session)
        assert_type(await session.list(), list[Sandbox])
        async with session.pool(1) as pool, pool.acquire() as taken:
            assert_type(taken, Sandbox)
    assert_type(await sandbox, Sandbox)
    assert_type(await sandbox.exec(["true"]), ProcessResult)
    async for line in sandbox.exec(["true"]).stdout:
        assert_type(line, str)


def kept_errors(session: Session) -> None:
    """An error that is kept is one of the results."""

    @session.function()
    def plain(x: int) -> str:
        return str(x)

    @session.function()
    async def later(x: int) -> str:
        return str(x)

    for kept in plain.map([(1,)], return_exceptions=True):
        assert_type(kept, str | Exception)
    for kept in later.map([(1,)], return_exceptions=True):
        assert_type(kept, str | Exception)
