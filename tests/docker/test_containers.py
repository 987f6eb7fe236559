"""What happens to a container from outside: each end has its state and reason, and lost streams are taken up again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import aviato
from aviato import aio
from aviato.engines.base import SandboxSpec
from aviato.engines.docker.endpoint import Endpoint, find_endpoint
from aviato.engines.docker.engine import DockerEngine
from aviato.engines.docker.images import DEFAULT_IMAGE
from aviato.models import ExitReason, SandboxStatus
from tests.helpers.docker import BARE_IMAGE, BUSYBOX_IMAGE, ask, containers, need_busybox
from tests.helpers.proxy import Proxy
from tests.local.support import becomes

pytestmark = pytest.mark.docker


async def control(method: str, sandbox_id: str, action: str, **more: str) -> None:
    """Do something to a container behind aviato's back."""
    await asyncio.to_thread(ask, method, f"/containers/{sandbox_id}{action}", params=more or None)


async def test_a_container_that_is_paused() -> None:
    """It is seen, commands wait, and go on afterwards."""
    async with aio.Sandbox.run(engine="docker") as sandbox:
        await sandbox
        await control("POST", sandbox.sandbox_id, "/pause")
        assert await becomes(lambda: sandbox.status is SandboxStatus.PAUSED)
        process = sandbox.exec(["echo", "later"])
        await control("POST", sandbox.sandbox_id, "/unpause")
        assert (await process).stdout == "later\n"
        assert await becomes(lambda: sandbox.status is SandboxStatus.RUNNING)


async def test_a_paused_one_can_be_stopped() -> None:
    """With and without grace."""
    for grace in (0.0, 5.0):
        sandbox = aio.Sandbox.run(engine="docker")
        await sandbox
        await control("POST", sandbox.sandbox_id, "/pause")
        await sandbox.stop(graceful_shutdown_seconds=grace)
        assert sandbox.exit_reason is ExitReason.STOPPED


async def test_one_that_is_killed() -> None:
    """It is lost: nobody of ours asked for it."""
    async with aio.Sandbox.run(engine="docker") as sandbox:
        process = sandbox.exec(["sleep", "600"])
        await sandbox.exec(["true"])
        await control("POST", sandbox.sandbox_id, "/kill")
        with pytest.raises(aviato.SandboxLostError):
            await process
        assert sandbox.status is SandboxStatus.FAILED
        assert sandbox.exit_reason is ExitReason.LOST


async def test_one_that_is_stopped_by_the_docker_command() -> None:
    """SIGTERM reaches the agent, which ends its commands and says that it was asked to."""
    async with aio.Sandbox.run(engine="docker") as sandbox:
        process = sandbox.exec(["sh", "-c", "trap 'exit 3' TERM; echo on; while :; do sleep 0.05; done"])
        assert await anext(aiter(process.stdout)) == "on\n"
        await control("POST", sandbox.sandbox_id, "/stop", t="10")
        assert (await process).returncode == 3
        assert await becomes(lambda: sandbox.status is SandboxStatus.TERMINATED)
        assert sandbox.exit_reason is ExitReason.STOPPED


async def test_one_that_is_restarted_or_removed() -> None:
    """The sandbox ended with the first run of the container; a removed one is gone."""
    async with aio.Session(engine="docker") as session:
        restarted, removed = session.sandbox(), session.sandbox()
        await restarted.exec(["true"])
        await removed.exec(["true"])
        await control("POST", restarted.sandbox_id, "/restart", t="0")
        assert await becomes(lambda: restarted.status.is_terminal)
        await control("DELETE", removed.sandbox_id, "", force="1")
        with pytest.raises(aviato.SandboxError):
            await removed.exec(["true"])


async def test_memory_that_is_used_up() -> None:
    """A command is killed, the sandbox goes on."""
    async with aio.Sandbox.run(engine="docker", resources={"memory": "64Mi"}) as sandbox:
        done = await sandbox.exec(["python", "-c", "x = b'x' * (256 << 20)"])
        assert done.returncode in {1, 137}
        assert (await sandbox.exec(["echo", "on"])).stdout == "on\n"


async def test_what_the_agent_holds_is_not_to_be_had_inside() -> None:
    """The token is in nobody's sight, and without it the agent's door is closed."""
    knock = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('\\0aviato-agent')\n"
        "socket.send_fds(s, [b'guess'], [0, 1])\n"
        "s.settimeout(20)\n"
        "print(s.recv(1))\n"
    )
    async with aio.Sandbox.run(engine="docker") as sandbox:
        looked = await sandbox.exec(["sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c AVIATO_DOOR"])
        assert looked.stdout == "0\n"
        assert (await sandbox.exec(["python", "-c", knock], check=True)).stdout == "b''\n"


async def test_an_agent_for_another_python_is_sent_as_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's interpreter compiles it itself."""
    monkeypatch.setattr("importlib.util.MAGIC_NUMBER", b"none")
    async with aio.Sandbox.run(engine="docker") as sandbox:
        assert (await sandbox.exec(["echo", "compiled"])).stdout == "compiled\n"


@pytest.mark.parametrize(
    ("image", "orphan", "lifetime"),
    [(DEFAULT_IMAGE, 0.2, 1.0), (BARE_IMAGE, 2.0, 2.0), (BUSYBOX_IMAGE, 2.0, 2.0)],
    ids=["with Python", "without", "busybox"],
)
async def test_its_limits_hold_when_its_client_is_dead(image: str, orphan: float, lifetime: float) -> None:
    """Killed without a word in the middle of a command, it leaves sandboxes that end by themselves, for prune."""
    if image == BUSYBOX_IMAGE:
        need_busybox(image)
    program = (
        "import asyncio, os\nfrom aviato import aio\n"
        "async def main():\n"
        f"    wanted = dict(engine='docker', container_image={image!r})\n"
        f"    made = [aio.Sandbox.run(orphan_timeout_seconds={orphan}, **wanted),\n"
        f"            aio.Sandbox.run(detached=True, max_lifetime_seconds={lifetime}, **wanted)]\n"
        "    for sandbox in made: await sandbox\n"
        "    sleeper = made[0].exec(['sleep', '600'])\n"
        "    await made[0].exec(['true'])\n"
        "    print(*(sandbox.sandbox_id for sandbox in made), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    names = done.stdout.split()
    assert len(names) == 2, done.stderr
    assert await becomes(lambda: not set(names) & set(containers(running=True)), 20)
    async with DockerEngine() as engine:
        ends = [(await engine.get(name)).exit_reason for name in names]
        assert ends == [ExitReason.TIMEOUT, ExitReason.LIFETIME]
        assert set(names) <= set(await engine.prune(dry_run=True))
        assert set(names) <= set(await engine.prune())
    assert not set(names) & set(containers(running=False))


async def test_a_stream_that_breaks_is_taken_up_again(tmp_path: Path) -> None:
    """Every byte of a command's output arrives once and in order, though the connection is cut in the middle."""
    async with Proxy(tmp_path) as proxy, DockerEngine(proxy.endpoint) as engine, aio.Session(engine=engine) as session:
        sandbox = await session.sandbox()
        process = sandbox.exec(["seq", "200000"])
        first = await anext(aiter(process.stdout))
        proxy.cut(after=300_000)
        rest = [line async for line in process.stdout]
        assert [int(line) for line in (first, *rest)] == list(range(1, 200_001))
        assert (await process).returncode == 0
        proxy.cut()
        assert (await sandbox.exec(["echo", "again"])).stdout == "again\n"


@pytest.mark.parametrize("after", [1, 400, 900, 3000, 9000, 40_000, 90_000])
async def test_a_create_that_is_cut_leaves_nothing(tmp_path: Path, after: int) -> None:
    """Wherever the connection breaks: an error that says so, or a sandbox; never a container that nobody knows."""
    spec = SandboxSpec(sandbox_id=f"sbx-{after:0>16}")
    async with Proxy(tmp_path) as proxy, DockerEngine(proxy.endpoint) as engine:
        await engine.prune(dry_run=True)  # connect
        proxy.cut(after)
        with contextlib.suppress(aviato.EngineError):
            info = await engine.create(spec)
            assert info.status is SandboxStatus.RUNNING
            await engine.delete(spec.sandbox_id)
    assert spec.sandbox_id not in containers(running=False)


async def test_a_daemon_behind_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of that kind works as the docker command's does; the ssh here is one that stays on this machine."""
    socket = find_endpoint().address
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        'echo "$@" >>"$0.log"\n'
        'while [ "$1" != -- ]; do shift; done; shift 2\n'
        f'exec env DOCKER_HOST=unix://{socket} "$@"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/local/bin:/usr/bin:/bin")
    async with DockerEngine(Endpoint("ssh", "me@far", 2222)) as engine, aio.Session(engine=engine) as session:
        assert (await session.sandbox().exec(["echo", "far away"])).stdout == "far away\n"
    assert "-p 2222 -- me@far docker system dial-stdio" in (tmp_path / "ssh.log").read_text()


async def test_an_ssh_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ssh says is the reason, and letting it go in the middle is no error of the loop."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec >&-\nsleep 0.2\necho 'ssh: no such host' >&2\nexec sleep 60\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/local/bin:/usr/bin:/bin")
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    async with DockerEngine(Endpoint("ssh", "far")) as engine:
        with pytest.raises(aviato.EngineConnectionError, match="cannot be reached to tell its version: ssh: no such"):
            await engine.prune()
    await asyncio.sleep(0)
    assert told == []


async def test_labels_tell_other_processes_everything(docker_engine: DockerEngine) -> None:
    """Tags, owner and limits stand on the container; what cannot be read is left out of lists, and disturbs nobody."""
    async with aio.Session(engine=docker_engine) as session:
        sandbox = await session.sandbox(tags=["a", "b"], resources={"memory": "64Mi"})
        found = await asyncio.to_thread(ask, "GET", f"/containers/{sandbox.sandbox_id}/json")
        record = json.loads(found["Config"]["Labels"]["aviato.record"])
        assert record["tags"] == ["a", "b"]
        assert found["HostConfig"]["Memory"] == 64 << 20
        (listed,) = await aio.Sandbox.list(tags=["a"], engine="docker")
        assert listed.sandbox_id == sandbox.sandbox_id
        assert listed.resources.memory_bytes == 64 << 20
