"""A container whose file system cannot be written: where it can be, how much, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.engines.base import SandboxSpec
from aviato.engines.docker.container import make_plan
from aviato.models import Protection, Resources
from tests.docker.conftest import ID
from tests.helpers.docker import require_docker

pytestmark = pytest.mark.docker
TRY = 'for d in / /usr /etc /root /var/tmp /run "$@"; do if (: > "$d/x") 2>/dev/null; then echo "$d"; fi; done'


async def written(sandbox: aio.Sandbox, *places: str, **options: Any) -> list[str]:
    """List the places that a command could write to."""
    return (await sandbox.exec(["sh", "-c", TRY, "sh", *places], **options)).stdout.split()


@pytest.mark.parametrize("user", [None, "1234:1234"])
async def test_where_it_can_be_written(user: str | None) -> None:
    """Below temp_dir and working_dir, for root and for others; commands, functions and files work there."""
    require_docker()
    config = {"read_only": True, "working_dir": "/work", "temp_dir": "/scratch", "user": user}
    async with aio.Session(config, engine="docker") as session:
        sandbox = session.sandbox(resources={"disk": "8Mi"})
        assert await written(sandbox, "/tmp", "/work", "/scratch") == ["/work", "/scratch"]
        await sandbox.write_file("/work/file", b"data")
        assert await sandbox.read_file("/work/file") == b"data"
        with pytest.raises(aviato.SandboxFileError, match=r"(?i)read-only"):
            await sandbox.write_file("/usr/file", b"data")
        full = await sandbox.exec(["head", "-c", "16000000", "/dev/zero"], cwd="/work")
        assert full.returncode == 0
        done = await sandbox.exec(["sh", "-c", "head -c 16000000 /dev/zero > /work/large"])
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert sandbox.isolation is not None
        assert sandbox.isolation.disk is Protection.HARD


async def test_without_it() -> None:
    """The container's file system is the sandbox's own, and can be written."""
    require_docker()
    async with aio.Session(engine="docker") as session:
        assert "/usr" in await written(session.sandbox())


async def test_with_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at once."""
    require_docker()
    monkeypatch.setenv("AVIATO_TEST_SECRET", "value")
    async with aio.Session({"read_only": True, "secrets": ["AVIATO_TEST_SECRET"]}, engine="docker") as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["cat", "/run/secrets/AVIATO_TEST_SECRET"])).stdout == "value"
        assert await written(sandbox, "/tmp", "/workspace") == ["/tmp", "/workspace"]


async def test_with_mounted_files() -> None:
    """Which the daemon could not put there: it is said before anything is made."""
    require_docker()
    files = [{"path": "/app/x", "content": "x"}]
    async with aio.Session({"read_only": True, "mounted_files": files}, engine="docker") as session:
        with pytest.raises(aviato.CapabilityError, match="mounted_files"):
            await session.sandbox()


def test_the_images_own_working_directory() -> None:
    """Stays as it is, with what the image has there; sizes follow the memory when no disk is asked for."""
    image = {"Id": "sha256:1", "Config": {"WorkingDir": "/srv"}}
    spec = SandboxSpec(sandbox_id=ID, read_only=True, resources=Resources(memory="64Mi"))
    host = make_plan(spec, image, "image", "t", {}).body["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/tmp": f"rw,exec,nosuid,nodev,size={16 << 20},mode=1777"}
    assert "StorageOpt" not in host
