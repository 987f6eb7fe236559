"""Secrets in a container: all the places where they must not be."""

from __future__ import annotations

import asyncio
import json

import pytest

from aviato import aio
from tests.helpers.docker import ask

VALUE = "correct horse battery staple"


@pytest.mark.docker
async def test_they_are_nowhere_on_the_daemon(docker_engine: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in what it inspects, in its log, in the environment of the first process, or in the container's files."""
    monkeypatch.setenv("AVIATO_TEST_SECRET", VALUE)
    async with aio.Session({"secrets": ["AVIATO_TEST_SECRET"]}, engine="docker") as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["cat", "/run/secrets/AVIATO_TEST_SECRET"])).stdout == VALUE
        found = await sandbox.exec(["sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true"])
        assert VALUE not in found.stdout
        path = f"/containers/{sandbox.sandbox_id}"
        inspected = await asyncio.to_thread(ask, "GET", f"{path}/json")
        assert VALUE not in json.dumps(inspected)
        assert inspected["HostConfig"]["Tmpfs"].keys() == {"/run/secrets"}
        logs = await asyncio.to_thread(ask, "GET", f"{path}/logs", params={"stdout": "1", "stderr": "1"})
        assert VALUE.encode() not in (logs or b"")
        changed = await asyncio.to_thread(ask, "GET", f"{path}/changes")
        assert "/run/secrets/AVIATO_TEST_SECRET" not in {item["Path"] for item in changed or ()}
