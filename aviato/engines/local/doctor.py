"""What this machine can do, found out by doing it: each blocker with the command that removes it.

The checks look at one thing each and never change the machine; the trials start real sandboxes, with and without
network, and run a command in them. Only a trial says that something works.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile

from aviato.engines.diagnosis import Check, Report, try_sandbox
from aviato.engines.local import ids, network, records
from aviato.engines.local.cgroups import CONTROLLERS, find_layout
from aviato.engines.local.engine import LocalEngine
from aviato.engines.local.jobs import python_program
from aviato.engines.local.seccomp import ARCHITECTURES

LEAST_FREE_BYTES = 256 << 20
_DOCKER_FLAGS = "--cap-add SYS_ADMIN " + " ".join(
    f"--security-opt {name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")
)
_UNSHARE = (
    "import ctypes, os, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "sys.exit(ctypes.get_errno() if libc.unshare(0x10000000 | 0x00020000) else 0)\n"
)


async def examine(home: str) -> Report:
    """Look at everything and start sandboxes; takes about a second, and leaves nothing.

    Args:
        home: The state directory to use.
    """
    checks = await asyncio.to_thread(run_checks, home)
    who = "root" if ids.can_shift() else f"user {os.getuid()}"
    trials = [
        await try_sandbox(lambda: LocalEngine(home), f"sandbox as {who}, no network"),
        await try_sandbox(lambda: LocalEngine(home), f"sandbox as {who}, internet", internet=True),
    ]
    return Report(checks, tuple(trials))


def run_checks(home: str) -> tuple[Check, ...]:
    """Look at everything that a sandbox needs, without starting one."""
    return (
        check_system(),
        check_python(),
        check_namespaces(),
        check_overlay(),
        check_groups(),
        check_home(home),
        check_network(),
    )


def check_system() -> Check:
    """Operating system and processor."""
    machine, system, kernel = platform.machine(), platform.system(), platform.release()
    if system != "Linux":
        return Check("system", ok=False, detail=system, remedy="The local engine needs Linux.", blocker=True)
    if machine not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        remedy = f"There are system call filters for {known} only."
        return Check("system", ok=False, detail=machine, remedy=remedy, blocker=True)
    if _kernel_version(kernel) < (5, 12):
        remedy = "Linux 5.12 or later is needed, for id-mapped mounts and overlays of ordinary users."
        return Check("system", ok=False, detail=f"Linux {kernel}", remedy=remedy, blocker=True)
    return Check("system", ok=True, detail=f"Linux {kernel}, {machine}")


def _kernel_version(release: str) -> tuple[int, ...]:
    numbers = release.split("-", 1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def check_python() -> Check:
    """The interpreter that runs aviato is lent to sandboxes, whose users must be able to read it."""
    program = python_program()
    for path in (program, sys.base_prefix):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            remedy = "Reinstall this Python, or run aviato with another one."
            return Check("python", ok=False, detail=str(error), remedy=remedy, blocker=True)
        if ids.can_shift() and mode & 0o005 != 0o005:
            detail = f"{path} has mode {stat.S_IMODE(mode):04o}, and sandboxes of root run as nobody"
            return Check("python", ok=False, detail=detail, remedy=f"chmod -R o+rX {path}", blocker=True)
    return Check("python", ok=True, detail=f"{program} ({platform.python_version()})")


def check_namespaces() -> Check:
    """User namespaces may be forbidden by a sysctl, by AppArmor, or by the filter of a container."""
    done = subprocess.run(
        [python_program(), "-I", "-S", "-c", _UNSHARE], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode == 0:
        return Check("user namespaces", ok=True, detail="they can be made")
    detail, remedy = explain_namespaces(done.returncode, _namespace_facts())
    return Check("user namespaces", ok=False, detail=detail, remedy=remedy, blocker=True)


def _namespace_facts() -> dict[str, str]:
    facts = {}
    for name in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        facts[name] = _read(f"/proc/sys/{name}")
    facts["apparmor"] = _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    facts["seccomp"] = next(
        (line.split()[1] for line in _read("/proc/self/status").splitlines() if line.startswith("Seccomp:")), ""
    )
    return facts


def explain_namespaces(code: int, facts: dict[str, str]) -> tuple[str, str]:
    """Say why user namespaces cannot be made, from the error number and the machine's settings, and what to do."""
    if facts.get("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000"
    if facts.get("kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"
    if facts.get("apparmor") == "1":
        return (
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if facts.get("seccomp") == "2":
        return (
            "a system call filter forbids them; this is probably a container",
            f"docker run {_DOCKER_FLAGS} ...",
        )
    reason = os.strerror(code) if 0 < code < 134 else f"exit code {code}"
    return f"the kernel refuses them: {reason}", "Use a kernel with CONFIG_USER_NS, outside of a chroot."


def check_overlay() -> Check:
    """Overlays let sandboxes write to a view of this machine's directories."""
    if any(line.split()[-1] == "overlay" for line in _read("/proc/filesystems").splitlines()):
        return Check("overlay", ok=True, detail="the kernel has it")
    if shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin") and os.getuid() == 0:
        detail = "it is not loaded; the first sandbox loads it where it is a module"
        return Check("overlay", ok=True, detail=detail)
    return Check("overlay", ok=False, detail="the kernel has not loaded it", remedy="modprobe overlay", blocker=True)


def check_groups() -> Check:
    """Control groups make limits hard."""
    found = find_layout().controllers
    missing = [name for name in CONTROLLERS if name not in found]
    if not missing:
        return Check("control groups", ok=True, detail=", ".join(CONTROLLERS))
    detail = f"{', '.join(missing)} cannot be limited by group; other limits take their place, CPU time has none"
    if os.getuid() == 0:
        remedy = "mount the cgroup controllers; in Docker: --privileged --cgroupns=private"
    elif os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        remedy = "systemd-run --user --scope -p Delegate=yes aviato ... (cpu: Delegate=cpu for user@.service)"
    else:
        user = os.getuid()
        folders = " ".join(f"/sys/fs/cgroup/{name}/aviato-{user}" for name in missing)
        remedy = f"as root: mkdir -p {folders} && chown -R {user} {folders}"
    return Check("control groups", ok=False, detail=detail, remedy=remedy)


def check_home(home: str) -> Check:
    """The state directory must be ours, writable, and have space."""
    try:
        records.prepare(home)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x" * 4096)
            file.flush()
        free = shutil.disk_usage(home).free
    except OSError as error:
        remedy = "export AVIATO_HOME=DIRECTORY, one that belongs to you and is on a disk with space"
        return Check("state directory", ok=False, detail=f"{home}: {error.strerror}", remedy=remedy, blocker=True)
    detail = f"{home}, {free >> 20} MiB free"
    if free < LEAST_FREE_BYTES:
        return Check("state directory", ok=False, detail=detail, remedy="free some space, or move AVIATO_HOME")
    return Check("state directory", ok=True, detail=detail)


def check_network() -> Check:
    """Internet access needs a program that is a network of its own."""
    program = network.find_program()
    reason = network.why_not(program)
    if reason is None:
        return Check("network helper", ok=True, detail=str(program))
    cause, _, remedy = reason.partition("; ")
    detail = f'{cause}, so egress_mode="internet" is refused'
    return Check("network helper", ok=False, detail=detail, remedy=remedy)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return ""
