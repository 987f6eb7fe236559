"""The life of sandboxes and what sessions keep of them, on every engine and both faces: sentences of API.md."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest

import aviato
from aviato.engines.docker.images import DEFAULT_IMAGE as DOCKER_IMAGE
from tests.contract.faces import Face


async def test_starting_and_waiting(face: Face) -> None:
    """start() starts a sandbox that was only made, twice is once; wait() and await give the sandbox itself."""
    sandbox = face.Sandbox(engine=face.engine)
    assert sandbox.started_at is None
    await sandbox.start()
    await sandbox.start()
    assert await sandbox.wait(timeout=20) is sandbox
    assert await sandbox is sandbox
    assert sandbox.status == "running"
    await sandbox.stop()
    with pytest.raises(aviato.SandboxTerminatedError):
        await sandbox.start()


async def test_statuses_are_strings_and_final(face: Face) -> None:
    """The last status seen needs no I/O, asking gives the present one, and an end stays one."""
    sandbox = face.run()
    assert isinstance(sandbox.status, aviato.SandboxStatus)
    await sandbox
    before = sandbox.status_updated_at
    assert before.tzinfo is not None
    assert before <= datetime.now(UTC)
    await sandbox.stop()
    assert str(sandbox.status) == "terminated"
    assert sandbox.status_updated_at >= before
    for _ in range(2):
        assert await sandbox.get_status() is aviato.SandboxStatus.TERMINATED


async def test_a_return_code_is_right_however_the_end_is_seen(face: Face) -> None:
    """By the handle that started it, by one that attached after the end, and by a list."""
    tag = f"code-{secrets.token_hex(4)}"
    sandbox = face.run("sh", "-c", "exit 23", tags=[tag], detached=True)
    with pytest.raises(aviato.SandboxFailedError) as caught:
        await sandbox.wait_until_complete(timeout=20)
    assert caught.value.sandbox_id == sandbox.sandbox_id
    attached = await face.Sandbox.from_id(sandbox.sandbox_id, engine=face.engine)
    (listed,) = await face.Sandbox.list(tags=[tag], include_stopped=True, engine=face.engine)
    assert [(s.status, s.returncode) for s in (sandbox, attached, listed)] == [("failed", 23)] * 3
    assert await face.Sandbox.list(tags=[tag], engine=face.engine) == []
    await face.Sandbox.delete(sandbox.sandbox_id, engine=face.engine)


async def test_stopping_gives_the_main_command_time(face: Face) -> None:
    """SIGTERM first: what the command does with it is in the logs; without grace it gets no such chance."""
    script = "exec 2>/dev/null; trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    sandbox = face.run("sh", "-c", script)
    assert await anext(aiter(sandbox.stream_logs(follow=True))) == "up\n"
    await sandbox.stop(graceful_shutdown_seconds=20)
    assert sandbox.status == "terminated"
    assert [line async for line in sandbox.stream_logs()][-1] == "bye\n"
    for wrong in (-1, "soon", float("nan")):
        with pytest.raises((TypeError, ValueError), match="graceful_shutdown_seconds"):
            await sandbox.stop(graceful_shutdown_seconds=wrong)


async def test_a_log_that_is_followed_ends_with_the_sandbox(face: Face) -> None:
    """Lines arrive while the main command runs, and the iteration ends when it does."""
    async with face.run("sh", "-c", "echo one; while ! [ -d /tmp/go ]; do sleep 0.05; done; echo two") as sandbox:
        lines = aiter(sandbox.stream_logs(follow=True))
        assert await anext(lines) == "one\n"
        rest = asyncio.ensure_future(_all(lines))
        assert [line async for line in sandbox.stream_logs()] == ["one\n"]
        await sandbox.exec(["mkdir", "/tmp/go"], check=True)
        assert await rest == ["two\n"]
        assert await sandbox.wait_until_complete(timeout=20) is sandbox


async def _all(lines: Any) -> list[str]:
    return [line async for line in lines]


async def test_a_session_counts_sandboxes_by_id(face: Face) -> None:
    """Two handles of one sandbox count once, adopting twice too; what is no sandbox is refused."""
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox
        again = await session.from_id(sandbox.sandbox_id)
        session.adopt(again)
        session.adopt(again)
        assert session.sandbox_count == 1
        with pytest.raises((TypeError, ValueError), match="sandbox"):
            session.adopt("sbx-0000000000000000")
        with pytest.raises((TypeError, ValueError), match="sandbox"):
            session.adopt(None)


async def test_attaching_adopts_unless_told_not_to(face: Face) -> None:
    """from_id adopts by default and list only on request; what is not adopted outlives the session."""
    tag = f"adopt-{secrets.token_hex(4)}"
    theirs, listed = face.run(tags=[tag, "theirs"]), face.run(tags=[tag, "listed"])
    await theirs
    await listed
    async with face.session() as session:
        await session.from_id(theirs.sandbox_id, adopt=False)
        await session.list(tags=[tag])
        assert session.sandbox_count == 0
        await session.list(tags=["listed"], adopt=True)
        assert session.sandbox_count == 1
    assert await theirs.get_status() == "running"
    assert await listed.get_status() == "terminated"
    async with face.session() as session:
        await session.from_id(theirs.sandbox_id)
    assert await theirs.get_status() == "terminated"


async def test_a_handle_that_was_found_does_not_stop_it(face: Face) -> None:
    """Dropping an attached handle warns nobody and ends nothing; using it as a block stops it, as for any other."""
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox
        async with await face.Sandbox.from_id(sandbox.sandbox_id, engine=face.engine) as attached:
            assert (await attached.exec(["true"])).returncode == 0
        assert await sandbox.get_status() == "terminated"


async def test_filters_are_checked(face: Face) -> None:
    """A status that is none, or a bare string for tags, is refused with the right form."""
    with pytest.raises(ValueError, match="status"):
        await face.Sandbox.list(status="jogging", engine=face.engine)
    with pytest.raises(TypeError, match=r"\['x'\]"):
        await face.Sandbox.list(tags="x", engine=face.engine)


async def test_deleting_twice_is_not_found_unless_that_is_fine(face: Face) -> None:
    """delete() is exact by default, and quiet on request."""
    sandbox = face.run()
    await sandbox
    await face.Sandbox.delete(sandbox.sandbox_id, engine=face.engine)
    with pytest.raises(aviato.SandboxNotFoundError):
        await face.Sandbox.delete(sandbox.sandbox_id, engine=face.engine)
    await face.Sandbox.delete(sandbox.sandbox_id, missing_ok=True, engine=face.engine)


async def test_limits_of_time_end_it_with_their_reason(face: Face) -> None:
    """max_lifetime_seconds and idle_timeout_seconds end a sandbox by themselves; a use of it then says why."""
    async with face.session() as session:
        short = session.sandbox(max_lifetime_seconds=0.8)
        idle = session.sandbox(idle_timeout_seconds=0.5)
        for sandbox, reason in ((short, aviato.ExitReason.LIFETIME), (idle, aviato.ExitReason.IDLE)):
            with pytest.raises(aviato.SandboxTerminatedError):
                await sandbox.wait_until_complete(timeout=20)
            assert sandbox.exit_reason is reason
            with pytest.raises(aviato.SandboxTerminatedError):
                await sandbox.exec(["true"])
        assert session.sandbox_count == 0


async def test_a_lifetime_can_be_extended(face: Face) -> None:
    """extend_lifetime() counts from now; nonsense is refused."""
    async with face.session() as session:
        sandbox = session.sandbox(max_lifetime_seconds=1.5)
        await sandbox
        await sandbox.extend_lifetime(600)
        with pytest.raises(TimeoutError):
            await sandbox.wait_until_complete(timeout=2)
        assert (await sandbox.exec(["echo", "alive"])).stdout == "alive\n"
        with pytest.raises(ValueError, match="seconds"):
            await sandbox.extend_lifetime(-1)


async def test_attributes_without_io(face: Face) -> None:
    """What was asked for can be read back at once; nothing is exposed unless asked."""
    async with face.session(resources={"memory": "256Mi"}) as session:
        sandbox = session.sandbox(tags=["a"])
        assert sandbox.sandbox_id
        assert sandbox.tags == ("a",)
        assert sandbox.resources == aviato.Resources(memory="256Mi")
        assert dict(sandbox.exposed_ports) == {}
        assert sandbox.service_address is None
        assert sandbox.returncode is None
        with pytest.raises(AttributeError):
            sandbox.tags = ("b",)
        await sandbox
        assert sandbox.container_image == {"local": "host", "docker": DOCKER_IMAGE}.get(face.engine_name, "python:3.11")


async def test_what_no_engine_here_can_do_is_refused(face: Face) -> None:
    """Volumes, secrets, ports, runtimes, pulls are errors that name them, at the first use: nothing is ignored."""
    able = face.capabilities
    for config in (
        {"volumes": [{"name": "data", "mount_path": "/data"}]},
        {"secrets": ["token"]},
        {"ports": [8080]},
        {"runtime": "runsc"},
        {"read_only": True},
        {"pull_policy": "always"},
    ):
        if face.engine_name != "local" and "pull_policy" in config:
            continue
        if getattr(able, next(iter(config)), False) and "ports" not in config:  # ports are not let in here
            continue
        sandbox: Any = None
        with pytest.raises((aviato.CapabilityError, TypeError, ValueError)) as caught:
            async with face.session() as session:
                sandbox = session.sandbox(**config)
                await sandbox
        assert next(iter(config)).rstrip("s") in str(caught.value)


async def test_closing_says_how_many_failed_and_tries_them_again(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are attempted, the error has number and ids and the causes, and a further close stops the survivors."""
    from aviato.aio._life import Life

    session = face.session()
    sandboxes = [session.sandbox() for _ in range(3)]
    for sandbox in sandboxes:
        await sandbox
    stuck = {sandbox.sandbox_id for sandbox in sandboxes[:2]}
    real = Life.stop

    async def stop(self: Life, *args: Any, **options: Any) -> None:
        if self.info.sandbox_id in stuck:
            raise aviato.EngineConnectionError("the engine is away")
        await real(self, *args, **options)

    monkeypatch.setattr(Life, "stop", stop)
    with pytest.raises(aviato.SandboxError) as caught:
        await session.close()
    assert "2" in str(caught.value)
    for sandbox_id in stuck:
        assert sandbox_id in str(caught.value)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 2
    assert sandboxes[2].status == "terminated"
    assert session.sandbox_count == 2
    stuck.clear()
    await session.close()
    assert {sandbox.status for sandbox in sandboxes} == {aviato.SandboxStatus.TERMINATED}


async def test_a_close_that_is_cancelled_goes_on(face: Face) -> None:
    """Nothing is left running because somebody stopped waiting."""
    session = face.session()
    sandbox = session.sandbox()
    await sandbox

    async def close() -> None:
        await session.close()

    closing = asyncio.ensure_future(close())
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # on the front door it may be over by then
        await closing
    await session.close()
    assert sandbox.status == "terminated"


async def test_a_command_with_a_blank_gets_a_hint(face: Face) -> None:
    """The commonest slip with a main command is named with what to write."""
    sandbox = face.run("sleep 5")
    with pytest.raises(aviato.SandboxFailedError, match="127") as caught:
        await sandbox.wait_until_complete(timeout=20)
    assert caught.value.hint is not None
    assert "command='sleep'" in caught.value.hint
