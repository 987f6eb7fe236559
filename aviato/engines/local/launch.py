"""From a fork of the zygote to the agent in a sandbox: the protections, one after the other.

Two processes work together. The *builder* stays outside: it makes the other one, maps its ids, builds its tree where
only the machine's root may, moves it into its control groups, and ends. The *first process* is born into namespaces
of its own, arranges what is inside them, gives up its rights, and goes on as the agent.

Each step that is refused ends both with the step's name; nothing is skipped. The order matters: descriptors and
keyring first, priority while `/proc/self` is still ours, then the ids, then the file system, and limits inside the
namespaces. See "What protects a sandbox" in the documentation for what each step is for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from aviato.agent import payload
from aviato.engines.local import profile, rootfs, seccomp
from aviato.engines.local.refusals import REMEDIES
from aviato.engines.local.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MACHINE,
    MS_PRIVATE,
    MS_REC,
    bind,
    change_root,
    clone,
    close_all_but,
    die_with_parent,
    filter_calls,
    join_new_keyring,
    keep_capabilities,
    mount,
    set_name,
    unshare,
)

HOST_NAME = "sandbox"
USER_LIMITS = {
    "max_user_namespaces": 0,
    "max_inotify_instances": 64,
    "max_inotify_watches": 8192,
    "max_fanotify_groups": 0,
}
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE)
_NAMESPACES = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP: man 7 netdevice
_FILTER = seccomp.build(MACHINE) if MACHINE in seccomp.ARCHITECTURES else b""


class StepError(Exception):
    """A step that was refused."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(f"{step}: {error}")
        self.step = step
        self.exhausted = isinstance(error, OSError) and error.errno in _EXHAUSTED


class OtherGoneError(Exception):
    """The other of the two processes has ended, and has said why if anybody knows."""


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


def launch(job: dict[str, Any], fds: dict[str, int]) -> NoReturn:
    """Make a sandbox; called in a child of its own, and never returns.

    Args:
        job: What to make, as `Held` describes it.
        fds: Descriptors by name: `errors` to report on, `info` for the first process's id, `content` of mounted files,
            `block` to wait for before the agent starts, and those for the agent.
    """
    with _reporting(fds["errors"]):
        _build(job, fds)
    os._exit(1)


@contextlib.contextmanager
def _reporting(fd: int) -> Iterator[None]:
    """Let nothing out of a child: what goes wrong is written to a descriptor."""
    try:
        yield
    except OtherGoneError:
        pass
    except StepError as error:
        _report(fd, error.step, str(error), exhausted=error.exhausted)
    except BaseException as error:  # noqa: BLE001 - a child must end here, whatever happens
        _report(fd, "launcher", f"{type(error).__name__}: {error}")


def _report(fd: int, step: str, message: str, *, exhausted: bool = False) -> None:
    told = {"step": step, "message": message, "remedy": REMEDIES.get(step, ""), "exhausted": exhausted}
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(told).encode())


def _build(job: dict[str, Any], fds: dict[str, int]) -> NoReturn:
    """Be the builder."""
    set_name("aviato-builder")
    os.setpgid(0, 0)  # whoever kills the group reaches both, and every helper
    die_with_parent()
    if os.getppid() != job["supervisor"]:
        os._exit(1)
    with _Step("descriptors"):
        close_all_but({0, 1, 2, *fds.values()})
    with _Step("keyring"):
        join_new_keyring()
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", "500")
    waits, tells = os.pipe()
    joins, joined = os.pipe()
    shifted = job["base"] is not None
    sources = {}
    if shifted:
        with _Step("mount namespace"):
            unshare(CLONE_NEWNS)
            mount("none", "/", flags=MS_REC | MS_PRIVATE)
        sources = _open_sources(job)
    with _Step("user namespace"):
        first = _clone_as(job["base"]) if shifted else clone(_NAMESPACES | CLONE_NEWNS)
    if first == 0:
        os.close(tells)
        os.close(joined)
        _begin(job, fds, waits, joins)
    os.close(waits)
    os.close(joins)
    with _Step("user namespace"):
        _map_ids(job, first)
    os.write(fds["info"], b"%d\n" % first)
    _tell(tells)
    joiner = _join_meanwhile(job["groups"], first, fds["errors"], joined)
    os.close(joined)
    if shifted:
        with _Step("root file system"):
            namespace = os.open(f"/proc/{first}/ns/user", os.O_RDONLY)
            rootfs.build(job, sources, fds["content"], job["base"], namespace)
        _tell(tells)
    os.waitpid(joiner, 0)
    os._exit(0)


def _tell(fd: int) -> None:
    """Let the first process do its next part."""
    try:
        os.write(fd, b"x")
    except BrokenPipeError:
        raise OtherGoneError from None


def _hear(fd: int) -> None:
    """Wait until the builder has done its part."""
    if not os.read(fd, 1):
        raise OtherGoneError


def _join_meanwhile(groups: list[str], pid: int, errors: int, joined: int) -> int:
    """Move the first process into its groups in a process of its own: the kernel takes milliseconds over it, asleep."""
    joiner = os.fork()
    if joiner == 0:
        with _reporting(errors):
            with _Step("control group"), contextlib.suppress(ProcessLookupError):  # it has ended, and has said why
                for path in groups:
                    _write(f"{path}/cgroup.procs", str(pid))
            _tell(joined)
        os._exit(0)
    return joiner


def _clone_as(base: int) -> int:
    """Let the namespaces belong to the user that is root inside, not to the machine's, and stay root out here."""
    os.setgroups([])
    os.setresgid(base, base, 0)
    os.setresuid(base, base, 0)
    first = clone(_NAMESPACES)
    if first:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
    return first


def _map_ids(job: dict[str, Any], pid: int) -> None:
    """Say who the users of the other process's namespace are out here.

    Raises:
        OSError: The kernel or one of the helpers refused.
    """
    if job["base"] is not None:
        for kind in ("uid", "gid"):
            _write(f"/proc/{pid}/{kind}_map", f"0 {job['base']} {job['ids']}")
    elif job["subordinate"] is None:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"0 {os.getuid()} 1")
        _write(f"/proc/{pid}/gid_map", f"0 {os.getgid()} 1")
    else:
        found = job["subordinate"]
        for program, own, start in (("newuidmap", os.getuid(), found["uid"]), ("newgidmap", os.getgid(), found["gid"])):
            argv = [program, str(pid), "0", str(own), "1", "1", str(start), str(job["ids"] - 1)]
            helper = os.posix_spawn(found[program], argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            if os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) != 0:
                raise OSError(f"{program} refused the range from {start}")


def _begin(job: dict[str, Any], fds: dict[str, int], waits: int, joins: int) -> NoReturn:
    """Be the first process; its errors are its own to report."""
    with _reporting(fds["errors"]):
        _arrange(job, fds, waits, joins)
    os._exit(1)


def _arrange(job: dict[str, Any], fds: dict[str, int], waits: int, joins: int) -> NoReturn:
    """Arrange the inside, and become the agent; the builder says on `waits` what is done, its helper on `joins`."""
    _hear(waits)
    with _Step("user namespace"):
        if job["several_users"]:
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    with _Step("namespace limits"):
        for name, value in USER_LIMITS.items():
            if os.path.exists(f"/proc/sys/user/{name}"):  # an older kernel lacks some, and then has nothing to limit
                _write(f"/proc/sys/user/{name}", str(value))
    with _Step("limits"):
        for name, value in job["rlimits"].items():
            _limit(getattr(resource, f"RLIMIT_{name}"), value)
    with _Step("loopback"):
        _raise_loopback()
    with _Step("host name"):
        socket.sethostname(HOST_NAME)
    if job["base"] is None:
        with _Step("mount namespace"):
            mount("none", "/", flags=MS_REC | MS_PRIVATE)
        sources = _open_sources(job)
        with _Step("root file system"):
            rootfs.build(job, sources, fds["content"], None, -1)
    else:
        _hear(waits)
        with _Step("mount namespace"):
            unshare(CLONE_NEWNS)  # one that this user namespace may change; with it comes the tree
    with _Step("root file system"):
        bind(rootfs.ROOT, rootfs.ROOT)
    with _Step("proc"):
        profile.mount_proc(rootfs.ROOT)
    with _Step("dev"):
        profile.mount_dev(rootfs.ROOT, rootfs.SHARED_MEMORY)
    with _Step("root file system"):
        change_root(rootfs.ROOT)
    os.setsid()
    if "block" in fds:
        _hear(fds["block"])
    _hear(joins)
    with _Step("control group"):
        unshare(CLONE_NEWCGROUP)  # the groups it is in now look like the topmost ones
    with _Step("descriptors"):
        close_all_but({0, 1, 2, fds["errors"], *job["agent_fds"]})
    with _Step("capabilities"):
        keep_capabilities(profile.AGENT_CAPABILITIES if job["several_users"] else ())
    with _Step("seccomp"):
        filter_calls(_FILTER)
    die_with_parent()
    os.close(fds["errors"])
    set_name("aviato-agent")
    payload.main(job["agent"])  # type: ignore[no-untyped-call]  # the agent has no types: `typing` would cost it memory
    os._exit(1)


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


def _raise_loopback() -> None:
    """Switch the loopback interface on; the kernel gives it its addresses then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        (flags,) = struct.unpack_from("h", answer, 16)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
