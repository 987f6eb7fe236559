"""The smaller promises of sessions and sandboxes, on every engine and both faces."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

import aviato
from aviato.models import SandboxInfo
from tests.contract.faces import Face


async def test_changes_are_reported_in_order_on_a_thread_of_their_own(face: Face) -> None:
    """report_to is told of each status, never on the event loop, and a callback that fails does no harm."""
    seen: list[SandboxInfo] = []
    threads: set[str] = set()
    ended = threading.Event()

    def report(info: SandboxInfo) -> None:
        seen.append(info)
        threads.add(threading.current_thread().name)
        if info.status.is_terminal:
            ended.set()
        raise RuntimeError("a reporter with a fault")

    async with face.module.Session(engine=face.engine, report_to=report) as session:
        sandbox = session.sandbox()
        await sandbox
    assert await asyncio.to_thread(ended.wait, 10)
    statuses = [info.status for info in seen]
    assert statuses[-1] == "terminated"
    assert "running" in statuses
    assert statuses == sorted(statuses, key=["pending", "creating", "running", "terminating", "terminated"].index)
    assert threads == {"aviato-report"}
    reporters = [thread for thread in threading.enumerate() if thread.name == "aviato-report"]
    for thread in reporters:
        await asyncio.to_thread(thread.join, 10)


async def test_a_reporter_that_cannot_be_called_is_refused(face: Face) -> None:
    """The error is at the constructor and names the argument."""
    with pytest.raises(TypeError, match="report_to"):
        face.module.Session(engine=face.engine, report_to="wandb")


async def test_a_session_can_be_had_from_the_sandbox_class(face: Face) -> None:
    """Sandbox.session(defaults) is Session(defaults)."""
    session = face.Sandbox.session({"tags": ["from-the-class"]})
    assert isinstance(session, face.module.Session)
    assert session.defaults.tags == ("from-the-class",)
    await session.close()


async def test_defaults_are_merged_and_overridden(face: Face) -> None:
    """Overrides win; tags, variables and annotations are merged."""
    defaults = {"tags": ("a",), "environment_variables": {"X": "1", "Y": "1"}, "annotations": {"k": "1"}}
    async with face.session(**defaults) as session:
        sandbox = session.sandbox(tags=["b"], environment_variables={"Y": "2"}, annotations={"l": "2"})
        assert sandbox.tags == ("a", "b")
        assert (sandbox.annotations["k"], sandbox.annotations["l"]) == ("1", "2")
        assert (await sandbox.exec(["sh", "-c", "echo $X $Y"])).stdout == "1 2\n"


async def test_logs_can_be_cut_by_time(face: Face) -> None:
    """since_time leaves out what is older; a time without a zone is refused."""
    sandbox = face.run("sh", "-c", "echo old")
    await sandbox.wait_until_complete(timeout=20)
    assert [line async for line in sandbox.stream_logs(since_time=time.time() + 60)] == []
    assert [line async for line in sandbox.stream_logs(since_time=1.0)] == ["old\n"]
    with pytest.raises(ValueError, match="zone"):
        sandbox.stream_logs(since_time=aviato_naive_time())
    with pytest.raises(ValueError, match="tail_lines"):
        sandbox.stream_logs(tail_lines=-1)


def aviato_naive_time() -> Any:
    """Return a time that says nothing of its zone."""
    from datetime import datetime

    return datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point


async def test_a_dropped_sandbox_warns_with_its_id(engine: Any) -> None:
    """One that was started and never stopped is not forgotten silently."""
    from aviato import aio

    sandbox = aio.Sandbox.run(engine=engine)
    await sandbox
    sandbox_id = sandbox.sandbox_id
    kept = [sandbox]
    del sandbox
    with pytest.warns(ResourceWarning, match=sandbox_id):
        _forget(kept)
    await aio.Sandbox.delete(sandbox_id, engine=engine)


def _forget(kept: list[Any]) -> None:
    kept.clear()
    gc.collect()


async def test_values_are_the_same_objects_on_both_faces() -> None:
    """Exceptions and values are defined once."""
    from aviato import exceptions, models

    assert aviato.SandboxTimeoutError is exceptions.SandboxTimeoutError
    assert aviato.ProcessResult is models.ProcessResult
