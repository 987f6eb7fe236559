"""How the agent ends, and its main command and rights."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from aviato.agent import bootstrap
from aviato.agent.frames import CloseReason
from aviato.exceptions import SandboxNotRunningError, SandboxTerminatedError
from tests.agent.harness import AgentProcess, gone, memory_file, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from aviato.agent.channel import Channel


async def test_open_tells_about_the_agent(agent: AgentProcess, channel: Channel) -> None:
    """The hello names version, interpreter and machine."""
    del agent
    other = await channel._dial(5)
    info = other[1]
    assert (info.version, info.python_version, info.machine) == (1, sys.version.split()[0], os.uname().machine)
    other[0].drop(SandboxTerminatedError())


async def test_ping(channel: Channel) -> None:
    """A round trip has a duration."""
    assert 0 < await channel.ping(5) < 5


async def test_shutdown_lets_commands_end(agent: AgentProcess, channel: Channel) -> None:
    """SIGTERM first; the agent ends as soon as everybody has, and says so."""
    recorder = shell(channel, "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done")
    await recorder.until(6)
    await channel.shutdown(20)
    assert (await recorder.end).returncode == 9
    assert recorder.stdout == b"ready\nbye\n"
    assert channel.closing == (CloseReason.SHUTDOWN, -1)
    assert await agent.line() == "closing 2 -1"
    assert await agent.exit_code() == 0
    await channel.shutdown(1)


async def test_shutdown_kills_after_the_grace(agent: AgentProcess, channel: Channel) -> None:
    """Who ignores SIGTERM is killed, and a daemon with it."""
    recorder = shell(channel, "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.01; done'")
    await recorder.until(2)
    await channel.shutdown(0.1)
    assert (await recorder.end).signal == signal.SIGKILL
    await gone(int(recorder.stdout))
    assert await agent.exit_code() == 0


async def test_start_while_stopping(channel: Channel) -> None:
    """A command asked for during the grace is refused."""
    recorder = shell(channel, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    await recorder.until(6)
    stopping = asyncio.create_task(channel.shutdown(0.3))
    await asyncio.sleep(0)
    with pytest.raises(SandboxTerminatedError, match="is stopping"):
        await run(channel, "true").end
    await stopping
    with pytest.raises(SandboxTerminatedError, match="it was stopped"):
        run(channel, "true")


async def test_stop_line(agent: AgentProcess, channel: Channel) -> None:
    """The supervisor's line stops it too; commands get their exit, then the reason."""
    recorder = run(channel, "sleep", "600")
    await recorder.started.wait()
    agent.control.send(b"stop 5000\n")
    assert (await recorder.end).signal == signal.SIGTERM
    assert await agent.line() == "closing 2 -1"
    assert await agent.exit_code() == 0


async def test_end_of_the_supervisor(agent: AgentProcess, channel: Channel) -> None:
    """Without its supervisor the agent ends at once, with everything in it."""
    recorder = shell(channel, "trap '' TERM HUP; echo ready; while :; do sleep 0.01; done")
    await recorder.until(6)
    agent.control.shutdown(2)
    assert await agent.exit_code() == 0
    await gone(recorder.pid)


async def test_main_command(tmp_path: Path) -> None:
    """Its output goes to its descriptors, its end is the sandbox's."""
    out, inside = os.pipe()
    config: dict[str, Any] = {
        "main": [b"sh", b"-c", b"echo main; exit 42"],
        "main_stdout_fd": inside,
        "main_stderr_fd": inside,
    }
    async with AgentProcess(tmp_path, (), passed=[inside], **config) as agent:
        os.close(inside)
        assert await agent.line() == "closing 1 42"
        assert await agent.exit_code() == 42
    with os.fdopen(out, "rb") as output:
        assert output.read() == b"main\n"


async def test_main_command_ends_commands(tmp_path: Path) -> None:
    """Commands that run when the main command ends are killed and told, and the channel knows the code."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with AgentProcess(tmp_path, main=[b"sh", b"-c", b"read x < %b; exit 3" % os.fsencode(fifo)]) as agent:
        channel = await agent.channel()
        recorder = run(channel, "sleep", "600")
        await recorder.started.wait()
        await asyncio.get_running_loop().run_in_executor(None, fifo.write_text, "go\n")
        assert (await recorder.end).signal == signal.SIGKILL
        assert await agent.exit_code() == 3
        await channel._ended.wait()
        assert channel.closing == (CloseReason.MAIN_EXITED, 3)
        with pytest.raises(SandboxNotRunningError, match="return code 3"):
            run(channel, "true")


async def test_main_command_not_found(tmp_path: Path) -> None:
    """A main command that cannot be executed ends the sandbox with 127 and says why."""
    out, inside = os.pipe()
    async with AgentProcess(tmp_path, passed=[inside], main=[b"no-such"], main_stderr_fd=inside) as agent:
        os.close(inside)
        assert await agent.exit_code() == 127
    with os.fdopen(out, "rb") as output:
        assert output.read() == b"aviato: no-such: command not found\n"


@pytest.mark.parametrize(("key", "reason"), [("lifetime_ms", 4), ("idle_ms", 3), ("orphan_ms", 5)])
async def test_limits(tmp_path: Path, key: str, reason: int) -> None:
    """Each limit ends the sandbox with its own reason."""
    async with AgentProcess(tmp_path, (), **{key: 100}) as agent:
        assert await agent.line() == f"closing {reason} -1"


async def test_idle_waits_for_commands(tmp_path: Path) -> None:
    """A running command is not idleness; the clock starts again at its end."""
    async with AgentProcess(tmp_path, idle_ms=200) as agent:
        channel = await agent.channel()
        assert (await run(channel, "sleep", "0.5").end).returncode == 0
        assert await agent.line() == "closing 3 -1"


async def test_orphan_waits_for_clients(tmp_path: Path) -> None:
    """The clock runs only while no client is connected."""
    async with AgentProcess(tmp_path, orphan_ms=300) as agent:
        channel = await agent.channel()
        assert (await run(channel, "sleep", "0.6").end).returncode == 0
        await channel.close()
        assert await agent.line() == "closing 5 -1"


async def test_extend(tmp_path: Path) -> None:
    """The lifetime can be moved, by a client and by the supervisor."""
    async with AgentProcess(tmp_path, lifetime_ms=1000) as agent:
        channel = await agent.channel()
        await channel.extend(1)
        agent.control.send(b"extend 500\n")
        assert (await run(channel, "sleep", "1.2").end).returncode == 0
        assert await agent.line() == "closing 4 -1"


async def test_orphans_are_reaped(channel: Channel) -> None:
    """Children of dead commands leave no zombies."""
    recorder = shell(channel, "for i in 1 2 3 4 5; do (sleep 0.05 &) ; done; echo $PPID")
    await recorder.end
    agent_pid = int(recorder.stdout)
    last = shell(channel, f"sleep 0.3; cat /proc/{agent_pid}/task/*/children")
    await last.end
    assert len(last.stdout.split()) == 1


async def test_agent_ignores_signals(agent: AgentProcess, channel: Channel) -> None:
    """Polite signals do not end the agent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGPIPE):
        agent.process.send_signal(number)
    assert (await run(channel, "true").end).returncode == 0


async def test_commands_have_no_capabilities(channel: Channel) -> None:
    """No command has or can gain a right, and the agent cannot be read."""
    recorder = shell(channel, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    await recorder.end
    values = dict(line.split() for line in recorder.stdout.decode().splitlines())
    assert values.pop("NoNewPrivs:") == "1"
    assert {int(value, 16) for key, value in values.items() if key != "CapBnd:" or os.geteuid() == 0} == {0}
    peek = shell(
        channel, "cat /proc/$PPID/environ; readlink /proc/$PPID/fd/*; cat /proc/$PPID/maps; readlink /proc/$PPID/exe"
    )
    assert (await peek.end).returncode != 0
    assert peek.stdout == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's id can be taken by root only")
async def test_user(channel: Channel) -> None:
    """A user is resolved inside, with groups and home, unless given."""
    recorder = shell(channel, 'id -u; id -g; echo "$HOME $USER $LOGNAME"', user="nobody")
    assert (await recorder.end).returncode == 0
    assert recorder.stdout == b"65534\n65534\n/nonexistent nobody nobody\n"
    recorder = shell(channel, 'id -u; id -g; id -G; echo "$HOME"', user="12345:54321", env={"HOME": "/mine"})
    await recorder.end
    assert recorder.stdout == b"12345\n54321\n54321\n/mine\n"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_rights_inside_a_namespace(tmp_path: Path) -> None:
    """As first process of a sandbox with rights of its own, the agent changes users and hands on no right."""
    bwrap = ["bwrap", "--bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-pid", "--as-pid-1"]
    caps = [
        "--cap-drop",
        "ALL",
        *(word for name in ("SETUID", "SETGID", "KILL", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")),
    ]
    root = os.geteuid() == 0
    async with AgentProcess(tmp_path, [*bwrap, *(caps if root else ["--unshare-user", *caps]), "--"]) as agent:
        channel = await agent.channel()
        for user in ["", "nobody"] if root else [""]:
            recorder = shell(channel, "echo $PPID; grep ^Cap /proc/self/status", user=user)
            assert (await recorder.end).returncode == 0, recorder.stderr
            ppid, *lines = recorder.stdout.decode().splitlines()
            assert ppid == "1"
            assert {int(line.split()[1], 16) for line in lines} == {0}
        stubborn = shell(
            channel, "trap '' TERM; echo ready; while :; do sleep 0.01; done", user="nobody" if root else ""
        )
        await stubborn.until(6)
        assert stubborn.remote is not None
        stubborn.remote.signal(signal.SIGKILL, tree=True)
        assert (await stubborn.end).signal == signal.SIGKILL
        await channel.shutdown(1)


def test_loader_refuses_nonsense() -> None:
    """Code of another interpreter ends the loader with 71 and a message."""
    fds = [memory_file(b"not marshal"), memory_file(b"neither")]
    argv = bootstrap.loader_argv(sys.executable, *fds)
    done = subprocess.run(argv, pass_fds=fds, capture_output=True, timeout=20, check=False)
    for fd in fds:
        os.close(fd)
    assert done.returncode == 71
    assert done.stderr.startswith(b"aviato agent: ")
