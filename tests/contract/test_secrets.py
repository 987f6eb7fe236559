"""Secrets: where a command finds them, and all the places where they must not be; on every engine that gives them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.aio._config import LARGEST_SECRETS
from aviato.engines.local.engine import LocalEngine

VALUE = "correct horse battery staple"
SHOW = "cat /run/secrets/*; stat -c '%a %U' /run/secrets/AVIATO_TEST_SECRET; env | grep -c AVIATO_TEST_SECRET"


def files_with(value: bytes) -> list[Path]:
    """List the files of the state directory that hold something."""
    files = [path for path in Path(os.environ["AVIATO_HOME"]).rglob("*") if path.is_file()]
    assert any(path.name.endswith(".json") for path in files)
    return [path for path in files if value in path.read_bytes()]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVIATO_TEST_SECRET", VALUE)


@pytest.mark.parametrize("user", [None, "nobody", "1234:0"])
async def test_a_command_reads_its_secrets(engine: Any, user: str | None) -> None:
    """As the user that it has, from a file for that user alone; it is in nobody's environment."""
    if engine not in {"local", "docker"}:
        pytest.skip("the engine in memory has no secrets")
    if engine == "local" and not LocalEngine().capabilities.users:
        pytest.skip("sandboxes of this user have one user only")
    async with aio.Session({"secrets": ["AVIATO_TEST_SECRET"], "user": user}, engine=engine) as session:
        sandbox = session.sandbox()
        done = await sandbox.exec(["sh", "-c", SHOW])
        assert done.stdout == f"{VALUE}400 {'UNKNOWN' if user == '1234:0' else user or 'root'}\n0\n"
        other = await sandbox.exec(["cat", "/run/secrets/AVIATO_TEST_SECRET"], user="4321")
        assert other.returncode == 1
        assert VALUE not in other.stdout


async def test_a_main_command_finds_them(engine: Any) -> None:
    """They are there before anything runs."""
    if engine not in {"local", "docker"}:
        pytest.skip("the engine in memory has no secrets")
    script = "read -r line < /run/secrets/AVIATO_TEST_SECRET; test ${#line} = " + str(len(VALUE))
    async with aio.Session({"secrets": ["AVIATO_TEST_SECRET"]}, engine=engine) as session:
        sandbox = session.sandbox(command="sh", args=["-c", script + "; exit $?"])
        await sandbox.wait_until_complete(timeout=30)
        assert sandbox.returncode == 0


async def test_they_are_nowhere_on_this_machine(local_engine: None, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a record, a log, a representation, or an argument or environment of a process of the sandbox."""
    async with aio.Session({"secrets": ["AVIATO_TEST_SECRET"]}, engine="local") as session:
        sandbox = session.sandbox()
        found = await sandbox.exec(["sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true"])
        assert VALUE not in found.stdout
        assert VALUE not in repr(sandbox) + repr(session.defaults) + repr(sandbox._life.spec)
        assert await asyncio.to_thread(files_with, VALUE.encode()) == []
    assert VALUE not in caplog.text


@pytest.mark.parametrize(
    ("secrets", "error", "text"),
    [
        (["AVIATO_NO_SUCH_SECRET"], ValueError, "no such variable"),
        (["../../etc/passwd"], ValueError, "'../../etc/passwd'"),
        ("AVIATO_TEST_SECRET", TypeError, "secrets"),
    ],
)
async def test_what_is_no_secret(secrets: Any, error: type[Exception], text: str) -> None:
    """Is an error at the call."""
    async with aio.Session(engine="local") as session:
        with pytest.raises(error, match=text):
            session.sandbox(secrets=secrets)


async def test_secrets_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together have a limit."""
    names = [f"AVIATO_TEST_LARGE_{number}" for number in range(6)]
    for name in names:
        monkeypatch.setenv(name, "x" * (LARGEST_SECRETS // 5))
    async with aio.Session(engine="local") as session:
        with pytest.raises(ValueError, match="512 KiB"):
            session.sandbox(secrets=names)


async def test_a_user_who_is_not_there(engine: Any) -> None:
    """Without anybody to own them, nothing starts."""
    if engine not in {"local", "docker"}:
        pytest.skip("the engine in memory has no secrets")
    async with aio.Session({"secrets": ["AVIATO_TEST_SECRET"], "user": "nosuchuser"}, engine=engine) as session:
        with pytest.raises(aviato.AviatoError, match="unknown user nosuchuser") as caught:
            await session.sandbox()
        assert VALUE not in str(caught.value)
