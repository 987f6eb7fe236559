"""Commands, through a channel and a real agent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from aviato.agent.frames import STDIN_WINDOW, WINDOW, ExitFlags, Which
from aviato.exceptions import SandboxExecutionError
from tests.agent.harness import gone, kill, python, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from aviato.agent.channel import Channel
    from tests.agent.harness import AgentProcess

SETSID_CHILD = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if sys.argv[1:]:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2): os.dup2(null, fd)
        time.sleep(600)
    os._exit(0)
"""


async def test_output_and_exit(channel: Channel) -> None:
    """Both outputs arrive, apart, with the status and the time."""
    recorder = shell(channel, "echo out; echo err >&2; exit 7")
    status = await recorder.end
    assert (recorder.stdout, recorder.stderr) == (b"out\n", b"err\n")
    assert (status.returncode, status.signal, status.flags) == (7, 0, 0)
    assert (status.stdout_total, status.stderr_total) == (4, 4)
    assert recorder.pid > 0
    assert 0 < status.duration_us < 10_000_000


async def test_binary_output_without_newline(channel: Channel) -> None:
    """Every byte value passes, and nothing is added."""
    recorder = python(channel, "import os; os.write(1, bytes(range(256)))")
    await recorder.end
    assert recorder.stdout == bytes(range(256))


async def test_ten_megabytes_on_both_streams(channel: Channel) -> None:
    """Large output on both streams at once is complete."""
    script = "import os,threading\nfor f in 1,2: threading.Thread(target=lambda f=f:"
    script += "[os.write(f,bytes([64+f])*65536) for _ in range(160)]).start()"
    recorder = run(channel, "python3", "-c", script)
    status = await recorder.end
    assert status.returncode == 0, recorder.stderr[-200:]
    assert recorder.stdout == b"A" * 10_485_760
    assert recorder.stderr == b"B" * 10_485_760


async def test_pipe_grows_for_a_long_output(channel: Channel) -> None:
    """What writes much gets a pipe that holds more; what writes little keeps the usual one."""
    script = "import fcntl, os; {}; os.write(2, b'%d' % fcntl.fcntl(1, 1032))"  # F_GETPIPE_SZ
    few = python(channel, script.format("os.write(1, b'little')"))
    block = bytes(range(256)) * 4096
    much = python(channel, script.format("[os.write(1, bytes(range(256)) * 4096) for _ in range(32)]"))
    await few.end
    await much.end
    assert (few.stderr, few.stdout) == (b"65536", b"little")
    assert (much.stderr, much.stdout == block * 32) == (b"262144", True)


async def test_lines_in_order(channel: Channel) -> None:
    """Thousands of lines keep their order."""
    recorder = run(channel, "seq", "20000")
    await recorder.end
    assert recorder.stdout == b"".join(b"%d\n" % number for number in range(1, 20001))


async def test_unread_output_blocks_the_command_only(channel: Channel) -> None:
    """Without credit a command stands still after one window, while others run."""
    stuck = run(channel, "head", "-c", "3000000", "/dev/zero", consume=False)
    await stuck.until(WINDOW)
    assert (await shell(channel, "echo other").end).returncode == 0
    assert stuck.totals[Which.STDOUT] == WINDOW
    assert not stuck.end.done()
    stuck.consume = True
    assert stuck.remote is not None
    stuck.remote.consumed(Which.STDOUT, WINDOW)
    assert (await stuck.end).stdout_total == 3_000_000


async def test_cat_round_trip(channel: Channel) -> None:
    """Five megabytes through stdin and back are the same."""
    data = os.urandom(5_000_000)
    recorder = run(channel, "cat", stdin=True)
    await recorder.feed(data)
    await recorder.end
    assert hashlib.sha256(recorder.stdout).digest() == hashlib.sha256(data).digest()


async def test_stdin_back_pressure(channel: Channel) -> None:
    """A command that never reads takes a pipe and a window, not more."""
    recorder = run(channel, "sleep", "600", stdin=True)
    remote = recorder.remote
    assert remote is not None
    accepted = 0
    while free := remote.stdin_free:
        remote.send_stdin(bytes(free))
        accepted += free
        await channel.ping(5)
    assert STDIN_WINDOW < accepted <= STDIN_WINDOW + (1 << 20)
    with pytest.raises(ValueError, match="0 are free"):
        remote.send_stdin(b"x")
    remote.signal(signal.SIGKILL)
    assert (await recorder.end).signal == signal.SIGKILL


async def test_without_stdin(channel: Channel) -> None:
    """A command without input reads end-of-file."""
    recorder = run(channel, "cat")
    assert (await recorder.end).returncode == 0
    assert recorder.stdout == b""


async def test_closed_stdin_is_told(channel: Channel) -> None:
    """A command that closes its input while it runs says so; later input is harmless."""
    recorder = shell(channel, "exec <&-; echo ready; sleep 600", stdin=True)
    await recorder.until(6)
    while not recorder.stdin_closed:
        recorder.changed.clear()
        await recorder.changed.wait()
    assert recorder.remote is not None
    assert recorder.remote.stdin_free == 0
    recorder.remote.close_stdin()
    recorder.remote.signal(signal.SIGTERM)
    assert (await recorder.end).returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("code", [0, 1, 2, 77, 126, 127, 128, 200, 255])
async def test_exit_codes(channel: Channel, code: int) -> None:
    """Each code arrives as it was."""
    status = await shell(channel, f"exit {code}").end
    assert (status.returncode, status.signal, status.flags) == (code, 0, 0)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 13, 14, 15, 25, 10, 34])
async def test_signals(channel: Channel, number: int) -> None:
    """A command ends by the signal it was sent, none of which is ignored for it."""
    recorder = run(channel, "sleep", "600")
    await recorder.started.wait()
    assert recorder.remote is not None
    recorder.remote.signal(number)
    status = await recorder.end
    assert (status.returncode, status.signal) == (128 + number, number)


async def test_command_not_found(channel: Channel) -> None:
    """An unknown command is 127 with a line on stderr."""
    recorder = run(channel, "no-such-thing")
    status = await recorder.end
    assert (status.returncode, status.flags) == (127, ExitFlags.NOT_STARTED)
    assert recorder.stderr == b"aviato: no-such-thing: command not found\n"
    assert not recorder.pid


@pytest.mark.parametrize(
    ("path", "mode", "content", "code", "reason"),
    [
        ("missing", None, b"", 127, b"No such file or directory"),
        ("plain", 0o644, b"#!/bin/sh\n", 126, b"Permission denied"),
        ("text", 0o755, b"no shebang\n", 126, b"Exec format error"),
        ("", None, b"", 126, b"Permission denied"),
    ],
)
async def test_not_executable(
    channel: Channel, tmp_path: Path, path: str, mode: int | None, content: bytes, code: int, reason: bytes
) -> None:
    """What cannot be executed is 126 or 127, as in a shell, with the reason."""
    target = tmp_path / path
    if mode is not None:
        target.write_bytes(content)
        target.chmod(mode)
    recorder = run(channel, str(target))
    status = await recorder.end
    assert (status.returncode, status.flags) == (code, ExitFlags.NOT_STARTED)
    assert recorder.stderr == b"aviato: %s: %s\n" % (os.fsencode(target), reason)


async def test_cwd_and_env(channel: Channel, tmp_path: Path) -> None:
    """Directory and variables are the command's own, over the sandbox's."""
    options = {"cwd": str(tmp_path), "env": {"A": "ä=b", "HOME": "/h"}}
    recorder = shell(channel, 'pwd; echo "$A $HOME $PATH"', **options)
    await recorder.end
    assert recorder.stdout.decode() == f"{tmp_path}\nä=b /h /usr/local/bin:/usr/bin:/bin\n"
    assert (await shell(channel, 'test -z "$A"').end).returncode == 0


async def test_own_path(channel: Channel, tmp_path: Path) -> None:
    """A command is looked up in the PATH it is given."""
    (tmp_path / "mine").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "mine").chmod(0o755)
    recorder = run(channel, "mine", env={"PATH": f"/nowhere:{tmp_path}"})
    await recorder.end
    assert recorder.stdout == b"mine\n"


async def test_missing_cwd(channel: Channel) -> None:
    """A missing directory is an error that names it."""
    with pytest.raises(SandboxExecutionError, match="working directory /no/where: No such file"):
        await run(channel, "true", cwd="/no/where").end


async def test_unknown_user(channel: Channel) -> None:
    """An unknown user is an error that names it."""
    with pytest.raises(SandboxExecutionError, match="unknown user nobody-at-all"):
        await run(channel, "true", user="nobody-at-all").end


async def test_nul_in_argument(channel: Channel) -> None:
    """What no system call could take is an error of that command alone."""
    with pytest.raises(SandboxExecutionError, match="null byte"):
        await run(channel, "echo", "a\0b").end
    assert (await run(channel, "true").end).returncode == 0


async def test_only_three_descriptors(channel: Channel) -> None:
    """A command has its three descriptors and no more."""
    recorder = run(channel, "ls", "/proc/self/fd")
    await recorder.end
    assert recorder.stdout.split() == [b"0", b"1", b"2", b"3"]  # the last is the directory that ls reads


async def test_own_session(channel: Channel) -> None:
    """A command leads its own session and group."""
    recorder = python(channel, "import os; print(os.getsid(0) == os.getpgrp() == os.getpid())")
    await recorder.end
    assert recorder.stdout == b"True\n"


async def test_timeout_kills_the_tree_and_keeps_output(channel: Channel, tmp_path: Path) -> None:
    """At the limit everything dies, in whatever session, and what was written stays."""
    child = tmp_path / "child"
    script = SETSID_CHILD.replace(
        "time.sleep(600)", f"open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    recorder = python(channel, script + "\nprint('partial', flush=True); time.sleep(600)", timeout_ms=700)
    status = await recorder.end
    assert status.flags == ExitFlags.TIMED_OUT
    assert (status.returncode, status.signal) == (137, signal.SIGKILL)
    assert recorder.stdout == b"partial\n"
    await gone(int(child.read_text()))


async def test_kill_tree(channel: Channel) -> None:
    """A signal to the tree reaches daemons of the command."""
    recorder = python(
        channel,
        SETSID_CHILD.replace("time.sleep(600)", "print(os.getpid(), flush=True); time.sleep(600)")
        + "\ntime.sleep(600)",
    )
    await recorder.until(2)
    assert recorder.remote is not None
    recorder.remote.signal(signal.SIGKILL, tree=True)
    assert (await recorder.end).signal == signal.SIGKILL
    await gone(int(recorder.stdout))


async def test_daemon_does_not_delay_the_exit(channel: Channel) -> None:
    """The end is told while a daemon still holds the pipes; the daemon lives and may write."""
    recorder = shell(channel, "(trap '' PIPE; sleep 600; echo late) & echo $!; exit 3")
    status = await asyncio.wait_for(recorder.end, 5)
    daemon = int(recorder.stdout)
    assert status.returncode == 3
    os.kill(daemon, 0)
    kill(daemon)


async def test_writing_daemon_is_not_broken(channel: Channel, tmp_path: Path) -> None:
    """What a daemon writes after its command's end is dropped, without an error to the daemon."""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    result = tmp_path / "result"
    script = f"(read x < {fifo}; head -c 300000 /dev/zero && echo fine > {result}; echo > {fifo}) & exit 0"
    assert (await shell(channel, script).end).stdout_total == 0
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, fifo.write_text, "go\n")
    await loop.run_in_executor(None, fifo.read_text)
    assert result.read_text() == "fine\n"


async def test_early_closed_stdout(channel: Channel) -> None:
    """A command that closes its stdout goes on until its real end."""
    recorder = shell(channel, "echo first; exec >&-; sleep 0.1; echo last >&2; exit 4")
    assert (await recorder.end).returncode == 4
    assert (recorder.stdout, recorder.stderr) == (b"first\n", b"last\n")


async def test_many_at_once(channel: Channel) -> None:
    """A hundred commands at once each get their own output."""
    recorders = [shell(channel, f"echo {number}; exit {number}") for number in range(100)]
    for number, recorder in enumerate(recorders):
        assert (await recorder.end).returncode == number
        assert recorder.stdout == b"%d\n" % number


async def test_two_clients(agent: AgentProcess) -> None:
    """Two clients work beside each other; one going does not disturb the other."""
    first, second = await agent.channel(), await agent.channel()
    one, two = run(first, "cat", stdin=True), run(second, "cat", stdin=True)
    await asyncio.gather(one.started.wait(), two.started.wait())
    await first.close()
    await two.feed(b"still here")
    assert (await two.end).returncode == 0
    assert two.stdout == b"still here"


async def test_released_command_goes_on(channel: Channel, tmp_path: Path) -> None:
    """Releasing a running command leaves it alone."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    recorder = shell(channel, f"head -c 2000000 /dev/zero; echo done > {fifo}", consume=False)
    await recorder.until(1)
    assert recorder.remote is not None
    recorder.remote.release()
    assert await asyncio.get_running_loop().run_in_executor(None, fifo.read_text) == "done\n"
