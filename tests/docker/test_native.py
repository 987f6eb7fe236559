"""Images without Python: what native execution holds, and what it says it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.agent.frames import UNABLE, StartFlags
from aviato.engines.base import SandboxSpec
from aviato.engines.docker import native_plan
from aviato.engines.docker.container import make_plan
from aviato.engines.docker.engine import DockerEngine
from aviato.engines.docker.native_command import NativeCommand
from aviato.engines.docker.native_stream import Marked, Tank
from aviato.models import ExitReason, SandboxStatus
from aviato.testing import check_engine, contract_checks
from tests.docker.test_containers import control
from tests.helpers.docker import (
    BARE_IMAGE,
    BASH_IMAGE,
    BUSYBOX_IMAGE,
    SHELLLESS_IMAGE,
    ask,
    containers,
    need_busybox,
)
from tests.helpers.proxy import Fault, Proxy
from tests.local.support import becomes

pytestmark = pytest.mark.docker
LARGE = 50_000_000


@pytest.fixture(params=["coreutils and dash", "busybox"])
def image(request: pytest.FixtureRequest) -> str:
    """Images with different shells and tools."""
    if request.param == "busybox":
        return need_busybox(BUSYBOX_IMAGE)
    return BARE_IMAGE


@pytest.fixture
async def sandbox(image: str) -> AsyncIterator[aio.Sandbox]:
    """A sandbox without Python."""
    async with aio.Sandbox.run(engine="docker", container_image=image) as made:
        yield await made


async def running(sandbox: aio.Sandbox, word: str) -> list[str]:
    """List the processes of a container that have a word in their command, as the daemon sees them."""
    found = await asyncio.to_thread(ask, "GET", f"/containers/{sandbox.sandbox_id}/top")
    return [line[-1] for line in found["Processes"] if word in line[-1].split()]


async def no_longer_runs(sandbox: aio.Sandbox, word: str) -> bool:
    """Wait until no such process is there."""
    for _ in range(200):
        if not await running(sandbox, word):
            return True
        await asyncio.sleep(0.02)  # the daemon tells of no process's end but an exec's
    return False


async def test_it_says_that_it_is_native(sandbox: aio.Sandbox) -> None:
    """In the notes on isolation, here and for whoever lists it."""
    assert sandbox.isolation is not None
    assert sandbox.isolation.notes[0] == native_plan.NOTE
    (listed,) = await aio.Sandbox.list(engine="docker")
    assert listed.isolation == sandbox.isolation


@pytest.mark.parametrize("shell", ["dash", "busybox", "bash"])
@pytest.mark.parametrize("check", contract_checks())
async def test_contract(check: str, shell: str) -> None:
    """It is an engine like any other, but for Python."""
    image = {"dash": BARE_IMAGE, "bash": BASH_IMAGE}.get(shell) or need_busybox(BUSYBOX_IMAGE)

    async def abandon(engine: Any) -> None:
        vars(engine)["_made"].clear()
        await engine.close()

    report = await check_engine(DockerEngine, only=[check], image=image, abandon=abandon)
    report.raise_on_failure()


# Commands


async def test_bytes_are_exact(sandbox: aio.Sandbox) -> None:
    """Fifty million random bytes come out as they are, and so do those that go in; both outputs keep apart."""
    script = f"head -c {LARGE} /dev/urandom >/tmp/x; sha256sum </tmp/x >&2; cat /tmp/x"
    out = await sandbox.exec(["sh", "-c", script], max_output_bytes=2 * LARGE)
    assert len(out.stdout_bytes) == LARGE
    assert hashlib.sha256(out.stdout_bytes).hexdigest() == out.stderr.split()[0]
    back = await sandbox.exec(["sh", "-c", "tee /tmp/y | sha256sum; wc -c </tmp/y"], stdin=out.stdout_bytes)
    assert back.stdout.split() == [out.stderr.split()[0], "-", str(LARGE)]


async def test_a_slow_reader_holds_the_command_up(sandbox: aio.Sandbox) -> None:
    """Memory stays flat: while nobody reads on, the command waits; what was written then comes complete."""
    process = sandbox.exec(["sh", "-c", f"head -c {LARGE} /dev/zero; echo done >/tmp/done"], max_output_bytes=1)
    size = 0
    async for piece in process.stdout:
        size += len(piece)
        if size == len(piece):
            assert (await sandbox.exec(["cat", "/tmp/done"])).returncode == 1
    assert size == LARGE
    assert (await process).truncated


async def test_environment_directory_user_and_codes(sandbox: aio.Sandbox) -> None:
    """As with the agent."""
    script = "echo $A $B; pwd; id -u; env"
    done = await sandbox.exec(["sh", "-c", script], env={"A": "1", "B": "ü 2"}, cwd="/etc", user="nobody")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == ["1 ü 2", "/etc", "65534"]
    assert "AVIATO_DOOR" not in done.stdout
    with pytest.raises(aviato.SandboxExecutionError, match="/root: Permission denied"):
        await sandbox.exec(["true"], cwd="/root", user="nobody")


async def test_how_commands_end(sandbox: aio.Sandbox) -> None:
    """127, 126, 128 and the signal; a missing directory and user are errors that name them."""
    await sandbox.write_file("/tmp/text", "no program\n")
    for command, code in (
        (["no-such-program"], 127),
        (["/no/such/program"], 127),
        (["/tmp/text"], 126),
        (["/tmp"], 126),
        (["sh", "-c", "exit 9"], 9),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
    ):
        done = await sandbox.exec(command)
        assert done.returncode == code, command
        assert done.stdout_bytes == b""
        assert bool(done.stderr_bytes) is (code in {126, 127}), done
    with pytest.raises(aviato.SandboxExecutionError, match="/no/such: No such file"):
        await sandbox.exec(["true"], cwd="/no/such")
    with pytest.raises(aviato.SandboxExecutionError, match="nosuchuser"):
        await sandbox.exec(["true"], user="nosuchuser")
    with pytest.raises(aviato.CapabilityError, match="UTF-8"):
        await sandbox.exec(["echo", "\udcff"])


async def test_arguments_are_not_read_by_a_shell(sandbox: aio.Sandbox) -> None:
    """Whatever they contain, and variables of any name; a command by a name with a dash."""
    words = ["a  b", "", "$HOME", "`id`", "'", '"', "\\", "*", "-n", "é\n"]
    done = await sandbox.exec(["printf", "<%s>", *words])
    assert done.stdout == "".join(f"<{word}>" for word in words)
    odd = {"found": "1", "d": "2", "code": "3", "pid": "4", "IFS": "x", "nonce": "5"}
    done = await sandbox.exec(["env"], env=odd)
    assert {f"{name}={value}" for name, value in odd.items() if name != "IFS"} <= set(done.stdout.splitlines())


async def test_a_time_limit_kills_the_tree(sandbox: aio.Sandbox) -> None:
    """And keeps what was written; also what left the session behind, found by the marker in its environment."""
    script = "echo before; (sleep 601 &) & sleep 602 & sleep 603; echo after"
    with pytest.raises(aviato.SandboxTimeoutError) as caught:
        await sandbox.exec(["sh", "-c", script], timeout_seconds=0.5)
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.stdout == "before\n"
    for word in ("601", "602", "603"):
        assert await no_longer_runs(sandbox, word), word
    assert (await sandbox.exec(["echo", "alive"])).stdout == "alive\n"


async def test_a_session_of_its_own_is_no_way_out() -> None:
    """What called setsid twice removed is found by the marker."""
    image = need_busybox(BUSYBOX_IMAGE)
    async with aio.Sandbox.run(engine="docker", container_image=image) as sandbox:
        script = "setsid sh -c 'sleep 604 & exit' & setsid sleep 605 & echo on; sleep 606"
        process = sandbox.exec(["sh", "-c", script])
        assert await anext(aiter(process.stdout)) == "on\n"
        assert process.cancel()
        for word in ("604", "605", "606"):
            assert await no_longer_runs(sandbox, word), word


async def test_cancel_and_signals(sandbox: aio.Sandbox) -> None:
    """A trap hears its signal, SIGINT ends what does not expect it, and cancel leaves nothing running."""
    trapped = sandbox.exec(["sh", "-c", "trap 'echo heard; exit 7' USR1; echo on; while :; do sleep 0.05; done"])
    lines = aiter(trapped.stdout)
    assert await anext(lines) == "on\n"
    trapped.send_signal(10)
    done = await trapped
    assert (done.returncode, done.stdout) == (7, "on\nheard\n")
    interrupted = sandbox.exec(["sh", "-c", "echo on; exec sleep 607"])
    assert await anext(aiter(interrupted.stdout)) == "on\n"
    interrupted.send_signal(2)
    done = await interrupted
    assert (done.returncode, done.signal) == (130, 2)
    cancelled = sandbox.exec(["sh", "-c", "echo on; sleep 608"])
    assert await anext(aiter(cancelled.stdout)) == "on\n"
    assert cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await no_longer_runs(sandbox, "608")


async def test_a_signal_before_the_start(sandbox: aio.Sandbox) -> None:
    """Sent before the command is known to run, it arrives."""
    process = sandbox.exec(["sleep", "609"])
    process.kill()
    assert (await process).returncode == 137


async def test_many_at_once(sandbox: aio.Sandbox) -> None:
    """Each has its own output."""
    done = await asyncio.gather(*(sandbox.exec(["echo", str(number)]) for number in range(40)))
    assert [item.stdout for item in done] == [f"{number}\n" for number in range(40)]


async def test_what_is_left_behind_delays_nobody(sandbox: aio.Sandbox) -> None:
    """A command has ended when it has, whoever holds its output open."""
    done = await sandbox.exec(["sh", "-c", "sleep 610 & echo on"])
    assert done.stdout == "on\n"
    assert await running(sandbox, "610")


async def test_input_over_tls_is_refused() -> None:
    """Its end could not be told without hanging up."""

    class Agent:
        shell, user, cwd, can_end_input = "/bin/sh", "0:0", "/", False

    command = NativeCommand(Agent(), None, 1, StartFlags.STDIN, (0, 0))  # type: ignore[arg-type]  # what it asks for
    with pytest.raises(OSError, match="input for commands over TLS") as caught:
        command.start(["cat"], [], "", "", 0)
    assert caught.value.errno == UNABLE


def test_a_shell_needs_sleep() -> None:
    """To hold time limits; what is missing is named before anything runs."""
    spec = SandboxSpec(sandbox_id="sbx-0123456789abcdef")
    plan = make_plan(spec, {"Id": "sha256:1"}, "tiny", "token", {})
    with pytest.raises(aviato.CapabilityError, match=r"'tiny' has no python3.* no sleep"):
        native_plan.make_native(plan, spec, native_plan.Facts("/bin/sh", has_sleep=False), "tiny")


def test_the_end_of_an_output_is_found_in_any_pieces() -> None:
    """What looks like the beginning of the mark is output, and what follows the mark is not."""
    rng = random.Random(5)
    nonce = b"aviato-0123"
    output = b"aviato-01\naviato-012 aviato-0123" + bytes(rng.randbytes(50)) + b"aviato-"
    for _ in range(300):
        tank, data = Tank(), output + nonce + b" 12\nmore"
        marked = Marked(tank, nonce)
        while data:
            size = rng.randint(1, 9)
            marked.feed(data[:size])
            data = data[size:]
        assert marked.code == 12
        assert tank.take(1000) == output


# Files


async def test_files(sandbox: aio.Sandbox) -> None:
    """Large ones, links, modes and owners; a write is whole or does not take place, and leaves nothing beside."""
    data = random.Random(1).randbytes(LARGE // 2)
    await sandbox.write_file("/tmp/new/large", data)
    assert await sandbox.read_file("/tmp/new/large") == data
    setup = "cd /tmp/new; echo old >kept; chmod 640 kept; ln -s kept link; ln -s nowhere/x lost; mkfifo pipe"
    await sandbox.exec(["sh", "-c", setup], check=True)
    await sandbox.write_file("/tmp/new/link", "new")
    assert await sandbox.read_file("/tmp/new/kept") == b"new"
    listed = await sandbox.exec(["sh", "-c", "cd /tmp/new; ls -A; stat -c '%a %u' kept large; [ -L link ]"], check=True)
    assert listed.stdout.split() == ["kept", "large", "link", "lost", "pipe", "640", "0", "644", "0"]

    async def breaks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await sandbox.write_file_streaming("/tmp/new/kept", breaks())
    assert await sandbox.read_file("/tmp/new/kept") == b"new"
    for path, number in (("/tmp/none", errno.ENOENT), ("/tmp", errno.EISDIR), ("/tmp/new/pipe", errno.EINVAL)):
        with pytest.raises(aviato.SandboxFileError) as caught:
            await sandbox.read_file(path)
        assert caught.value.errno == number
    with pytest.raises(aviato.SandboxFileError) as caught:
        await sandbox.write_file("/tmp/new", b"")
    assert caught.value.errno == errno.EISDIR
    assert (await sandbox.exec(["ls", "-A", "/tmp/new"])).stdout.split() == ["kept", "large", "link", "lost", "pipe"]


async def test_a_write_that_is_refused_leaves_nothing(sandbox: aio.Sandbox) -> None:
    """Root has no rights over others' directories here; the temporary file is taken away again where that can be."""
    with pytest.raises(aviato.SandboxFileError):
        await sandbox.write_file("/etc/passwd/x", b"")
    await sandbox.write_file("/etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    assert (await sandbox.exec(["ls", "-A", "/etc"])).stdout.split() == sorted(
        (await sandbox.exec(["sh", "-c", "cd /etc; for f in * ; do echo $f; done"])).stdout.split()
    )


async def test_what_files_cannot_do(sandbox: aio.Sandbox) -> None:
    """/proc, /sys and /dev are not in Docker's archives; without mv nothing is written."""
    for path in ("/proc/cpuinfo", "/sys/kernel/notes", "/dev/shm/x"):
        with pytest.raises(aviato.CapabilityError, match="not in Docker's archives"):
            await sandbox.read_file(path)
    with pytest.raises(aviato.CapabilityError, match="UTF-8"):
        await sandbox.read_file("/tmp/\udcff")


async def test_writing_needs_mv() -> None:
    """Its absence is named."""
    async with aio.Sandbox.run(engine="docker", container_image=BARE_IMAGE) as sandbox:
        await sandbox.exec(["rm", "/usr/bin/mv"], check=True)
        with pytest.raises(aviato.CapabilityError, match="mv"):
            await sandbox.write_file("/tmp/x", b"")


# Life


async def test_its_user_and_main_command(image: str) -> None:
    """The main command runs as the user, its output is the log, and its code the sandbox's."""
    async with aio.Session(engine="docker") as session:
        script = "id -u; echo $A; pwd; [ -z $AVIATO_DOOR ] || echo token; exit 3"
        sandbox = session.sandbox(
            command="sh", args=["-c", script], container_image=image, user="nobody", working_dir="/etc",
            environment_variables={"A": "b", "token": "mine"},
        )  # fmt: skip
        with pytest.raises(aviato.SandboxFailedError):
            await sandbox.wait_until_complete()
        assert sandbox.returncode == 3
        assert "".join([line async for line in sandbox.stream_logs()]) == "65534\nb\n/etc\n"


async def test_last_words_that_the_end_contradicts_are_not_believed(image: str) -> None:
    """A command that runs as the shell's user knows its token, and cannot make its end another one."""
    forge = (
        "while IFS= read -r x; do :; done </proc/1/environ; t=${x#*AVIATO_DOOR=}; echo ${t%%[!0-9a-f]*} 1 0 >&2; exit 4"
    )
    async with aio.Session(engine="docker") as session:
        sandbox = session.sandbox(command="sh", args=["-c", forge], container_image=image)
        with pytest.raises(aviato.SandboxFailedError):
            await sandbox.wait_until_complete()
        assert sandbox.status is SandboxStatus.FAILED


async def test_it_is_stopped_by_the_docker_command(sandbox: aio.Sandbox) -> None:
    """SIGTERM reaches the commands, whose own ends are told."""
    process = sandbox.exec(["sh", "-c", "trap 'exit 3' TERM; echo on; while :; do sleep 0.05; done"])
    assert await anext(aiter(process.stdout)) == "on\n"
    await control("POST", sandbox.sandbox_id, "/stop", t="10")
    assert (await process).returncode == 3
    assert await becomes(lambda: sandbox.status is SandboxStatus.TERMINATED)
    assert sandbox.exit_reason is ExitReason.STOPPED


async def test_it_is_killed(sandbox: aio.Sandbox) -> None:
    """It is lost, and so is what ran in it."""
    process = sandbox.exec(["sh", "-c", "echo on; sleep 600"])
    assert await anext(aiter(process.stdout)) == "on\n"
    await control("POST", sandbox.sandbox_id, "/kill")
    with pytest.raises(aviato.SandboxLostError):
        await process
    assert sandbox.exit_reason is ExitReason.LOST


async def test_it_is_paused(sandbox: aio.Sandbox) -> None:
    """Commands wait, and go on afterwards."""
    await control("POST", sandbox.sandbox_id, "/pause")
    process = sandbox.exec(["echo", "later"])
    await control("POST", sandbox.sandbox_id, "/unpause")
    assert (await process).stdout == "later\n"


async def test_signals_do_not_deceive_its_clock(sandbox: aio.Sandbox) -> None:
    """Whatever comes in the middle of its looking at the time, the shell goes on, and reaps what others leave."""
    storm = "i=0; while [ $i -lt 300 ]; do (sleep 0.01 &); kill -USR1 1; kill -CHLD 1; i=$((i + 1)); done"
    done = await asyncio.gather(*(sandbox.exec(["sh", "-c", storm]) for _ in range(3)))
    assert [item.returncode for item in done] == [0, 0, 0]
    assert await sandbox.get_status() is SandboxStatus.RUNNING


async def test_another_process_uses_and_ends_it(sandbox: aio.Sandbox) -> None:
    """It lists, runs, reads and stops, and this one learns of the end."""
    await sandbox.write_file("/tmp/x", "from here")
    program = (
        "import asyncio\nfrom aviato import aio\n"
        "async def main():\n"
        "    (found,) = await aio.Sandbox.list(engine='docker')\n"
        "    print((await found.exec(['cat', '/tmp/x'])).stdout, await found.read_file('/tmp/x'))\n"
        "    await found.stop()\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "from here b'from here'\n", done.stderr
    assert await becomes(lambda: sandbox.status is SandboxStatus.TERMINATED)


async def test_a_client_that_lives_keeps_it(image: str) -> None:
    """Longer than its orphan time, though nothing runs in it."""
    async with aio.Sandbox.run(engine="docker", container_image=image, orphan_timeout_seconds=2) as sandbox:
        other = aio.Sandbox.run(engine="docker", container_image=image, max_lifetime_seconds=6)
        await sandbox
        with contextlib.suppress(aviato.SandboxTerminatedError):
            await other.wait_until_complete()
        assert (await sandbox.exec(["echo", "kept"])).stdout == "kept\n"


async def test_a_stream_that_breaks_loses_its_command(tmp_path: Path, image: str) -> None:
    """Output that is cut off is never taken for all of it; the sandbox stays usable."""
    async with Proxy(tmp_path) as proxy, DockerEngine(proxy.endpoint) as engine, aio.Session(engine=engine) as session:
        sandbox = await session.sandbox(container_image=image)
        process = sandbox.exec(["seq", "200000"])
        await anext(aiter(process.stdout))
        proxy.cut(300_000)
        with pytest.raises(aviato.EngineConnectionError):
            await process
        assert (await sandbox.exec(["echo", "again"])).stdout == "again\n"


async def test_a_slow_daemon(tmp_path: Path, image: str) -> None:
    """Whatever comes late comes right."""
    async with Proxy(tmp_path) as proxy, DockerEngine(proxy.endpoint) as engine, aio.Session(engine=engine) as session:
        proxy.plan(".", Fault.SLOW)
        sandbox = await session.sandbox(container_image=image)
        assert (await sandbox.exec(["cat"], stdin=b"x" * 100_000)).stdout_bytes == b"x" * 100_000
        await sandbox.write_file("/tmp/x", b"y" * 100_000)
        assert await sandbox.read_file("/tmp/x") == b"y" * 100_000


async def test_remote_functions_need_python(image: str) -> None:
    """And say so."""
    async with aio.Session(engine="docker") as session:

        @session.function(container_image=image)
        def double(x: int) -> int:
            return 2 * x

        with pytest.raises(aviato.CapabilityError, match="python3"):
            await double.remote(2)


# Without a shell


@pytest.fixture
async def bare() -> AsyncIterator[aio.Sandbox]:
    """A sandbox in which there is no shell."""
    image = need_busybox(SHELLLESS_IMAGE)
    async with aio.Sandbox.run("sleep", "900", engine="docker", container_image=image) as made:
        yield await made
        await made.stop(graceful_shutdown_seconds=0)  # a first process hears no signal that it does not ask for


async def test_commands_without_a_shell(bare: aio.Sandbox) -> None:
    """They run, with their input, output, directory and code."""
    assert bare.isolation is not None
    assert bare.isolation.notes[0] == native_plan.BARE_NOTE
    assert (await bare.exec(["echo", "a", "$b"])).stdout == "a $b\n"
    data = random.Random(2).randbytes(3_000_000)
    assert (await bare.exec(["cat"], stdin=data)).stdout_bytes == data
    assert (await bare.exec(["pwd"], cwd="/etc")).stdout == "/etc\n"
    assert (await bare.exec(["false"])).returncode == 1
    missing = await bare.exec(["sh"])
    assert missing.returncode == 127
    assert missing.stderr.startswith("aviato: sh: ")
    assert (await bare.exec(["/etc/passwd"])).returncode == 126
    assert (await bare.read_file("/etc/group")).startswith(b"root:")


async def test_what_is_refused_without_a_shell(bare: aio.Sandbox) -> None:
    """Time limits, signals, writing: each with its reason."""
    with pytest.raises(aviato.CapabilityError, match="timeout_seconds needs a shell"):
        await bare.exec(["sleep", "1"], timeout_seconds=5)
    process = bare.exec(["sh", "-c", "true"])
    await process
    asleep = bare.exec(["sleep", "1"])
    await bare.exec(["true"])
    asleep.send_signal(15)
    with pytest.raises(aviato.CapabilityError, match="signal needs a shell"):
        await asleep
    with pytest.raises(aviato.CapabilityError, match="needs a shell and mv"):
        await bare.write_file("/etc/x", b"")
    with pytest.raises(aviato.CapabilityError, match="lifetime needs a shell or python3"):
        await bare.extend_lifetime(5)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "no shell that could keep"),
        ({"command": "sleep", "args": ["9"], "max_lifetime_seconds": 5}, "max_lifetime_seconds"),
        ({"command": "sleep", "args": ["9"], "idle_timeout_seconds": 5}, "idle_timeout_seconds"),
        ({"command": "sleep", "args": ["9"], "orphan_timeout_seconds": 5}, "orphan_timeout_seconds"),
    ],
)
async def test_what_cannot_be_asked_for_without_a_shell(config: dict[str, Any], text: str) -> None:
    """It is refused by name, and nothing is left."""
    image = need_busybox(SHELLLESS_IMAGE)
    before = containers(running=False)  # other tests' engines keep some for their logs
    with pytest.raises(aviato.CapabilityError, match=text) as caught:
        async with aio.Sandbox.run(engine="docker", container_image=image, **config) as sandbox:
            await sandbox
    assert "python3" in str(caught.value)
    assert set(containers(running=False)) <= set(before)


async def test_a_main_command_without_a_shell() -> None:
    """Its code is the sandbox's."""
    image = need_busybox(SHELLLESS_IMAGE)
    async with aio.Session(engine="docker") as session:
        good = session.sandbox(command="echo", args=["hi"], container_image=image)
        bad = session.sandbox(command="false", container_image=image)
        assert (await good.wait_until_complete()).returncode == 0
        assert "".join([line async for line in good.stream_logs()]) == "hi\n"
        with pytest.raises(aviato.SandboxFailedError):
            await bad.wait_until_complete()
        assert bad.returncode == 1


async def test_life_without_a_shell() -> None:
    """It is found, stopped and pruned as others are; functions are refused."""
    image = need_busybox(SHELLLESS_IMAGE)
    async with aio.Sandbox.run(
        "sleep", "901", engine="docker", container_image=image, detached=True, tags=["bare"]
    ) as sandbox:
        await sandbox
        (listed,) = await aio.Sandbox.list(engine="docker", tags=["bare"])
        assert (await listed.exec(["echo", "found"])).stdout == "found\n"
        await listed.stop(graceful_shutdown_seconds=0)
        assert (listed.status, listed.exit_reason) == (SandboxStatus.TERMINATED, ExitReason.STOPPED)
    async with DockerEngine() as engine:
        assert sandbox.sandbox_id in await engine.prune()
    async with aio.Session(engine="docker") as session:

        @session.function(container_image=image, command="sleep", args=["902"])
        def double(x: int) -> int:
            return 2 * x

        with pytest.raises(aviato.CapabilityError):
            await double.remote(2)
