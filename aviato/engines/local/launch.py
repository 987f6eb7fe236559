"""From a forked child of the supervisor to the agent in a sandbox: the protections, one after the other.

Each step that is refused ends the child with the step's name; nothing is skipped. The order matters: descriptors and
keyring first, priority while `/proc/self` is still ours, then the ids, then the file system, and limits inside the
namespaces. See "What protects a sandbox" in the documentation for what each step is for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from collections.abc import Callable
from typing import Any, NoReturn

from aviato.engines.local import profile, rootfs
from aviato.engines.local.cgroups import Group
from aviato.engines.local.ids import IDS
from aviato.engines.local.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_PRIVATE,
    MS_REC,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    close_all_but,
    join_new_keyring,
    mount,
    prctl,
    unshare,
)

STAGE = "/tmp"
USER_LIMITS = {
    "max_user_namespaces": 0,
    "max_inotify_instances": 64,
    "max_inotify_watches": 8192,
    "max_fanotify_groups": 0,
}
REFUSALS = {
    "user namespace": (
        "The machine forbids user namespaces. On Ubuntu 23.10 and later: "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap and python; "
        "elsewhere: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000; "
        "in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined."
    ),
    "mount namespace": "Mounting is forbidden here. In Docker: run with --privileged, or use the Docker engine.",
    "root file system": "The kernel must offer tmpfs and overlayfs (Linux 5.11 or later for ordinary users).",
    "network": 'slirp4netns must be able to open /dev/net/tun; try network egress_mode="none" to do without.',
    "bubblewrap": "Install it: apt-get install bubblewrap",
    "control group": "Give this user its groups (systemd: Delegate=yes), or ask for no limits on CPU and memory.",
}


class StepError(Exception):
    """A step that was refused."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(f"{step}: {error}")
        self.step = step


class _Step:
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and self.name == "user namespace":
            # the kernel's own word for it is that of a full disk
            error = OSError(errno.ENOSPC, "user.max_user_namespaces is reached")
        if isinstance(error, (OSError, ValueError)):
            raise StepError(self.name, error) from error


def launch(job: dict[str, Any], fds: dict[str, int], group: Group, base: int | None) -> NoReturn:
    """Become a sandbox; called in a forked child, and never returns.

    Args:
        job: What to make, as `supervisor` describes it.
        fds: Descriptors by name: `errors` to report on, `info` for bubblewrap, and those for the agent.
        group: Its control groups, made already.
        base: First id of its range as root, None as an ordinary user.
    """
    try:
        _launch(job, fds, group, base)
    except StepError as error:
        _report(fds["errors"], error.step, str(error))
    except BaseException as error:  # noqa: BLE001 - a child must end here, whatever happens
        _report(fds["errors"], "launcher", f"{type(error).__name__}: {error}")
    os._exit(1)


def _report(fd: int, step: str, message: str) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps({"step": step, "message": message, "remedy": REFUSALS.get(step, "")}).encode())


def _launch(job: dict[str, Any], fds: dict[str, int], group: Group, base: int | None) -> NoReturn:
    os.setpgid(0, 0)
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() != job["supervisor"]:
        os._exit(1)
    with _Step("descriptors"):
        close_all_but({0, 1, 2, *fds.values()})
    with _Step("keyring"):
        join_new_keyring()
    me = os.getpid()
    joining = _Helper(lambda: group.add(me))  # for the first group the kernel waits some milliseconds
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
    if base is not None:
        _as_root(job, base)
    else:
        _as_user(job)
    with _Step("namespace limits"):
        for name, value in USER_LIMITS.items():
            if os.path.exists(f"/proc/sys/user/{name}"):  # an older kernel lacks some, and then has nothing to limit
                _write(f"/proc/sys/user/{name}", str(value))
    with _Step("limits"):
        for name, value in job["rlimits"].items():
            _limit(getattr(resource, f"RLIMIT_{name}"), value)
    with _Step("control group"):
        joining.finish()
    argv = profile.command_line(job, fds, rootfs.ROOT, rootfs.SHARED_MEMORY)
    for name, fd in fds.items():
        os.set_inheritable(fd, name not in {"errors", "content"})
    os.umask(0o022)
    with _Step("bubblewrap"):
        os.execve(job["bwrap"], argv, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})  # noqa: S606 - this is the launcher


class _Helper:
    """A child that does what this process cannot do, or does it meanwhile, and says "ok" or what went wrong."""

    def __init__(self, work: Callable[[], None], *, waits: bool = False) -> None:
        """Start it; one that waits begins at `go`, and ends unheard when this process ends before."""
        go_read, self._go = os.pipe()
        self._said, say = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._go)
            if waits and not os.read(go_read, 1):
                os._exit(1)  # the other one has failed, and has said so
            try:
                work()
                os.write(say, b"ok")
            except BaseException as error:  # noqa: BLE001 - a child must end here, whatever happens
                with contextlib.suppress(OSError):  # nobody listens any more
                    os.write(say, str(error).encode())
            os._exit(0)
        os.close(go_read)
        os.close(say)

    def go(self) -> None:
        """Let it begin."""
        os.write(self._go, b"x")

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            OSError: It failed; the text is what it said.
        """
        answer = b""
        while piece := os.read(self._said, 4096):
            answer += piece
        os.close(self._said)
        os.close(self._go)
        os.waitpid(self._pid, 0)
        if answer != b"ok":
            raise OSError(answer.decode(errors="replace"))


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _open_sources(job: dict[str, Any]) -> dict[str, str]:
    """Name what is lent by descriptors of this mount namespace, because the stage may hide its paths."""
    sources = {}
    with _Step("root file system"):
        for path in (*job["layers"].values(), *job["lent"].values()):
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
            sources[path] = f"/proc/self/fd/{fd}"
    return sources


def _as_root(job: dict[str, Any], base: int) -> None:
    """Build the tree as the machine's root, then become the sandbox's own root, which is nobody outside."""
    with _Step("mount namespace"):
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
    sources = _open_sources(job)
    me = os.getpid()

    def build() -> None:
        for kind in ("uid", "gid"):
            _write(f"/proc/{me}/{kind}_map", f"0 {base} {IDS}")
        namespace = os.open(f"/proc/{me}/ns/user", os.O_RDONLY)
        rootfs.build(job, sources, base, namespace)

    helper = _Helper(build, waits=True)
    with _Step("user namespace"):
        os.setgroups([])
        os.setresgid(base, base, base)
        os.setresuid(base, base, base)
        prctl(PR_SET_DUMPABLE, 1)  # so that the helper may write the maps
        unshare(CLONE_NEWUSER)
    helper.go()
    with _Step("root file system"):
        helper.finish()
    with _Step("user namespace"):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _as_user(job: dict[str, Any]) -> None:
    """Map the user to the sandbox's root, with a range of subordinate ids where there is one, and build the tree."""
    with _Step("user namespace"):
        if job["subordinate"] is None:
            uid, gid = os.getuid(), os.getgid()
            unshare(CLONE_NEWUSER | CLONE_NEWNS)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
        else:
            _map_range(job["subordinate"])
    with _Step("mount namespace"):
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
    sources = _open_sources(job)
    with _Step("root file system"):
        rootfs.build(job, sources, None, -1)


def _map_range(subordinate: dict[str, Any]) -> None:
    """Enter a user namespace whose ids a helper maps from outside, with newuidmap and newgidmap.

    Raises:
        OSError: One of them refused.
    """
    me = os.getpid()
    uid, gid = os.getuid(), os.getgid()

    def map_ids() -> None:
        for program, own, first in (("newuidmap", uid, subordinate["uid"]), ("newgidmap", gid, subordinate["gid"])):
            argv = [program, str(me), "0", str(own), "1", "1", str(first), str(IDS - 1)]
            if os.waitstatus_to_exitcode(os.waitpid(_spawn(subordinate[program], argv), 0)[1]) != 0:
                raise OSError(f"{program} refused the range from {first}")

    helper = _Helper(map_ids, waits=True)
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    helper.go()
    helper.finish()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _spawn(program: str, argv: list[str]) -> int:
    return os.posix_spawn(program, argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
