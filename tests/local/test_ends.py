"""How sandboxes end, whatever they and their clients do, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from aviato import aio
from aviato.engines.base import SandboxQuery
from aviato.engines.local.engine import LocalEngine
from aviato.exceptions import SandboxLostError, SandboxNotFoundError
from tests.helpers.local import groups_left, home, init_of, require_local
from tests.local.support import Client, becomes, is_alive

STUBBORN = "trap '' TERM HUP INT; for i in $(seq 40); do (trap '' TERM; setsid sleep 1000) & done; echo up; wait"


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


async def test_stop_needs_no_consent_of_a_frozen_agent() -> None:
    """With its first process stopped by a signal, a stop still ends within the grace and two seconds."""
    sandbox = await aio.Sandbox.run(engine="local")
    init = init_of(sandbox.sandbox_id)
    os.kill(init, signal.SIGSTOP)
    began = time.monotonic()
    await sandbox.stop(graceful_shutdown_seconds=0.5)
    assert time.monotonic() - began < 2.5
    assert not is_alive(init)


async def test_stop_ends_forty_processes_that_ignore_it() -> None:
    """None outlives the stop, and the groups are gone."""
    sandbox = await aio.Sandbox.run(engine="local")
    process = sandbox.exec(["sh", "-c", STUBBORN])
    async for line in process.stdout:
        assert line == "up\n"
        break
    init = init_of(sandbox.sandbox_id)
    began = time.monotonic()
    await sandbox.stop(graceful_shutdown_seconds=0.2)
    assert time.monotonic() - began < 2.2
    assert not is_alive(init)
    assert not [path for path in groups_left() if sandbox.sandbox_id in path]


@pytest.mark.fault("F19")
async def test_a_killed_agent_is_named_with_its_signal() -> None:
    """The sandbox is lost, and the message says how in words."""
    sandbox = await aio.Sandbox.run(engine="local")
    process = sandbox.exec(["sleep", "1000"])
    os.kill(init_of(sandbox.sandbox_id), signal.SIGKILL)
    with pytest.raises(SandboxLostError):
        await process
    with pytest.raises(SandboxLostError, match=r"its agent was killed by signal 9\n"):
        await sandbox.wait_until_complete()


@pytest.mark.fault("F7")
async def test_a_killed_client_leaves_nothing() -> None:
    """Two seconds after its SIGKILL the sandbox, its directory and its groups are gone."""
    client = Client()
    client.kill()
    assert await becomes(lambda: not is_alive(client.init), 4.0)
    assert await becomes(lambda: not (home() / "sandboxes" / client.sandbox_id).exists())
    assert await becomes(lambda: not is_alive(client.supervisor))
    assert not [path for path in groups_left() if client.sandbox_id in path]


async def test_a_killed_supervisor_takes_its_sandboxes_along() -> None:
    """They die with it, and whoever lists next removes what it left."""
    client = Client()
    os.kill(client.supervisor, signal.SIGKILL)
    assert await becomes(lambda: not is_alive(client.init))
    client.kill()
    async with LocalEngine() as engine:
        assert client.sandbox_id not in [info.sandbox_id async for info in engine.list(SandboxQuery())]
    assert not [path for path in groups_left() if client.sandbox_id in path]
    assert not (home() / "sandboxes" / client.sandbox_id).exists()


async def test_a_detached_sandbox_of_a_killed_supervisor_is_lost() -> None:
    """Its record stays, says lost, and can be deleted."""
    client = Client(detached=True)
    client.kill()
    os.kill(client.supervisor, signal.SIGKILL)
    assert await becomes(lambda: not is_alive(client.init))
    async with LocalEngine() as engine:
        info = await engine.get(client.sandbox_id)
        assert (info.status, info.exit_reason) == ("failed", "lost")
        await engine.delete(client.sandbox_id)
        with pytest.raises(SandboxNotFoundError):
            await engine.get(client.sandbox_id)
    assert not (home() / "sandboxes" / client.sandbox_id).exists()


async def test_another_process_lists_and_stops() -> None:
    """What one process made, another finds, attaches to and ends."""
    client = Client()
    try:
        async with LocalEngine() as engine:
            assert client.sandbox_id in [info.sandbox_id async for info in engine.list(SandboxQuery())]
            arrived = asyncio.Event()

            class Listener(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    arrived.set()

            transport = await engine.connect(client.sandbox_id, Listener())
            assert arrived.is_set()
            transport.close()
            info = await engine.stop(client.sandbox_id, grace_seconds=0.1)
            assert info is not None
            assert (info.status, info.exit_reason) == ("terminated", "stopped")
        assert not is_alive(client.init)
    finally:
        client.kill()
    assert await becomes(lambda: not (home() / "sandboxes" / client.sandbox_id).exists())
    assert await becomes(lambda: not is_alive(client.supervisor))


@pytest.mark.fault("F16")
async def test_many_stops_at_once_agree() -> None:
    """Fifty callers get the same end of one sandbox."""
    sandbox = await aio.Sandbox.run(engine="local")
    async with LocalEngine() as engine:
        ends = await asyncio.gather(
            *(engine.stop(sandbox.sandbox_id, grace_seconds=0.2, missing_ok=True) for _ in range(50))
        )
    assert {(info.status, info.exit_reason) for info in ends if info is not None} == {("terminated", "stopped")}
    await sandbox.stop()


async def test_a_lifetime_ends_without_the_client() -> None:
    """The supervisor holds the clock, so a frozen client or agent does not matter."""
    sandbox = await aio.Sandbox.run(engine="local", max_lifetime_seconds=0.5)
    os.kill(init_of(sandbox.sandbox_id), signal.SIGSTOP)
    await sandbox.wait_until_complete(timeout=5, raise_on_termination=False)
    assert sandbox.exit_reason == "lifetime"
    await sandbox.stop()


async def test_creating_again_under_one_id_is_the_same_only_with_the_same_body() -> None:
    """The same specification gives the same sandbox, another one is refused."""
    import attrs

    from aviato.aio._ids import new_sandbox_id
    from aviato.engines.base import SandboxSpec
    from aviato.exceptions import SandboxFailedError

    spec = SandboxSpec(sandbox_id=new_sandbox_id())
    async with LocalEngine() as engine:
        first = await engine.create(spec)
        again = await engine.create(spec)
        assert again.sandbox_id == first.sandbox_id
        assert again.created_at == first.created_at
        with pytest.raises(SandboxFailedError, match="id"):
            await engine.create(attrs.evolve(spec, tags=("other",)))
        await engine.delete(spec.sandbox_id)


async def test_a_cancelled_create_leaves_nothing() -> None:
    """Cancelled at any time of the start, it undoes what it did."""
    from aviato.aio._ids import new_sandbox_id
    from aviato.engines.base import SandboxSpec

    async with LocalEngine() as engine:
        await engine.create(SandboxSpec(sandbox_id=new_sandbox_id()))
        for milliseconds in (0, 1, 4, 8, 16, 24):
            spec = SandboxSpec(sandbox_id=new_sandbox_id())
            task = asyncio.create_task(engine.create(spec))
            asyncio.get_running_loop().call_later(milliseconds / 1000, task.cancel)
            try:
                await task
            except asyncio.CancelledError:
                with pytest.raises(SandboxNotFoundError):
                    await engine.get(spec.sandbox_id)
                assert not (home() / "sandboxes" / spec.sandbox_id).exists()
