"""What a sandbox of this machine offers and refuses, beyond what the contract says of every engine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from aviato import aio
from aviato.engines.local import ids, network
from aviato.exceptions import AviatoError, CapabilityError
from aviato.models import ExitReason

Session = Callable[..., aio.Session]


async def _out(sandbox: aio.Sandbox, script: str) -> str:
    result = await sandbox.exec(["sh", "-c", script], timeout_seconds=30)
    return result.stdout + result.stderr


async def _python(sandbox: aio.Sandbox, program: str) -> str:
    result = await sandbox.exec(["python3", "-c", program], timeout_seconds=30)
    return result.stdout + result.stderr


async def test_dangerous_system_calls_are_refused(local: Session) -> None:
    """Namespaces, mounts, keyrings, io_uring, perf, vsock and terminal injection are all refused."""
    program = """
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
calls = {
    "unshare": (272 if x86 else 97, 0x10000000), "mount": (165 if x86 else 40, 0), "keyctl": (250 if x86 else 219, 0),
    "io_uring_setup": (425, 1), "bpf": (321 if x86 else 280, 0), "perf_event_open": (298 if x86 else 241, 0),
    "clone3": (435, 0), "fsopen": (430, 0), "open_tree": (428, 0), "setns": (308 if x86 else 268, 0),
    "userfaultfd": (323 if x86 else 282, 0), "chroot": (161 if x86 else 51, 0), "x32": (0x40000000, 0),
}
for name, (number, argument) in calls.items():
    result = libc.syscall(number, argument, 0, 0, 0, 0)
    code = ctypes.get_errno()
    print(name, "REFUSED" if result == -1 and code in (errno.EPERM, errno.ENOSYS) else (result, code))
for family in (40, 17, 38):
    try:
        socket.socket(family, socket.SOCK_STREAM)
        print("family", family, "OPEN")
    except OSError as error:
        print("family", family, "REFUSED" if error.errno == errno.EAFNOSUPPORT else error)
import fcntl
try:
    fcntl.ioctl(0, 0x5412, b"x")
    print("TIOCSTI OPEN")
except OSError as error:
    print("TIOCSTI", "REFUSED" if error.errno == errno.EPERM else error)
"""
    async with local() as session:
        lines = (await _python(session.sandbox(), program)).splitlines()
    assert len(lines) == 17
    assert [line for line in lines if not line.endswith("REFUSED")] == []


async def test_sandboxes_do_not_see_each_other(local: Session) -> None:
    """Files, processes and shared memory of one are not in another."""
    canary = secrets.token_hex(16)
    async with local() as session:
        one, two = session.sandbox(), session.sandbox()
        process = one.exec(["sh", "-c", f"echo {canary} | tee /tmp/x /dev/shm/x /workspace/x; exec sleep 600"])
        await anext(aiter(process.stdout))
        text = await _out(two, "cat /proc/*/cmdline | tr '\\0' ' '; cat /tmp/x /dev/shm/x /workspace/x; ls /proc")
        process.kill()
        await process
    assert canary not in text


async def test_a_setuid_program_gives_nothing(local: Session) -> None:
    """A set-user-id bit set inside has no effect inside, and nothing of it exists outside."""
    script = "cp /bin/sh /tmp/s; chmod 4755 /tmp/s; /tmp/s -c 'grep NoNewPrivs /proc/self/status'"
    async with local() as session:
        assert "1" in await _out(session.sandbox(), script)


async def test_python_is_the_interpreter_that_runs_this(local: Session) -> None:
    """`python` and `python3` answer with the client's own version, and its standard library works."""
    async with local() as session:
        sandbox = session.sandbox()
        for name in ("python", "python3"):
            program = "import sys, ssl, json, sqlite3, ctypes; print(sys.version_info[:3])"
            result = await sandbox.exec([name, "-c", program], check=True)
            assert result.stdout.strip() == str(tuple(sys.version_info[:3]))


async def test_a_user_can_be_chosen_where_there_are_several(local: Session) -> None:
    """As root a command runs as another user of the sandbox, without any capability; as a user that is refused."""
    async with local() as session:
        sandbox = session.sandbox()
        if os.getuid() == 0 or ids.subordinate() is not None:
            result = await sandbox.exec(["sh", "-c", "id -u; grep CapEff /proc/self/status"], user="nobody")
            assert result.stdout.split() == ["65534", "CapEff:", "0" * 16]
            assert (await sandbox.exec(["id", "-u"], user=1234)).stdout == "1234\n"
        else:
            with pytest.raises(AviatoError):
                await sandbox.exec(["id"], user="nobody")


async def test_idleness_ends_a_sandbox_but_a_running_command_is_not_idle(local: Session) -> None:
    """The clock runs only while no command does."""
    async with local(idle_timeout_seconds=0.4) as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["sleep", "1"])).returncode == 0
        await sandbox.wait_until_complete(timeout=20, raise_on_termination=False)
        assert sandbox.exit_reason is ExitReason.IDLE


async def test_a_lifetime_can_be_extended(local: Session) -> None:
    """An extended sandbox outlives its first limit."""
    async with local(max_lifetime_seconds=1.5) as session:
        sandbox = session.sandbox()
        await sandbox.extend_lifetime(60)
        assert (await sandbox.exec(["sleep", "2"])).returncode == 0


async def test_the_memory_of_several_processes_together_is_limited(local: Session) -> None:
    """Each stays below the limit, all together do not: some are killed, by the group or by the agent."""
    program = """
import os, signal, time
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        kept = b"x" * (48 << 20)
        signal.pause()
    children.append(pid)
pid, status = os.wait()
print("killed", os.WTERMSIG(status))
for child in children:
    if child != pid:
        os.kill(child, 9)
"""
    async with local(resources={"memory": "160Mi", "disk": "16Mi"}) as session:
        sandbox = session.sandbox()
        result = await sandbox.exec(["python3", "-c", program], timeout_seconds=50)
        assert result.stdout == "killed 9\n" or result.returncode == 137, result
        assert (await sandbox.exec(["true"])).returncode == 0


async def test_directories_that_are_named_are_there(local: Session) -> None:
    """working_dir and temp_dir are made where they are missing, and places of the kernel are refused."""
    async with local(working_dir="/deep/work", temp_dir="/scratch") as session:
        text = await _out(session.sandbox(), "pwd; echo $TMPDIR; touch x $TMPDIR/y && echo written")
        assert text.split() == ["/deep/work", "/scratch", "written"]
        with pytest.raises(CapabilityError, match="working_dir"):
            await session.sandbox(working_dir="/proc/x")


@pytest.fixture
def far_address() -> Iterator[str]:
    """An address that is not this machine's own, served by a host in a network namespace of the test's."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network of the test's own takes root and iproute2")
    name, peer = "aviato-far", "aviato-near"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    ip("netns", "add", name)
    server = None
    try:
        ip("link", "add", peer, "type", "veth", "peer", "name", "far0", "netns", name)
        ip("addr", "add", "10.213.7.1/24", "dev", peer)
        ip("link", "set", peer, "up")
        ip("-n", name, "addr", "add", "10.213.7.2/24", "dev", "far0")
        ip("-n", name, "link", "set", "far0", "up")
        program = (
            "import socket; s = socket.create_server(('10.213.7.2', 8080)); print('up', flush=True)\n"
            "while True: s.accept()[0].sendall(b'far away')"
        )
        command = ["ip", "netns", "exec", name, sys.executable, "-c", program]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        yield "10.213.7.2"
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        subprocess.run(["ip", "link", "del", peer], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


async def test_the_internet_is_reached_but_not_this_machine(local: Session, far_address: str) -> None:
    """With egress another host answers; loopback, link-local and this machine's own addresses do not."""
    if network.why_not(network.find_program()) is not None:
        pytest.skip(str(network.why_not(network.find_program())))
    with socket.create_server(("0.0.0.0", 0)) as here:
        port = here.getsockname()[1]
        own = network.host_addresses()
        assert "10.213.7.1" in own
        targets = [("127.0.0.1", port), ("10.0.2.2", port), ("169.254.169.254", 80), *((item, port) for item in own)]
        program = f"""
import socket
print(socket.create_connection(({far_address!r}, 8080), 10).recv(100))
for target in {targets!r}:
    try:
        socket.create_connection(target, 3)
        print("REACHED", target)
    except OSError as error:
        print("refused")
"""
        async with local(network={"egress_mode": "internet"}) as session:
            text = await _python(session.sandbox(), program)
    assert text.splitlines() == ["b'far away'", *["refused"] * len(targets)]


async def test_no_way_out_is_a_clear_refusal(local: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without slirp4netns asking for the internet names what to install."""
    monkeypatch.setattr(network, "find_program", lambda: None)
    async with local() as session:
        with pytest.raises(CapabilityError, match="apt-get install slirp4netns"):
            await session.sandbox(network={"egress_mode": "internet"})
