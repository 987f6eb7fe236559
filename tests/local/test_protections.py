"""What a command in a sandbox can see and do, measured from inside; each test names what it would otherwise reach."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from aviato import aio
from tests.helpers.local import require_local

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="ids are shifted where the engine runs as root")


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


async def shell(sandbox: aio.Sandbox, script: str) -> str:
    """Run a script and give what it wrote on both streams."""
    return (await sandbox.exec(["sh", "-c", f"exec 2>&1\n{script}"])).stdout


async def python(sandbox: aio.Sandbox, program: str) -> str:
    """Run a Python program, which must succeed, and give what it printed."""
    return (await sandbox.exec(["python3", "-c", program], check=True)).stdout.strip()


async def test_commands_hold_no_rights_and_gain_none(sandbox: aio.Sandbox) -> None:
    """No capability in any set that counts, no_new_privs, and the filter on.

    The bounding set is emptied where commands could gain from it; with no_new_privs and no capability at all, as an
    ordinary user's sandboxes have it, nothing can be gained.
    """
    status = dict(line.split(":\t", 1) for line in (await shell(sandbox, "cat /proc/self/status")).splitlines())
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if os.getuid() == 0 else [])]
    assert {status[name] for name in sets} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@needs_root
async def test_root_inside_is_nobody_outside(sandbox: aio.Sandbox) -> None:
    """The id map begins far above any user of the host."""
    inside, outside, count = (await shell(sandbox, "cat /proc/self/uid_map")).split()
    assert (inside, count) == ("0", "65536")
    assert int(outside) >= 65536


@needs_root
async def test_each_sandbox_has_ids_of_its_own(sandbox: aio.Sandbox) -> None:
    """Two sandboxes at once never share a range."""
    async with aio.Sandbox.run(engine="local") as other:
        assert await shell(sandbox, "cat /proc/self/uid_map") != await shell(other, "cat /proc/self/uid_map")


async def test_commands_inherit_three_descriptors() -> None:
    """What the client left inheritable does not arrive, not even its directories."""
    leaked = [os.open("/", os.O_RDONLY) for _ in range(20)]
    for fd in leaked:
        os.set_inheritable(fd, True)
    try:
        async with aio.Sandbox.run(engine="local") as sandbox:
            assert await python(sandbox, "import os; print(sorted(os.listdir('/proc/self/fd'))[:3])") == str(
                ["0", "1", "2"]
            )
            assert await python(sandbox, "import os; print(len(os.listdir('/proc/self/fd')))") == "4"  # and listdir's
    finally:
        for fd in leaked:
            os.close(fd)


async def test_the_clients_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the client is in no environment that the sandbox can read."""
    monkeypatch.setenv("AVIATO_TEST_CANARY", "canary-7f3a")
    async with aio.Sandbox.run(engine="local") as sandbox:
        found = await shell(sandbox, "env; cat /proc/[0-9]*/environ")
        assert "canary-7f3a" not in found
        assert "Permission denied" in await shell(sandbox, "cat /proc/1/environ")


async def test_the_first_process_cannot_be_looked_into(sandbox: aio.Sandbox) -> None:
    """Its descriptors, memory and program are closed to commands."""
    text = await python(
        sandbox,
        "import os\n"
        "def attempt(call, *a):\n"
        "    try: call(*a)\n"
        "    except OSError as error: return error.errno\n"
        "print([attempt(os.readlink, '/proc/1/fd/0'), attempt(os.open, '/proc/1/mem', os.O_RDWR),"
        " attempt(os.open, '/proc/1/exe', os.O_WRONLY)])",
    )
    assert text == "[13, 13, 13]"


async def test_secrets_of_the_host_are_absent(sandbox: aio.Sandbox, tmp_path: Path) -> None:
    """Neither the caller's files nor the machine's are there under their names."""
    canary = tmp_path / "secret"
    canary.write_text("canary")
    places = [str(canary), "/etc/shadow", "/etc/ssh", "/var/lib", "/var/log", "/run/docker.sock", "/srv", "/boot",
              os.environ["AVIATO_HOME"], str(Path.cwd() / "pyproject.toml"), str(Path.home() / ".ssh")]  # fmt: skip
    seen = await python(sandbox, f"import os; print([p for p in {places!r} if os.path.lexists(p)])")
    assert seen == "[]"
    assert await shell(sandbox, "ls -A /sys /home /tmp /run /workspace | grep -v ':$' | grep .") == ""


async def test_settings_of_the_kernel_cannot_be_written(sandbox: aio.Sandbox) -> None:
    """Least of all core_pattern, which the kernel would run as root of the host."""
    for name in ("kernel/core_pattern", "vm/drop_caches", "kernel/sysrq"):
        answer = await shell(sandbox, f"test -w /proc/sys/{name} && echo writable; cat /dev/null >> /proc/sys/{name}")
        assert "writable" not in answer
        assert answer


async def test_what_proc_tells_of_the_machine_is_masked(sandbox: aio.Sandbox) -> None:
    """The masked files give nothing, and the masked directories are empty."""
    for name in ("kallsyms", "keys", "timer_list", "cmdline", "kcore", "modules"):
        assert await shell(sandbox, f"head -c 16 /proc/{name} 2>/dev/null") == ""
    assert (
        await shell(sandbox, "ls -A /proc/acpi /proc/fs /proc/irq /proc/bus 2>/dev/null | grep -v ':$' | grep .") == ""
    )


async def test_no_namespace_can_be_made(sandbox: aio.Sandbox) -> None:
    """By none of the ways, and none is left in the count."""
    text = await python(
        sandbox,
        "import ctypes, os, platform\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def sc(*a):\n"
        "    r = libc.syscall(*[ctypes.c_long(x) for x in a]); e = ctypes.get_errno()\n"
        "    if r == 0 and a[0] in (56, 220): os._exit(9)\n"
        "    return 0 if r >= 0 else e\n"
        "x = platform.machine() == 'x86_64'\n"
        "print([sc(272 if x else 97, 0x10000000), sc(56 if x else 220, 0x10000011, 0, 0, 0, 0), sc(435, 0, 0),"
        " sc(308 if x else 268, 0, 0), sc(430, 0, 0), sc(425, 1, 0), sc(250 if x else 219, 0, -3, 0)])",
    )
    assert text == "[1, 1, 38, 1, 38, 38, 1]"
    assert (await shell(sandbox, "cat /proc/sys/user/max_user_namespaces")).strip() == "0"


async def test_only_ordinary_socket_families_exist(sandbox: aio.Sandbox) -> None:
    """The hypervisor's sockets, packet sockets and the kernel's crypto are refused; loopback works."""
    text = await python(
        sandbox,
        "import socket\n"
        "def attempt(family, kind):\n"
        "    try: socket.socket(family, kind).close(); return 0\n"
        "    except OSError as error: return error.errno\n"
        "print([attempt(f, k) for f, k in ((40, 1), (38, 5), (17, 3), (1, 1), (2, 1), (10, 1))])\n"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())",
    )
    assert text == "[97, 97, 97, 0, 0, 0]"


async def test_the_hosts_loopback_and_abstract_sockets_are_out_of_reach(sandbox: aio.Sandbox) -> None:
    """A service of the host cannot be reached, by address or by name."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0aviato-test-{os.getpid()}")
        abstract.listen()
        port, name = tcp.getsockname()[1], abstract.getsockname()
        answer = await python(
            sandbox,
            "import socket\n"
            "def attempt(family, address):\n"
            "    try: socket.socket(family).connect(address); return 0\n"
            "    except OSError as error: return error.errno\n"
            f"print([attempt(2, ('127.0.0.1', {port})), attempt(1, {name!r})])",
        )
    assert answer == "[111, 111]"


async def test_a_lock_on_a_file_of_the_host_is_not_shared(sandbox: aio.Sandbox) -> None:
    """Two sides of an overlay lock different files, so a lock carries no message."""
    import fcntl

    with Path("/usr/bin/env").open("rb") as file:  # noqa: ASYNC230 - a file of the host, opened once
        fcntl.flock(file, fcntl.LOCK_EX)
        program = (
            "import fcntl; fcntl.flock(open('/usr/bin/env', 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('got it')"
        )
        assert await python(sandbox, program) == "got it"


async def test_the_report_names_what_is_on(sandbox: aio.Sandbox) -> None:
    """`isolation` says the same as the tests above found."""
    await sandbox
    isolation = sandbox.isolation
    assert isolation is not None
    assert isolation.seccomp == isolation.disk == isolation.network == "hard"
    assert isolation.ids == ("hard" if os.getuid() == 0 else "best effort")
