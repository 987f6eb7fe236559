"""One sandbox in the hands of its supervisor, from the intent on disk to the last trace removed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from aviato.engines.local import ids, records
from aviato.engines.local.cgroups import Group
from aviato.engines.local.network import Uplink
from aviato.engines.local.refusals import REMEDIES

if TYPE_CHECKING:
    from aviato.engines.local.supervisor import Client, Supervisor

LOG_BYTES = 8 << 20
LOG_HEADER = struct.Struct("!dBI")
STDERR_BYTES = 8192
KILL_MARGIN = 0.5
_NEEDED = (  # of a job, by the launcher
    "subordinate", "several_users", "disk_bytes", "inodes", "rlimits", "mounted", "directories", "layers", "links",
    "lent", "files", "named_python",
)  # fmt: skip
_MAIN_OUTPUTS = ("main_stdout", "main_stderr")
_REASONS = {1: "exited", 2: "stopped", 3: "idle", 4: "lifetime", 5: "timeout"}


class LaunchError(Exception):
    """Something that the client must be told."""

    def __init__(self, kind: str, message: str, *, step: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.step = step
        self.remedy = remedy

    def as_message(self) -> dict[str, str]:
        """Return it as it is sent."""
        return {"kind": self.kind, "message": str(self), "step": self.step, "remedy": self.remedy}


class Held:
    """A sandbox that this supervisor answers for."""

    def __init__(self, supervisor: Supervisor, job: dict[str, Any]) -> None:
        self.supervisor = supervisor
        self.job = job
        self.id: str = job["id"]
        self.path = records.directory(supervisor.home, self.id)
        self.record: dict[str, Any] = job["record"]
        self.detached: bool = self.record["detached"]
        self.starters: list[tuple[Client, int]] = []
        self.stoppers: list[tuple[Client, int]] = []
        self.ready = False
        self.was_ready = False
        self.orphan_at: float | None = None
        self.group = Group(supervisor.layout, self.id)
        self._slot: ids.Slot | None = None
        self._lock = -1
        self._builder = -1
        self._builder_fd = -1
        self._init = -1
        self._init_fd = -1
        self._info = b""
        self._info_fd = -1
        self._status: int | None = None
        self._control: socket.socket | None = None
        self._control_buffer = b""
        self._errors = b""
        self._stderr = b""
        self._said: tuple[int, int] | None = None
        self._why: str | None = None
        self._kill_at: float | None = None
        self._end_at: float | None = None
        self._fds: list[int] = []
        self._image: list[int] = []
        self._log_fd = -1
        self._log_size = 0
        self._uplink: Uplink | None = None
        self._unblock_fd = -1

    @property
    def next_deadline(self) -> float | None:
        """When something is due, on the monotonic clock."""
        times = [item for item in (self._kill_at, self._end_at, self.orphan_at) if item is not None]
        return min(times) if times else None

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = now + KILL_MARGIN
            self.kill()
        if self._end_at is not None and self._end_at <= now:
            self._end_at = None
            self.stop(0.0, "lifetime")
        if self.orphan_at is not None and self.orphan_at <= now:
            self.orphan_at = None
            self.stop(0.0, "timeout")

    def start(self, content: int, stream: int, image: list[int]) -> None:
        """Write the intent down, then launch.

        Raises:
            LaunchError: It cannot be started; nothing is left.
            OSError: The disk or the machine refused something; nothing is left.
        """
        self._image = image
        try:
            self._take_place()
            self._fork(content, stream)
        except OSError as error:
            self._give_back()
            if error.errno in (28, 122):
                raise LaunchError("exhausted", f"the disk of {self.supervisor.home} is full: {error}") from error
            raise
        except BaseException:
            self._give_back()
            raise

    def _take_place(self) -> None:
        lock = records.claim(self.path)
        if lock is None:
            raise LaunchError("conflict", f"the id {self.id} is in use")
        self._lock = lock
        self.record["supervisor"] = {
            "token": self.supervisor.token,
            "pid": os.getpid(),
            "start": records.start_time(os.getpid()),
        }
        self.record["groups"] = self.group.paths
        records.write(f"{self.path}/record.json", self.record, durable=True)
        if self.job["shift_ids"]:
            self.supervisor.next_slot += 1
            self._slot = ids.take_slot(ids.slot_directory(self.supervisor.home), self.supervisor.next_slot)
            if self._slot is None:
                raise LaunchError("exhausted", "every range of user ids is taken by a running sandbox")
        limits = self.job["limits"]
        try:
            self.group.make(
                memory=limits["memory"] + self.job["disk_bytes"],
                processes=limits["processes"],
                cpu_millicores=limits["cpu"],
            )
        except OSError as error:
            step = "control group"
            raise LaunchError("isolation", f"{step}: {error}", step=step, remedy=REMEDIES[step]) from error

    def _fork(self, content: int, stream: int) -> None:
        listener = self._listen()
        control, agent_control = socket.socketpair()
        pairs = {name: os.pipe() for name in ("errors", "info", "stderr")}
        if self.job["agent"]["main"]:
            pairs |= {name: os.pipe() for name in _MAIN_OUTPUTS}
        handed = {name: pair[1] for name, pair in pairs.items()}
        if self.job["uplink"]:
            handed["block"], self._unblock_fd = os.pipe()
        handed |= {"listen": listener.detach(), "control": agent_control.detach()}
        self._control = control
        self._fds += [pair[0] for pair in pairs.values()]
        try:
            self._builder = self.supervisor.zygote.fork(self._plan(), {**handed, "content": content, "stream": stream})
        finally:
            for fd in handed.values():
                os.close(fd)
        self._builder_fd = os.pidfd_open(self._builder)
        control.setblocking(False)
        supervisor = self.supervisor
        supervisor.listen(self._builder_fd, select.EPOLLIN, self._builder_ended)
        supervisor.listen(control.fileno(), select.EPOLLIN, self._controlled)
        self._info_fd = pairs["info"][0]
        takers = {"errors": self._take_errors, "info": self._take_info, "stderr": self._take_stderr}
        takers |= {name: self._logger(number) for number, name in enumerate(_MAIN_OUTPUTS, 1)}
        for name, pair in pairs.items():
            self._read(pair[0], takers[name])
        if self.record["lifetime"]:
            self._end_at = time.monotonic() + self.record["lifetime"]

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/agent.sock")
        finally:
            os.close(folder)
        listener.listen(64)
        return listener

    def _plan(self) -> dict[str, Any]:
        """Say what the launcher needs to know."""
        main = _MAIN_OUTPUTS if self.job["agent"]["main"] else ()
        return {
            **{name: self.job[name] for name in _NEEDED},
            "supervisor": os.getpid(),
            "base": self._slot.base if self._slot else None,
            "ids": ids.IDS,
            "groups": self.group.paths,
            "agent": self._agent_config(),
            "agent_descriptors": {f"{name}_fd": name for name in ("listen", "control", *main)},
        }

    def _agent_config(self) -> dict[str, Any]:
        agent = self.job["agent"]

        def encode(text: str) -> bytes:
            return text.encode("utf-8", "surrogateescape")

        return {
            "env": {encode(name): encode(value) for name, value in agent["env"].items()},
            "cwd": encode(agent["cwd"]),
            "user": encode(agent["user"]),
            "main": [encode(item) for item in agent["main"]] if agent["main"] else None,
            "secrets": [(encode(path), encode(value)) for path, value in agent.pop("secrets").items()],
            "idle_ms": round(agent["idle"] * 1000),
            "memory_bytes": 0 if "memory" in self.supervisor.layout.controllers else self.job["limits"]["memory"],
        }

    def _read(self, fd: int, take: Any) -> None:
        os.set_blocking(fd, False)
        if fd not in self._fds:
            self._fds.append(fd)

        def ready(_events: int) -> None:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                return
            if data:
                take(data)
                return
            self.supervisor.ignore(fd)
            self._fds.remove(fd)
            os.close(fd)

        self.supervisor.listen(fd, select.EPOLLIN, ready)

    def _take_errors(self, data: bytes) -> None:
        self._errors += data

    def _take_stderr(self, data: bytes) -> None:
        self._stderr = (self._stderr + data)[-STDERR_BYTES:]

    def _take_info(self, data: bytes) -> None:
        """Learn who the first process is: a child of ours too."""
        self._init = int(data)
        self._init_fd = os.pidfd_open(self._init)
        self.supervisor.listen(self._init_fd, select.EPOLLIN, self._init_ended)
        self.record["init"] = {"pid": self._init, "start": records.start_time(self._init)}
        if self.job["uplink"]:
            self._connect()

    def _connect(self) -> None:
        """Give the sandbox a way out; the agent starts when it is there."""
        try:
            self._uplink = Uplink(self.job["uplink"], self._init, shifted=self.job["shift_ids"])
        except OSError as error:
            told = {
                "step": "network",
                "message": f"network: {error}",
                "remedy": REMEDIES["network"],
                "exhausted": False,
            }
            self._errors = json.dumps(told).encode()
            self.kill()
            return
        self._read(os.dup(self._uplink.ready_fd), self._unblock)

    def _unblock(self, _data: bytes) -> None:
        if self._unblock_fd >= 0:
            os.write(self._unblock_fd, b"1")
            os.close(self._unblock_fd)
            self._unblock_fd = -1

    def _logger(self, number: int) -> Any:
        def take(data: bytes) -> None:
            entry = LOG_HEADER.pack(time.time(), number, len(data)) + data
            if self._log_fd < 0 or self._log_size + len(entry) > LOG_BYTES:
                self._new_log()
            with contextlib.suppress(OSError):  # a full disk loses the log, not the sandbox
                os.write(self._log_fd, entry)
                self._log_size += len(entry)
            self.supervisor.log_grew(self.id)

        return take

    def _new_log(self) -> None:
        if self._log_fd >= 0:
            os.close(self._log_fd)
            os.rename(f"{self.path}/log", f"{self.path}/log.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._log_fd = os.open(f"{self.path}/log", flags, 0o600)
        self._log_size = 0

    def _controlled(self, _events: int) -> None:
        assert self._control is not None  # noqa: S101 - it is what is ready
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.supervisor.ignore(self._control.fileno())
            return
        self._control_buffer = (self._control_buffer + data)[-4096:]
        while b"\n" in self._control_buffer:
            line, _, self._control_buffer = self._control_buffer.partition(b"\n")
            words = line.split()
            if words == [b"ready"] and not self.ready:
                self._is_ready()
            elif len(words) == 3 and words[0] == b"closing" and words[1].isdigit():
                with contextlib.suppress(ValueError):
                    self._said = (int(words[1]), int(words[2]))

    def _hear_of_init(self) -> None:
        """Take what the builder has said by now; it says it before the agent can say anything."""
        handler = self.supervisor.handlers.get(self._info_fd)
        while self._init < 0 and self._info_fd in self._fds and handler is not None:
            if not _has_news(self._info_fd):
                return
            handler(select.EPOLLIN)

    def _is_ready(self) -> None:
        self._hear_of_init()
        self.ready = self.was_ready = True
        if self._why is None:
            self.record["status"] = "running"
        self.record["started_at"] = time.time()
        with contextlib.suppress(OSError):  # a full disk: the intent is there, and says enough
            records.write(f"{self.path}/record.json", self.record, durable=False)
        self.answer_starters()
        self.supervisor.changed(self.record)

    def answer_starters(self) -> None:
        """Tell those who asked for the launch that it runs."""
        for client, number in self.starters:
            client.send({"n": number, "record": self.record})
        self.starters.clear()

    def stop(self, grace: float, why: str) -> None:
        """Ask it to end, and see to it that it does after the grace."""
        if self._why is None:
            self._why = why
            self.record["status"] = "terminating"
            self.supervisor.changed(self.record)
        due = time.monotonic() + grace
        if grace > 0 and self._control is not None and self.ready:
            with contextlib.suppress(OSError):
                self._control.send(b"stop %d\n" % round(grace * 1000))
            due += 0.05
        else:
            self.kill()
        self._kill_at = due if self._kill_at is None else min(self._kill_at, due)

    def kill(self) -> None:
        """End everything at once, without asking anybody."""
        if self.group.paths:
            self.group.kill()
        if self._builder_fd >= 0:
            with contextlib.suppress(OSError):
                os.killpg(self._builder, signal.SIGKILL)  # before it could make a group of its own it has no children
        for fd in (self._init_fd, self._builder_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)

    def extend(self, seconds: float) -> None:
        """Move the end of its lifetime."""
        if self._end_at is not None:
            self._end_at += seconds
            self.record["lifetime"] += seconds

    def orphaned(self) -> None:
        """Nobody is connected any more."""
        if not self.ready:
            self.stop(0.0, "timeout")
        elif not self.detached and self.orphan_at is None:
            self.orphan_at = time.monotonic() + self.record["orphan"]

    def _builder_ended(self, _events: int) -> None:
        _, self._status = os.waitpid(self._builder, 0)
        self.supervisor.ignore(self._builder_fd)
        os.close(self._builder_fd)
        self._builder_fd = -1
        self._hear_of_init()
        if self._init < 0:
            with contextlib.suppress(ChildProcessError):  # the first process, if it was born, ends with the builder
                os.waitpid(-self._builder, 0)
        if self._init_fd < 0:
            self._finish()

    def _init_ended(self, _events: int) -> None:
        _, self._status = os.waitpid(self._init, 0)
        self.supervisor.ignore(self._init_fd)
        os.close(self._init_fd)
        self._init_fd = -1
        if self._builder_fd < 0:
            self._finish()

    def _finish(self) -> None:
        for fd in list(self._fds):
            handler = self.supervisor.handlers.get(fd)
            while fd in self._fds and handler is not None and _has_news(fd):
                handler(select.EPOLLIN)
        if self._control is not None:
            with contextlib.suppress(KeyError, OSError):
                self._controlled(select.EPOLLIN)
        self._conclude()
        error = None if self.ready else self._start_error()
        self._give_back(keep_directory=self.ready)
        for client, number in self.starters:
            assert error is not None  # noqa: S101 - those who started were answered when it was ready
            client.send({"n": number, "error": error.as_message()})
        for client, number in self.stoppers:
            client.send({"n": number, "record": self.record})
        self.starters.clear()
        self.supervisor.over(self)
        self.supervisor.changed(self.record)

    def _conclude(self) -> None:
        record = self.record
        said, code = self._said or (0, -1)
        oom = self.group.oom_kills()
        reason = self._why or _REASONS.get(said)
        record["ended_at"] = time.time()
        if self._why is None and said == 1 and 0 <= code <= 255:
            record["returncode"] = code
            record["status"] = "completed" if code == 0 else "failed"
            record["exit_reason"] = "signalled" if code > 128 else "exited"
            if code == 137 and oom:
                record["exit_reason"] = "oom_killed"
        elif reason in ("stopped", "idle", "lifetime", "timeout"):
            record["status"], record["exit_reason"] = "terminated", reason
        elif oom:
            record["status"], record["exit_reason"] = "failed", "oom_killed"
        else:
            record["status"], record["exit_reason"] = "failed", "lost"
            text = self._stderr.decode(errors="replace").strip()
            record["message"] = f"its agent {_how(self._status)}{': ' if text else ''}{text}"

    def _start_error(self) -> LaunchError:
        if self._why is not None:
            return LaunchError("stopped", f"sandbox {self.id} was stopped while it started")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(self._errors)
            if told["exhausted"]:
                return LaunchError("exhausted", f"the machine has no more of something: {told['message']}")
            return LaunchError("isolation", told["message"], step=told["step"], remedy=told["remedy"])
        text = self._stderr.decode(errors="replace").strip()
        return LaunchError("agent", f"the agent of {self.id} {_how(self._status)}: {text or 'it said nothing'}")

    def _give_back(self, *, keep_directory: bool = False) -> None:
        for fd in self._fds:
            self.supervisor.ignore(fd)
            os.close(fd)
        self._fds.clear()
        if self._control is not None:
            self.supervisor.ignore(self._control.fileno())
            self._control.close()
            self._control = None
        if self._uplink is not None:
            self._uplink.stop()
            self._uplink = None
        if self._unblock_fd >= 0:
            os.close(self._unblock_fd)
            self._unblock_fd = -1
        for fd in self._image:
            os.close(fd)
        self._image.clear()
        self.group.remove()
        if self._slot is not None:
            self._slot.release()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
        if self._lock >= 0:
            if keep_directory:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self.path}/agent.sock")
                with contextlib.suppress(OSError):
                    records.write(f"{self.path}/record.json", self.record, durable=False)
            else:
                records.remove(self.path)
            os.close(self._lock)
            self._lock = -1


def _has_news(fd: int) -> bool:
    """Tell whether there is something to read, or the end; `select` knows no descriptors above 1023."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _how(status: int | None) -> str:
    """Say how a process ended."""
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    return f"was killed by signal {-code}" if code < 0 else f"returned {code}"
