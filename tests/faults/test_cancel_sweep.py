"""Every public coroutine, cancelled at every one of its suspensions: it ends as cancelled, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from aviato import aio
from aviato.testing import FakeEngine
from tests.faults.sweep import cancelled_at
from tests.helpers.docker import require_docker
from tests.helpers.local import require_local

Operation = Callable[[], Awaitable[Any]]
Prepare = Callable[[aio.Session, aio.Sandbox], Awaitable[Operation]]
MOST_SUSPENSIONS = 200

SWEPT: dict[str, Prepare] = {}


def operation(*names: str) -> Callable[[Prepare], Prepare]:
    """Register what is swept, by the names of the coroutines it runs."""

    def register(prepare: Prepare) -> Prepare:
        for name in names:
            SWEPT[name] = prepare
        return prepare

    return register


def public_coroutines() -> set[str]:
    """Name everything public that can be awaited or iterated over, and is not a wrapper of the interpreter's."""
    found = set()
    for name in aio.__all__:
        thing = getattr(aio, name)
        if inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing):
            found.add(name)
        elif inspect.isclass(thing):
            for member, value in inspect.getmembers(thing):
                if member.startswith("_") and member not in {"__aenter__", "__aexit__", "__anext__"}:
                    continue
                if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
                    found.add(f"{name}.{member}")
    return found


def len_of(text: str) -> int:
    """Give something to check."""
    return len(text)


@operation("Process.result", "Process.wait", "Process.exception")
async def _result(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        process = sandbox.exec(["sh", "-c", "echo out; sleep 0.01"])
        await process.result()
        await process.wait()
        await process.exception()

    return run


@operation("RemoteFunction.remote")
async def _remote(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    @session.function(concurrency=1)
    def double(value: int) -> int:
        return 2 * value

    async def run() -> None:
        assert await double.remote(3) == 6

    return run


@operation("RemoteFunction.map")
async def _map(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    @session.function(concurrency=2)
    def double(value: int) -> int:
        return 2 * value

    async def run() -> None:
        async with contextlib.aclosing(double.map((n,) for n in range(3))) as results:
            assert [result async for result in results] == [0, 2, 4]

    return run


@operation("RemoteFunction.stream")
async def _items(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    @session.function(concurrency=1)
    def count(end: int) -> Iterator[int]:
        yield from range(end)

    async def run() -> None:
        async with contextlib.aclosing(count.stream(3)) as items:
            assert [item async for item in items] == [0, 1, 2]

    return run


@operation("RemoteFunction.close")
async def _close_function(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        count = session.function(concurrency=1)(len_of)
        try:
            assert await count.remote("ab") == 2
            await count.close()
        finally:
            await asyncio.shield(count.close())

    return run


@operation("Pool.close", "Pool.__aenter__", "Pool.__aexit__", "Lease.__aenter__", "Lease.__aexit__")
async def _pool(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        pool = session.pool(1)
        try:
            async with pool, pool.acquire() as taken:
                await taken.exec(["true"])
        finally:
            await asyncio.shield(pool.close())

    return run


@operation("Sandbox.start", "Sandbox.wait", "Sandbox.stop", "Sandbox.wait_until_complete", "Sandbox.get_status")
async def _life(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        made = session.sandbox()
        await made.start()
        await made.wait()
        await made.get_status()
        await made.stop(graceful_shutdown_seconds=0)
        await made.wait_until_complete(raise_on_termination=False)

    return run


@operation("Sandbox.__aenter__", "Sandbox.__aexit__")
async def _block(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        async with session.sandbox() as made:
            await made.exec(["true"])

    return run


@operation("Sandbox.extend_lifetime")
async def _extend(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    return lambda: sandbox.extend_lifetime(100)


@operation("Sandbox.from_id", "Sandbox.list", "Session.from_id", "Session.list")
async def _find(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        await session.from_id(sandbox.sandbox_id)
        await session.list()

    return run


@operation("Sandbox.delete")
async def _delete(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    engine = session._engine
    return lambda: aio.Sandbox.delete(sandbox.sandbox_id, missing_ok=True, engine=engine)


@operation("Sandbox.read_file")
async def _read(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    await sandbox.write_file("/tmp/read", bytes(300_000))
    return lambda: sandbox.read_file("/tmp/read")


@operation("Sandbox.write_file", "Sandbox.write_file_streaming")
async def _write(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    await sandbox.write_file("/tmp/kept", b"old")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"new" * 30_000
            await asyncio.sleep(0)

    async def run() -> None:
        await sandbox.write_file("/tmp/kept", b"old")
        await sandbox.write_file_streaming("/tmp/kept", pieces())

    return run


@operation("StreamReader.__anext__", "StreamReader.read", "StreamReader.read_batch", "StreamReader.close")
@operation("StreamReader.__aenter__", "StreamReader.__aexit__")
async def _stream(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        process = sandbox.exec(["seq", "1", "3000"])
        async with process.stdout as lines:
            assert await anext(aiter(lines)) == "1\n"
            assert await lines.read_batch(5)
            await lines.read()
        await process.stdout.close()
        await process

    return run


@operation("StreamWriter.write", "StreamWriter.writeline", "StreamWriter.close")
async def _input(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        process = sandbox.exec(["cat"], stdin=True)
        assert process.stdin is not None
        try:
            await process.stdin.write(bytes(600_000))
            await process.stdin.writeline("end")
            await process.stdin.close()
            await process
        finally:
            process.kill()

    return run


@operation("results", "wait", "as_completed")
async def _several(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        processes = [sandbox.exec(["echo", str(n)]) for n in range(3)]
        await aio.wait(processes, num_returns=1)
        async for _ in aio.as_completed(processes):
            pass
        await aio.results(processes)

    return run


@operation("Session.close", "Session.__aenter__", "Session.__aexit__")
async def _close(session: aio.Session, sandbox: aio.Sandbox) -> Operation:
    async def run() -> None:
        inner = aio.Session(engine=session._engine)
        try:
            async with inner:
                inner.sandbox()
                await inner.sandbox()
        finally:
            await asyncio.shield(inner.close())

    return run


def test_nothing_public_is_forgotten() -> None:
    """A new coroutine needs a place in the sweep."""
    assert public_coroutines() <= SWEPT.keys()


async def _sweep(engine: Any, prepare: Prepare, at: int) -> bool:
    """Cancel once, and look at what is left; tell whether there was still something to cancel."""
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        await sandbox
        run = await prepare(session, sandbox)
        reached = await cancelled_at(run, at)
        if prepare is not _delete and not sandbox.status.is_terminal:
            result = await asyncio.wait_for(sandbox.exec(["echo", "usable"]).result(), 20)
            assert result.stdout == "usable\n"
            if prepare is _write:
                assert await sandbox.read_file("/tmp/kept") in {b"old", b"new" * 240_000}
    return reached


async def _take_a_turn(operation: str) -> None:
    del operation
    await asyncio.sleep(0)


ALL = list(dict.fromkeys(SWEPT.values()))


@pytest.mark.parametrize("prepare", ALL, ids=lambda prepare: prepare.__name__[1:])
@pytest.mark.fault("F17")
async def test_cancelled_anywhere_in_memory(prepare: Prepare) -> None:
    """On FakeEngine: every suspension of every operation, until one runs through."""
    for at in range(1, MOST_SUSPENSIONS):
        engine = FakeEngine()
        engine.faults.before = _take_a_turn  # type: ignore[method-assign]  # so that everything suspends at least once
        reached = await _sweep(engine, prepare, at)
        assert [one for one in engine.machine.sandboxes.values() if not one.info.status.is_terminal] == [], at
        if not reached:
            assert at > 1, "it never suspended, so nothing was swept"
            return
    pytest.fail(f"more than {MOST_SUSPENSIONS} suspensions")


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def real_engine(request: pytest.FixtureRequest) -> str:
    """An engine of this machine, by its name."""
    {"local": require_local, "docker": require_docker}[request.param]()
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prepare",
    [_result, _life, _find, _delete, _read, _write, _stream, _close],
    ids=lambda prepare: prepare.__name__[1:],
)
@pytest.mark.fault("F17")
async def test_cancelled_anywhere_for_real(real_engine: str, prepare: Prepare) -> None:
    """On the engines of this machine: the first suspensions of those that start, stop and move bytes."""
    for at in range(1, 13):
        if not await _sweep(real_engine, prepare, at):
            return
