"""Sandboxes and sessions, on every engine and both faces: what API.md says of their life."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

import aviato
from tests.contract.faces import Face, waited
from tests.local.support import becomes


async def test_a_session_stops_everything_at_its_end(face: Face) -> None:
    """Leaving the block ends every sandbox, and the count falls to zero."""
    async with face.session() as session:
        sandboxes = [session.sandbox() for _ in range(3)]
        assert session.sandbox_count == 3
        assert len({sandbox.sandbox_id for sandbox in sandboxes}) == 3
        for sandbox in sandboxes:
            await sandbox
            assert sandbox.status == "running"
    assert session.sandbox_count == 0
    assert {sandbox.status for sandbox in sandboxes} == {aviato.SandboxStatus.TERMINATED}
    assert "closed" in repr(session)


async def test_an_exception_of_the_body_propagates_and_everything_stops(face: Face) -> None:
    """The body's error wins, and the sandboxes are stopped all the same."""
    sandbox: Any = None
    with pytest.raises(ZeroDivisionError):
        async with face.session() as session:
            sandbox = session.sandbox()
            await sandbox
            _ = 1 / 0
    assert sandbox.status == "terminated"


async def test_a_closed_session_refuses_new_sandboxes(face: Face) -> None:
    """sandbox() and adopt() after close say closed; a second close is a no-op."""
    session = face.session()
    sandbox = session.sandbox()
    await sandbox
    await asyncio.gather(waited(session.close()), waited(session.close()))
    await session.close()
    with pytest.raises(aviato.SandboxError, match="closed"):
        session.sandbox()
    with pytest.raises(aviato.SandboxError, match="closed"):
        session.adopt(sandbox)


async def test_the_count_falls_when_one_is_stopped(face: Face) -> None:
    """A stopped sandbox is no longer tracked; stopping again succeeds."""
    async with face.session() as session:
        one, two = session.sandbox(), session.sandbox()
        await one
        await one.stop()
        await one.stop(missing_ok=True)
        assert session.sandbox_count == 1
        await two
    assert one.exit_reason is aviato.ExitReason.STOPPED


async def test_concurrent_stops_share_one_stop(face: Face) -> None:
    """Several callers at once all return when it is stopped."""
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox
        await asyncio.gather(*(waited(sandbox.stop()) for _ in range(5)))
        assert sandbox.status == "terminated"


async def test_using_a_stopped_sandbox_is_an_error(face: Face) -> None:
    """exec gives a process that fails with the reason; file calls raise it."""
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox
        await sandbox.stop(graceful_shutdown_seconds=0)
        with pytest.raises(aviato.SandboxTerminatedError) as caught:
            await sandbox.exec(["true"])
        assert caught.value.sandbox_id == sandbox.sandbox_id
        with pytest.raises(aviato.SandboxTerminatedError):
            await sandbox.read_file("/etc/passwd")


async def test_stopping_ends_a_running_command(face: Face) -> None:
    """A command that runs at the stop fails with what it had written."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "trap '' TERM; echo on; sleep 600"])
        await anext(aiter(process.stdout))
        await sandbox.stop(graceful_shutdown_seconds=0)
        with pytest.raises(aviato.SandboxTerminatedError) as caught:
            await process
        assert caught.value.exec_result is not None
        assert caught.value.exec_result.stdout == "on\n"


async def test_run_needs_no_session(face: Face) -> None:
    """Sandbox.run starts one, and its block stops it."""
    async with face.run() as sandbox:
        assert (await sandbox.exec(["echo", "hello"])).stdout == "hello\n"
    assert sandbox.status == "terminated"


async def test_the_constructor_does_not_start(face: Face) -> None:
    """Sandbox(...) is pending until its first operation; one never started stops at once."""
    idle = face.Sandbox(engine=face.engine)
    assert idle.status == "pending"
    await idle.stop()
    assert idle.status == "terminated"
    lazy = face.Sandbox(engine=face.engine)
    assert (await lazy.exec(["echo", "woken"])).stdout == "woken\n"
    await lazy.stop()


async def test_a_main_command_that_ends_completes_the_sandbox(face: Face) -> None:
    """Return code 0 is completed, anything else failed; the code is there."""
    good = face.run("sh", "-c", "exit 0")
    assert await good.wait_until_complete(timeout=20) is good
    assert (good.status, good.returncode) == (aviato.SandboxStatus.COMPLETED, 0)
    bad = face.run("sh", "-c", "echo dying >&2; exit 9")
    with pytest.raises(aviato.SandboxFailedError, match="9"):
        await bad.wait_until_complete(timeout=20)
    assert (bad.status, bad.returncode) == (aviato.SandboxStatus.FAILED, 9)
    with pytest.raises(aviato.SandboxNotRunningError):
        await bad.exec(["true"])


async def test_logs_are_the_main_commands_output(face: Face) -> None:
    """stream_logs works while it runs and after it ended."""
    sandbox = face.run("sh", "-c", "echo one; echo two >&2; echo three")
    lines = [line async for line in sandbox.stream_logs(follow=True)]
    assert sorted(lines) == ["one\n", "three\n", "two\n"]
    await sandbox.wait_until_complete(timeout=20)
    again = [line async for line in sandbox.stream_logs()]
    assert sorted(again) == ["one\n", "three\n", "two\n"]
    assert len([line async for line in sandbox.stream_logs(tail_lines=1)]) == 1
    (stamped,) = [line async for line in sandbox.stream_logs(tail_lines=1, timestamps=True)]
    assert stamped[:2] == "20"


async def test_wait_until_complete_tells_a_stop_from_an_end(face: Face) -> None:
    """A stopped sandbox raises, unless told not to."""
    sandbox = face.run()
    await sandbox
    with pytest.raises(TimeoutError):
        await sandbox.wait_until_complete(timeout=0.05)
    await sandbox.stop()
    with pytest.raises(aviato.SandboxTerminatedError):
        await sandbox.wait_until_complete()
    assert await sandbox.wait_until_complete(raise_on_termination=False) is sandbox


async def test_list_finds_by_tags_and_attached_handles_work(face: Face) -> None:
    """All tags must match; what is found can be used; stopped ones are hidden unless asked for."""
    tag = f"contract-list-{face.name}-{secrets.token_hex(4)}"
    async with face.session(tags=(tag,)) as session:
        one, two = session.sandbox(tags=["x"]), session.sandbox(tags=["y"])
        await asyncio.gather(waited(one), waited(two))
        assert one.tags == (tag, "x")
        found = await face.Sandbox.list(tags=[tag], engine=face.engine)
        assert {sandbox.sandbox_id for sandbox in found} == {one.sandbox_id, two.sandbox_id}
        (only,) = await session.list(tags=["x"])
        assert only.sandbox_id == one.sandbox_id
        assert (await only.exec(["echo", "found"])).stdout == "found\n"
        attached = await face.Sandbox.from_id(two.sandbox_id, engine=face.engine)
        assert (await attached.exec(["echo", "attached"])).stdout == "attached\n"
        session.adopt(attached)
        assert session.sandbox_count == 2
        await two.stop()
        assert [s.sandbox_id for s in await session.list()] == [one.sandbox_id]
        assert {s.sandbox_id for s in await session.list(include_stopped=True)} == {one.sandbox_id, two.sandbox_id}
        assert [s.sandbox_id for s in await session.list(status="terminated")] == [two.sandbox_id]


async def test_a_session_adopts_what_another_made(face: Face) -> None:
    """An adopted sandbox is stopped with the session."""
    sandbox = face.run(tags=["orphaned"])
    await sandbox
    async with face.session() as session:
        for orphan in await face.Sandbox.list(tags=["orphaned"], engine=face.engine):
            session.adopt(orphan)
        assert session.sandbox_count == 1
    assert await sandbox.get_status() == "terminated"


async def test_unknown_ids(face: Face) -> None:
    """An id that nobody knows is an error with the id, or success when that is fine; a bad id is refused."""
    unknown = "sbx-0000000000000000"
    with pytest.raises(aviato.SandboxNotFoundError) as caught:
        await face.Sandbox.from_id(unknown, engine=face.engine)
    assert caught.value.sandbox_id == unknown
    with pytest.raises(aviato.SandboxNotFoundError):
        await face.Sandbox.delete(unknown, engine=face.engine)
    await face.Sandbox.delete(unknown, missing_ok=True, engine=face.engine)
    for bad in ("../etc", "sbx-short", "", "sbx-00000000000000Il"):
        with pytest.raises(ValueError, match="sandbox_id"):
            await face.Sandbox.from_id(bad, engine=face.engine)


async def test_delete_ends_and_forgets(face: Face) -> None:
    """After delete nothing knows the sandbox."""
    sandbox = face.run(tags=["to-delete"])
    await sandbox
    await face.Sandbox.delete(sandbox.sandbox_id, engine=face.engine)
    assert sandbox.status.is_terminal
    with pytest.raises(aviato.SandboxNotFoundError):
        await face.Sandbox.from_id(sandbox.sandbox_id, engine=face.engine)


async def test_a_failed_start_surfaces_once_and_is_never_lost(face: Face) -> None:
    """At the first use, or at the latest in close, with the ids and the cause."""
    async with face.session() as session:
        wrong = session.sandbox(container_image=face.missing_image)
        fine = session.sandbox()
        with pytest.raises(aviato.ImageNotFoundError) as caught:
            await wrong.exec(["true"])
        assert face.missing_image in str(caught.value)
        assert (await fine.exec(["echo", "undisturbed"])).stdout == "undisturbed\n"
    unseen = face.session()
    lost = unseen.sandbox(container_image=face.missing_image)
    assert await becomes(lambda: lost.status.is_terminal)  # a close would cancel a start that has not failed yet
    with pytest.raises(aviato.SandboxError) as failed:
        await unseen.close()
    assert lost.sandbox_id in str(failed.value)
    assert isinstance(failed.value.__cause__, ExceptionGroup)
    await unseen.close()


async def test_a_session_on_an_unknown_engine_is_refused_at_the_call(face: Face) -> None:
    """Not at its first sandbox; the text says which there are."""
    with pytest.raises(aviato.ConfigurationError, match=r"engine must be one of local, docker.*'bogus'"):
        face.module.Session(engine="bogus")


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"imagge": "x"}, TypeError, "imagge"),
        ({"container_imag": "x"}, TypeError, "container_image"),
        ({"tags": "project"}, TypeError, "['project']"),
        ({"tags": [""]}, ValueError, "tags"),
        ({"command": ["sleep"]}, TypeError, "command"),
        ({"args": ["x"]}, ValueError, "command"),
        ({"resources": {"cpu": "-1"}}, ValueError, "resources.cpu"),
        ({"resources": {"memory": "much"}}, ValueError, "resources.memory"),
        ({"resources": {"cpus": 1}}, TypeError, "cpus"),
        ({"resources": {"cpu": 1, "requests": {"cpu": 2}}}, ValueError, "requests.cpu"),
        ({"resources": {"gpu": "many"}}, ValueError, "gpu"),
        ({"working_dir": "here"}, ValueError, "absolute"),
        ({"max_lifetime_seconds": 0}, ValueError, "max_lifetime_seconds"),
        ({"network": {"egress_mode": "all"}}, ValueError, "egress_mode"),
        ({"environment_variables": ["A=1"]}, TypeError, "environment_variables"),
        ({"mounted_files": [{"path": "x", "content": ""}]}, ValueError, "absolute"),
        ({"detached": "yes"}, TypeError, "detached"),
        ({"engine": "no-such-engine"}, aviato.ConfigurationError, "no-such-engine"),
    ],
)
async def test_bad_configuration_is_refused_at_the_call(
    face: Face, config: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The error is raised by sandbox() itself and names key, value or the right form."""
    async with face.session() as session:
        with pytest.raises(error) as caught:
            session.sandbox(**config)
        assert text in str(caught.value)
        assert session.sandbox_count == 0


async def test_handles_describe_themselves(face: Face) -> None:
    """Attributes are known values: no I/O is needed to read them."""
    async with face.session(annotations={"team": "a"}) as session:
        sandbox = session.sandbox(annotations={"job": "7"})
        assert sandbox.sandbox_id.startswith("sbx-")
        await sandbox
        assert await sandbox.get_status() == "running"
        assert sandbox.annotations["team"] == "a"
        assert sandbox.annotations["job"] == "7"
        assert "aviato.owner.pid" in sandbox.annotations
        assert sandbox.engine_name == face.engine_name
        assert sandbox.returncode is None
        assert sandbox.started_at is not None
        assert sandbox.created_at <= sandbox.status_updated_at
        assert sandbox.sandbox_id in repr(sandbox)


async def test_files_are_written_and_read(face: Face) -> None:
    """Content survives the round trip, parents are made, and text is UTF-8."""
    data = bytes(range(256)) * 4096
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox.write_file("/tmp/deep/er/data.bin", data)
        assert await sandbox.read_file("/tmp/deep/er/data.bin") == data
        await sandbox.write_file("/tmp/text", "grüße")
        assert await sandbox.read_file("/tmp/text") == "grüße".encode()
        await sandbox.write_file("/tmp/empty", b"")
        assert await sandbox.read_file("/tmp/empty") == b""


async def test_file_errors_name_the_file(face: Face) -> None:
    """A missing file, a directory and a relative path each give a clear error."""
    async with face.session() as session:
        sandbox = session.sandbox()
        with pytest.raises(aviato.SandboxFileError) as caught:
            await sandbox.read_file("/tmp/none")
        assert caught.value.filepath == "/tmp/none"
        with pytest.raises(aviato.SandboxFileError):
            await sandbox.read_file("/tmp")
        with pytest.raises(ValueError, match="absolute"):
            await sandbox.write_file("relative", b"x")
        with pytest.raises(TypeError, match="data"):
            await sandbox.write_file("/tmp/x", 5)


async def test_files_stream_in_pieces(face: Face) -> None:
    """The streaming pair takes iterables of both kinds and gives the pieces back in order."""

    async def pieces() -> Any:
        for n in range(50):
            yield bytes([n]) * 100_000

    expected = b"".join([bytes([n]) * 100_000 for n in range(50)])
    async with face.session() as session:
        sandbox = session.sandbox()
        assert await sandbox.write_file_streaming("/tmp/big", pieces()) == len(expected)
        assert b"".join([piece async for piece in sandbox.read_file_streaming("/tmp/big")]) == expected
        await sandbox.write_file_streaming("/tmp/list", [b"a", b"b"])
        assert await sandbox.read_file("/tmp/list") == b"ab"


async def test_mounted_files_are_there_and_read_only(face: Face) -> None:
    """They exist before the first command, in both spellings."""
    files = [
        {"path": "/app/config.txt", "content": "settings"},
        {"mount_path": "/app/data.bin", "file_content": b"\x00\x01"},
    ]
    async with face.session(mounted_files=files) as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["cat", "/app/config.txt"])).stdout == "settings"
        assert await sandbox.read_file("/app/data.bin") == b"\x00\x01"
        assert (await sandbox.exec(["sh", "-c", "echo x > /app/config.txt"])).returncode != 0


async def test_results_wait_and_as_completed(face: Face) -> None:
    """Values come in the order of the input; done ones in the order of completion; nothing is raised for a failure."""
    async with face.session() as session:
        sandbox = session.sandbox()
        processes = [sandbox.exec(["echo", str(n)]) for n in range(3)]
        assert [r.stdout for r in await face.results(processes)] == ["0\n", "1\n", "2\n"]
        assert await face.results([]) == []
        slow = sandbox.exec(["cat"], stdin=True)
        quick = sandbox.exec(["true"])
        done, pending = await face.wait([slow, quick], num_returns=1)
        assert done == [quick]
        assert pending == [slow]
        done, pending = await face.wait([slow], timeout=0.05)
        assert (done, pending) == ([], [slow])
        with pytest.raises(ValueError, match="num_returns"):
            await face.wait([slow], num_returns=0)
        done, pending = await face.wait([sandbox])
        assert done == [sandbox]
        assert slow.stdin is not None
        await slow.stdin.close()
        assert [item async for item in face.as_completed([slow, quick])][-1] in (slow, quick)


async def test_stopping_while_it_starts_is_no_failure(face: Face) -> None:
    """A block that ends before the start did stops the start, leaves nothing and raises nothing."""
    async with face.run() as sandbox:
        pass
    assert sandbox.status == "terminated"
    async with face.session() as session:
        session.sandbox()
