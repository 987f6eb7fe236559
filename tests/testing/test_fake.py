"""What the fake engine adds to the contract: clocks, programs, machines shared by clients, GPUs."""

from __future__ import annotations

import asyncio

import pytest

import aviato
from aviato import aio
from aviato.engines.base import SandboxSpec
from aviato.testing import FakeEngine, ManualClock, Program

ID = "sbx-0000000000000000"


async def test_time_limits_follow_the_clock_that_is_given() -> None:
    """A lifetime of a day passes in no time, to the second."""
    clock = ManualClock()
    async with FakeEngine(clock=clock) as engine:
        await engine.create(SandboxSpec(sandbox_id=ID, max_lifetime_seconds=86400))
        sandbox = engine.machine.find(ID)
        clock.advance(86399)
        assert sandbox.info.status is aviato.SandboxStatus.RUNNING
        await engine.extend(ID, 10)
        clock.advance(10)
        assert sandbox.info.status is aviato.SandboxStatus.RUNNING
        clock.advance(1)
        await sandbox.over.wait()
        assert sandbox.info.exit_reason is aviato.ExitReason.LIFETIME
        assert sandbox.info.ended_at is not None
        assert (sandbox.info.ended_at - sandbox.info.created_at).total_seconds() == 86410


class Broken(FakeEngine):
    """An engine with faults of its own, whose errors are nothing that an engine may raise."""

    async def create(self, spec: SandboxSpec) -> aviato.SandboxInfo:
        """Fail."""
        raise LookupError(f"cannot create {spec.sandbox_id}")

    async def delete(self, sandbox_id: str, *, missing_ok: bool = False) -> None:
        """Fail as well."""
        raise LookupError(f"cannot delete {sandbox_id}, {missing_ok}")


async def test_a_start_whose_undoing_fails_too_is_heard_of() -> None:
    """Whoever waits gets the reason of the start, and does not wait for ever."""
    async with asyncio.timeout(10):
        sandbox = aio.Sandbox.run(engine=Broken())
        with pytest.raises(LookupError, match="cannot create"):
            await sandbox
        with pytest.raises(LookupError, match="cannot create"):
            await sandbox.exec(["true"])
    assert sandbox.status is aviato.SandboxStatus.FAILED


async def test_idle_time_runs_only_between_commands() -> None:
    """A running command keeps the sandbox; its end starts the clock."""
    clock = ManualClock()
    engine = FakeEngine(clock=clock)
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox(idle_timeout_seconds=60)
        process = sandbox.exec(["cat"], stdin=True)
        await sandbox
        assert process.stdin is not None
        await process.stdin.writeline("x")
        assert await anext(aiter(process.stdout)) == "x\n"
        clock.advance(3600)
        assert engine.machine.find(sandbox.sandbox_id).info.status is aviato.SandboxStatus.RUNNING
        await process.stdin.close()
        await process
        clock.advance(60)
        await sandbox.wait_until_complete(raise_on_termination=False)
        assert sandbox.exit_reason is aviato.ExitReason.IDLE


async def test_orphans_end_when_their_client_vanished() -> None:
    """Two seconds by default; a detached one stays; a client that comes back in time saves it."""
    clock = ManualClock()
    engine = FakeEngine(clock=clock)
    other = engine.another_client()
    ids = [f"sbx-000000000000000{n}" for n in range(3)]
    for name in ids:
        await engine.create(SandboxSpec(sandbox_id=name, detached=name == ids[1]))
    engine.abandon()
    (await other.connect(ids[2], asyncio.Protocol())).abort()
    clock.advance(2)
    await engine.machine.find(ids[0]).over.wait()
    assert (await other.get(ids[0])).exit_reason is aviato.ExitReason.TIMEOUT
    assert (await other.get(ids[1])).status is aviato.SandboxStatus.RUNNING
    assert (await other.get(ids[2])).status is aviato.SandboxStatus.RUNNING
    for name in ids:
        await other.delete(name)
    await other.close()


async def test_programs_are_coroutines() -> None:
    """A program has arguments, environment, streams, files and signals."""

    async def greet(ctx: Program) -> int:
        name = (await ctx.read_line()).decode().strip()
        await ctx.write("stdout", f"{ctx.env['GREETING']} {name} from {ctx.cwd} as {ctx.argv[1:]}\n")
        await ctx.write("stderr", b"done\n")
        ctx.files.create("/tmp/mark").data[:] = b"was here"
        return 4

    async def patient(ctx: Program) -> int:
        told = asyncio.Event()
        ctx.on_signal(15, lambda _number: told.set())
        await ctx.write(1, "ready\n")
        await told.wait()
        await ctx.write(1, "told\n")
        return 0

    engine = FakeEngine(programs={"greet": greet, "patient": patient})
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        result = await sandbox.exec(["greet", "x"], env={"GREETING": "hello"}, cwd="/tmp", stdin="world\n")
        assert result.stdout == "hello world from /tmp as ['x']\n"
        assert (result.stderr, result.returncode) == ("done\n", 4)
        assert await sandbox.read_file("/tmp/mark") == b"was here"
        process = sandbox.exec(["patient"])
        await anext(aiter(process.stdout))
        process.send_signal(15)
        assert (await process).stdout == "ready\ntold\n"
        hanging = sandbox.exec(["patient"])
        await anext(aiter(hanging.stdout))
        hanging.kill()
        assert (await hanging).returncode == 137


async def test_a_program_that_fails_ends_itself_only() -> None:
    """Its exception is on stderr with return code 1."""

    async def broken(_ctx: Program) -> int:
        raise LookupError("not there")

    async with aio.Session(engine=FakeEngine(programs={"broken": broken})) as session:
        sandbox = session.sandbox()
        result = await sandbox.exec(["broken"])
        assert (result.returncode, result.stderr) == (1, "LookupError: not there\n")
        assert (await sandbox.exec(["echo", "fine"])).stdout == "fine\n"


async def test_gpus_are_offered_up_to_a_number() -> None:
    """One more is a CapabilityError."""
    async with aio.Session(engine=FakeEngine(gpus=2)) as session:
        assert (await session.sandbox(resources={"gpu": 2})).status == "running"
        with pytest.raises(aviato.CapabilityError, match="2"):
            await session.sandbox(resources={"gpu": 3})


async def test_images_exist_unless_said_otherwise() -> None:
    """Any name but those registered as missing."""
    async with aio.Session(engine=FakeEngine(missing_images=["gone:1"])) as session:
        assert (await session.sandbox(container_image="any/thing:2")).container_image == "any/thing:2"
        assert (await session.sandbox()).container_image == "python:3.11"
        with pytest.raises(aviato.ImageNotFoundError) as caught:
            await session.sandbox(container_image="gone:1")
        assert caught.value.image == "gone:1"


def test_it_runs_under_the_front_door_and_ends_with_the_session() -> None:
    """Plain code, no loop of one's own; two engines do not see each other's sandboxes."""
    one, two = FakeEngine(), FakeEngine()
    with aviato.Session(engine=one) as session:
        session.sandbox(tags=["t"]).wait().result()
        assert len(aviato.Sandbox.list(tags=["t"], engine=one).result()) == 1
        assert aviato.Sandbox.list(tags=["t"], engine=two).result() == []


async def test_a_machine_with_running_sandboxes_belongs_to_its_loop() -> None:
    """Another loop is refused, with the ids."""
    async with FakeEngine() as engine:
        await engine.create(SandboxSpec(sandbox_id=ID))
        with pytest.raises(RuntimeError, match=ID):
            await asyncio.to_thread(lambda: asyncio.run(engine.get(ID)))


async def test_the_machines_options_cannot_be_given_twice() -> None:
    """A second client takes the machine as it is."""
    engine = FakeEngine()
    with pytest.raises(ValueError, match="machine"):
        FakeEngine(machine=engine.machine, missing_images=["x"])


async def test_a_closed_engine_refuses() -> None:
    """Every call after close is an EngineError."""
    engine = FakeEngine()
    await engine.close()
    with pytest.raises(aviato.EngineError, match="closed"):
        await engine.get(ID)


async def test_ending_without_a_loop() -> None:
    """At the interpreter's end attached sandboxes are ended, detached ones are not."""
    engine = FakeEngine()
    names = [f"sbx-000000000000000{n}" for n in range(2)]
    for name in names:
        await engine.create(SandboxSpec(sandbox_id=name, detached=name == names[1]))
    assert engine.stop_all_at_exit(1.0) == ()
    assert [(await engine.get(name)).status.value for name in names] == ["terminated", "running"]
    for name in names:
        await engine.delete(name)
    await engine.close()


def test_a_forked_child_begins_anew() -> None:
    """What the parent made is not the child's."""
    engine = FakeEngine()
    machine = engine.machine
    engine.forget_after_fork()
    assert engine.machine is not machine


def test_a_clock_does_not_go_back() -> None:
    """advance() takes no negative time, and makes calls in order of their moments."""
    clock, made = ManualClock(100.0), []
    clock.call_later(5, lambda: made.append((5, clock.time())))
    clock.call_later(1, lambda: made.append((1, clock.time())))
    clock.call_later(2, lambda: made.append((2, clock.time()))).cancel()
    clock.advance(6)
    assert made == [(1, 101.0), (5, 105.0)]
    assert clock.time() == 106.0
    with pytest.raises(ValueError, match="negative"):
        clock.advance(-1)
