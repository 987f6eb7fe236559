"""The zygote: a process that has everything loaded which a sandbox's first process needs, and forks for each sandbox.

An interpreter takes several milliseconds to start; a fork of one takes less than one. So that a fork may become a
sandbox, the zygote's memory holds code and nothing else: it is a program of its own, with an empty environment and no
descriptor but its socket to the supervisor, and what it is told about a sandbox is told to the fork alone, in a file in
memory that the zygote passes on unread. All sandboxes of one supervisor share the layout of its address space.

A request is one message whose descriptors are that file and those it names, in its order; the answer is the fork's
process id. The fork is a child of the supervisor, which waits for it; the zygote has no children.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import marshal
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
import os,sys
sys.path.append(os.getcwd())
from aviato.engines.local.zygote import main
main({fd})
"""  # no path in it: a sandbox can read the command line of its first process
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_ANSWER = struct.Struct("=i")
_MOST_DESCRIPTORS = 32


class Zygote:
    """The supervisor's end: starts the zygote, and another one when that is gone."""

    def __init__(self, python: str) -> None:
        """Start it; `python` is the interpreter to use."""
        self._python = python
        self._pid = 0
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            argv = [self._python, "-I", "-S", "-E", "-B", "-c", _PROGRAM.format(fd=theirs.fileno())]
            os.chdir(Path(__file__).parents[3])
            try:
                self._pid = os.posix_spawn(self._python, argv, _ENVIRONMENT)
            finally:
                os.chdir("/")
        self._socket = ours

    def fork(self, job: dict[str, Any], fds: dict[str, int]) -> int:
        """Let a fork become a sandbox, and return its process id; it is a child of this process.

        Args:
            job: What `launch` is told.
            fds: Descriptors by name, as `launch` and `agent_descriptors` of the job name them, and `stderr`.

        Raises:
            OSError: There can be no more processes, or no zygote can be started.
        """
        names = list(fds)
        plan = memory_file("aviato-job", marshal.dumps((job, names)))
        try:
            descriptors = [plan, *(fds[name] for name in names)]
            try:
                answer = self._ask(descriptors)
            except ConnectionError:
                self._replace()
                answer = self._ask(descriptors)
        finally:
            os.close(plan)
        if answer < 0:
            raise OSError(-answer, f"no more processes: {os.strerror(-answer)}")
        return answer

    def _ask(self, descriptors: list[int]) -> int:
        socket.send_fds(self._socket, [b"f"], descriptors)
        answer = self._socket.recv(_ANSWER.size)
        if len(answer) < _ANSWER.size:
            raise ConnectionResetError("the zygote has ended")
        return int(_ANSWER.unpack(answer)[0])

    def _replace(self) -> None:
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._start()


def memory_file(name: str, data: bytes) -> int:
    """Make a file in memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def main(fd: int) -> None:
    """Be the zygote, until the supervisor is gone.

    Args:
        fd: Connected stream socket to it.
    """
    from aviato.engines.local.launch import launch  # noqa: PLC0415 - what the supervisor has no use for
    from aviato.engines.local.syscalls import clone, close_all_but, die_with_parent, set_name  # noqa: PLC0415

    die_with_parent()
    set_name("aviato-zygote")
    close_all_but({0, 1, 2, fd})
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.umask(0o022)
    sys.path.clear()  # after a change of root these places belong to a sandbox
    sys.meta_path.clear()
    gc.collect()
    gc.freeze()  # a collection would write to pages that are shared
    supervisor = socket.socket(fileno=fd)
    while True:
        data, fds, _, _ = socket.recv_fds(supervisor, 1, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        try:
            pid = clone(0)
        except OSError as error:
            pid = -(error.errno or errno.EAGAIN)
        if pid == 0:
            launch(*_read_plan(fds))
        for item in fds:
            os.close(item)
        with contextlib.suppress(BrokenPipeError):
            supervisor.send(_ANSWER.pack(pid))


def _read_plan(fds: list[int]) -> tuple[dict[str, Any], dict[str, int]]:
    """Read what to become, and give the descriptors their names."""
    plan, *rest = fds
    job, names = marshal.loads(os.pread(plan, os.fstat(plan).st_size, 0))  # noqa: S302 - from the supervisor
    named = dict(zip(names, rest, strict=True))
    os.dup2(named.pop("stderr"), 2)
    job["agent"].update({key: named[name] for key, name in job["agent_descriptors"].items()})
    job["agent"]["client_fds"] = [named["stream"]]
    job["agent_fds"] = [named[name] for name in ("stream", *job["agent_descriptors"].values())]
    return job, named
