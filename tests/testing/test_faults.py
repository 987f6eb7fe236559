"""The fault switches of the fake engine, and that the core copes with each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.engines.base import SandboxQuery, SandboxSpec
from aviato.testing import FakeEngine

ID = "sbx-0000000000000000"


async def test_a_lost_reply_has_taken_effect() -> None:
    """Create raises with an unknown outcome, the sandbox is there, and repeating gives the same one."""
    async with FakeEngine() as engine:
        engine.faults.lose_reply("create")
        spec = SandboxSpec(sandbox_id=ID)
        with pytest.raises(aviato.EngineConnectionError) as caught:
            await engine.create(spec)
        assert caught.value.outcome is aviato.Outcome.UNKNOWN
        assert caught.value.retryable
        assert (await engine.create(spec)).status is aviato.SandboxStatus.RUNNING
        assert [info.sandbox_id async for info in engine.list(SandboxQuery())] == [ID]
        assert engine.faults.fired["lose_reply:create"] == 1


async def test_a_start_whose_reply_was_lost_leaves_nothing() -> None:
    """The core undoes what it cannot know."""
    engine = FakeEngine()
    engine.faults.lose_reply("create", times=5)
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        with pytest.raises(aviato.EngineConnectionError):
            await sandbox
        assert engine.machine.sandboxes == {}
    assert engine.faults.fired["lose_reply:create"] >= 1


@pytest.mark.parametrize("operation", ["create", "connect"])
@pytest.mark.fault("F18")
async def test_a_stalled_start_ends_at_the_request_timeout(operation: str) -> None:
    """Nobody waits for ever, and nothing is left."""
    engine = FakeEngine()
    engine.faults.stall(operation, until=asyncio.Event())
    async with aio.Session(engine=engine) as session:
        with pytest.raises(aviato.SandboxTimeoutError, match="request_timeout_seconds"):
            await session.sandbox(request_timeout_seconds=0.1)
        assert engine.machine.sandboxes == {}
    assert engine.faults.fired[f"stall:{operation}"] == 1


async def test_a_stall_ends_with_its_event() -> None:
    """What was stalled goes on."""
    engine, event = FakeEngine(), asyncio.Event()
    engine.faults.stall("stop", until=event)
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        await sandbox
        stopping = asyncio.ensure_future(sandbox.stop())
        await asyncio.wait([stopping], timeout=0.01)
        assert not stopping.done()
        assert sandbox.status == "terminating"
        event.set()
        await stopping
    assert engine.faults.fired["stall:stop"] == 1


async def test_a_crash_is_a_lost_sandbox() -> None:
    """What ran there fails as infrastructure, with what it had written."""
    engine = FakeEngine()
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "echo on; sleep 600"])
        await anext(aiter(process.stdout))
        engine.faults.crash(sandbox.sandbox_id)
        with pytest.raises(aviato.SandboxLostError) as caught:
            await process
        assert caught.value.is_infrastructure
        with pytest.raises(aviato.SandboxLostError):
            await sandbox.exec(["true"])
        assert sandbox.exit_reason is aviato.ExitReason.LOST
    assert engine.faults.fired["crash"] == 1


async def test_a_dropped_connection_is_not_noticed() -> None:
    """The command goes on, and its output has no gap and no repetition, however often it happens."""
    engine = FakeEngine()
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "while read n; do seq 1 $n; done; exit 3"], stdin=True)
        assert process.stdin is not None
        expected = ""
        for _ in range(5):
            await process.stdin.writeline("20000")
            expected += "".join(f"{n}\n" for n in range(1, 20001))
            assert engine.faults.drop_connection(sandbox.sandbox_id) <= 1
        await process.stdin.close()
        result = await process
        assert (result.returncode, result.stdout) == (3, expected)
    assert engine.faults.fired["drop_connection"] >= 1


async def test_a_slow_start_can_be_cancelled() -> None:
    """stop() during the start returns at once and leaves nothing."""
    engine = FakeEngine()
    engine.faults.slow_start(600)
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["true"])
        await asyncio.sleep(0)
        await sandbox.stop()
        with pytest.raises(aviato.SandboxTerminatedError):
            await process
    assert engine.machine.sandboxes == {}
    with pytest.raises(ValueError, match="negative"):
        engine.faults.slow_start(-1)


@pytest.mark.parametrize("operation", ["create", "get", "list", "stop", "delete", "connect", "logs", "extend"])
async def test_any_operation_can_be_told_to_fail(operation: str) -> None:
    """Once, with the given error, and without effect."""
    async with FakeEngine() as engine:
        if operation != "create":
            await engine.create(SandboxSpec(sandbox_id=ID))

        async def drain(iterator: Any) -> None:
            async for _ in iterator:
                pass

        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "create": lambda: engine.create(SandboxSpec(sandbox_id=ID)),
            "get": lambda: engine.get(ID),
            "list": lambda: drain(engine.list(SandboxQuery())),
            "stop": lambda: engine.stop(ID, grace_seconds=0),
            "delete": lambda: engine.delete(ID),
            "connect": lambda: engine.connect(ID, asyncio.Protocol()),
            "logs": lambda: drain(engine.logs(ID)),
            "extend": lambda: engine.extend(ID, 1),
        }
        engine.faults.fail(operation, aviato.EngineResponseError("broken", status=500))
        with pytest.raises(aviato.EngineResponseError, match="broken"):
            await calls[operation]()
        result = await calls[operation]()
        if operation == "connect":
            result.abort()
        assert engine.faults.fired[f"fail:{operation}"] == 1


def test_an_unknown_operation_is_refused() -> None:
    """A switch that would never fire is an error."""
    with pytest.raises(ValueError, match="create"):
        FakeEngine().faults.lose_reply("make")
