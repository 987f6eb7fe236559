"""A connection to the daemon that fails at each request of each operation, in each way.

Every operation settles in time, with its result or with an error that says whether it was done; and when the daemon
can be reached again, everything works and nothing is left.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aviato import aio
from aviato.aio._ids import new_sandbox_id
from aviato.engines.base import SandboxQuery, SandboxSpec
from aviato.engines.docker import hijack
from aviato.engines.docker.engine import DockerEngine
from aviato.exceptions import AviatoError, EngineConnectionError, EngineError, Outcome
from aviato.models import MountedFile, SandboxStatus
from tests.helpers.docker import ask, containers, require_docker
from tests.helpers.proxy import HARMLESS, Fault, Proxy

pytestmark = pytest.mark.docker
SECONDS = 1.0
PATIENCE = 30.0
WRITER = """
import sys
for n in range(4):
    sys.stdout.write('x' * 200_000)
    sys.stdout.flush()
    input()
print('end')
"""
CREATING = (
    "/images/.*/json",
    "/containers/create",
    "/containers/.*/archive",
    "/containers/.*/start",
    "/containers/.*/exec ",
    "/exec/.*/start",
    "GET .*/containers/.*/json",
)
STOPPING = ("/rename", "/kill", "/wait", "GET .*/containers/.*/json")


@pytest.fixture
async def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A daemon behind a proxy, and shorter patience with it."""
    require_docker()
    monkeypatch.setattr(hijack, "ANSWER_SECONDS", SECONDS)
    async with Proxy(tmp_path) as made:
        yield made


def engine_behind(proxy: Proxy) -> DockerEngine:
    """Make an engine that waits a second where others wait a minute."""
    engine = DockerEngine(proxy.endpoint)
    engine._api.seconds = engine.undo_seconds = SECONDS
    return engine


def new_spec() -> SandboxSpec:
    """Ask for a sandbox with everything that makes another request."""
    return SandboxSpec(
        sandbox_id=new_sandbox_id(),
        mounted_files=(MountedFile("/app/x", b"x"),),
        orphan_timeout_seconds=60.0,
        max_lifetime_seconds=300.0,
    )


def check(error: AviatoError, fault: Fault) -> None:
    """See that an error is one of the connection and does not claim too much."""
    assert isinstance(error, EngineError), error
    assert error.outcome in set(Outcome)
    if fault in {Fault.STALL_ANSWER, Fault.RESET_ANSWER, Fault.CUT}:
        assert error.outcome is Outcome.UNKNOWN, error  # it may well have been done


@pytest.mark.parametrize(("request_", "fault"), list(itertools.product(CREATING, Fault)))
async def test_create(proxy: Proxy, request_: str, fault: Fault) -> None:
    """It is made, or nothing is left of it when the daemon answers again."""
    before = await asyncio.to_thread(containers, running=False)  # other tests' engines keep some for their logs
    async with engine_behind(proxy) as engine:
        spec = new_spec()
        proxy.plan(request_, fault)
        made = False
        try:
            async with asyncio.timeout(PATIENCE):
                made = (await engine.create(spec)).status is SandboxStatus.RUNNING
        except AviatoError as error:
            check(error, fault)
        assert proxy.struck.is_set()
        assert made or fault not in HARMLESS
        proxy.restore()
        if not made and request_ != CREATING[-1]:  # the last one looks at what has been made
            again = SandboxSpec(sandbox_id=new_sandbox_id(), max_lifetime_seconds=300.0)
            await engine.create(again)
            await engine.delete(again.sandbox_id)
    assert set(await asyncio.to_thread(containers, running=False)) <= set(before)


@pytest.mark.parametrize(("request_", "fault"), list(itertools.product(STOPPING, Fault)))
async def test_stop(proxy: Proxy, request_: str, fault: Fault) -> None:
    """It has ended, or an error says that this is not known; a further stop ends it."""
    before = await asyncio.to_thread(containers, running=False)
    async with engine_behind(proxy) as engine:
        spec = new_spec()
        await engine.create(spec)
        proxy.plan(request_, fault)
        try:
            async with asyncio.timeout(PATIENCE):
                info = await engine.stop(spec.sandbox_id, grace_seconds=0.2)
            assert info is not None
            assert info.status is SandboxStatus.TERMINATED
        except AviatoError as error:
            assert fault not in HARMLESS
            check(error, fault)
        assert proxy.struck.is_set()
        proxy.restore()
        info = await engine.stop(spec.sandbox_id, grace_seconds=0)
        assert info is not None
        assert info.status is SandboxStatus.TERMINATED
        await engine.delete(spec.sandbox_id)
    assert set(await asyncio.to_thread(containers, running=False)) <= set(before)


@pytest.mark.parametrize("fault", list(Fault))
async def test_list(proxy: Proxy, fault: Fault) -> None:
    """All of them are there, or it fails: a part is never given for the whole without an error."""
    async with engine_behind(proxy) as engine:
        specs = [new_spec() for _ in range(3)]
        for spec in specs:
            await engine.create(spec)
        for request_ in ("/containers/json", "GET .*/containers/sbx-.*/json"):
            proxy.plan(request_, fault)
            try:
                async with asyncio.timeout(PATIENCE):
                    found = {info.sandbox_id async for info in engine.list(SandboxQuery())}
                assert found >= {spec.sandbox_id for spec in specs}
            except AviatoError as error:
                assert fault not in HARMLESS
                check(error, fault)
            proxy.restore()
        assert {info.sandbox_id async for info in engine.list(SandboxQuery())} >= {spec.sandbox_id for spec in specs}


@pytest.mark.parametrize("fault", [Fault.RESET_REQUEST, Fault.RESET_ANSWER, Fault.CUT])
async def test_watch(proxy: Proxy, fault: Fault) -> None:
    """It fails, and a new one tells what happened meanwhile."""
    async with engine_behind(proxy) as engine:
        spec = new_spec()
        await engine.create(spec)
        proxy.plan("/events", fault)
        first = asyncio.ensure_future(anext(aiter(engine.watch())))
        await proxy.struck.wait()
        path = f"/containers/{spec.sandbox_id}"
        await asyncio.to_thread(ask, "POST", f"{path}/pause")  # events for the answers that are to be reset
        await asyncio.to_thread(ask, "POST", f"{path}/unpause")
        with pytest.raises(EngineError):
            async with asyncio.timeout(PATIENCE):
                await first
        proxy.restore()
        await asyncio.to_thread(ask, "POST", f"{path}/kill")
        seen = []
        async with asyncio.timeout(PATIENCE):
            async for info in engine.watch():
                seen.append(info.status)
                if info.status.is_terminal:
                    break
        assert seen[-1] is SandboxStatus.FAILED


async def test_a_watch_of_a_daemon_that_falls_silent(proxy: Proxy) -> None:
    """It fails: nothing that happens would be heard of."""
    async with engine_behind(proxy) as engine:
        engine.quiet_seconds = 0.05
        await engine.prune(dry_run=True)
        proxy.plan("/_ping", Fault.SLOW)
        first = asyncio.ensure_future(anext(aiter(engine.watch())))
        await proxy.struck.wait()
        assert not first.done()
        proxy.stall()
        with pytest.raises(EngineConnectionError, match="say that it is there"):
            async with asyncio.timeout(PATIENCE):
                await first


@pytest.mark.parametrize("how", ["cut", "stall", "slow"])
async def test_exec(proxy: Proxy, how: str) -> None:
    """Every byte of a command's output arrives once, whatever happens to the stream meanwhile."""
    engine = engine_behind(proxy)
    async with engine, aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        await sandbox
        if how == "slow":
            proxy.plan("/exec/.*/start", Fault.SLOW)
            proxy.cut()
        process = sandbox.exec(["python", "-c", WRITER], stdin=True)
        assert process.stdin is not None
        for _ in range(4):
            if how == "cut":
                proxy.cut()
            elif how == "stall":
                proxy.stall()
            await process.stdin.writeline("")
            proxy._flows.set()
        done = await process
        assert done.stdout == "x" * 800_000 + "end\n"
        assert done.returncode == 0


async def test_a_session_whose_daemon_goes_and_comes_back(proxy: Proxy) -> None:
    """What is asked meanwhile fails in its time; afterwards the same handles work."""
    engine = engine_behind(proxy)
    async with engine, aio.Session({"request_timeout_seconds": 5}, engine=engine) as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["echo", "before"])).stdout == "before\n"
        proxy.stall()
        proxy.cut()
        late = session.sandbox()
        with pytest.raises(AviatoError) as caught:
            async with asyncio.timeout(PATIENCE):
                await late
        assert caught.value.is_infrastructure
        with pytest.raises((EngineConnectionError, AviatoError)):
            async with asyncio.timeout(PATIENCE):
                await sandbox.get_status()
        proxy.restore()
        assert (await sandbox.exec(["echo", "after"])).stdout == "after\n"
        assert (await session.sandbox().exec(["echo", "new"])).stdout == "new\n"
