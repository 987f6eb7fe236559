"""The process that holds an engine's sandboxes: it launches them, watches them from outside, and outlives its client.

It runs on the standard library alone, with a clean environment, in a session of its own, so that neither a Ctrl-C in
the terminal nor the death of its client takes it by surprise. It speaks JSON lines with the client that started it
(over an inherited socket) and with any other process of the same user (over a socket in `AVIATO_HOME`)::

    {"op": "launch", "n": 1, "job": {...}}     with descriptors: content of mounted files, stream for the agent,
                                               and for an image the lock that keeps it from being removed
    {"op": "stop", "n": 2, "id": "sbx-..."}    likewise get, attach, extend, follow and forget
    {"op": "bye", "n": 3}                      end what is attached to this client
    {"n": 1, "record": {...}}                  an answer, or {"n": 2, "error": {...}}
    {"event": "status", "record": {...}}       told without being asked, as {"event": "log", "id": "sbx-..."} is

Every limit that must hold without anybody's consent is held here: lifetime, orphan time, the end of a stop's grace.
A sandbox whose supervisor dies, dies with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from aviato.engines.local import records
from aviato.engines.local.cgroups import Layout, find_layout
from aviato.engines.local.held import Held, LaunchError
from aviato.engines.local.zygote import Zygote

LARGEST_LINE = 8 << 20
RETAINED = 256
IDLE_EXIT_SECONDS = 0.0
_TERMINAL = ("completed", "failed", "terminated")


class Client:
    """One connection of a client."""

    def __init__(self, supervisor: Supervisor, sock: socket.socket, *, owner: bool) -> None:
        self.supervisor = supervisor
        self.sock = sock
        self.owner = owner
        self.attached: set[str] = set()
        self.followed: set[str] = set()
        self.received = b""
        self.descriptors: list[int] = []
        self.unsent = b""
        sock.setblocking(False)
        supervisor.listen(sock.fileno(), select.EPOLLIN, self.ready)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message."""
        was_empty = not self.unsent
        self.unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if was_empty:
            self.flush()

    def flush(self) -> None:
        """Write what the connection takes."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        events = select.EPOLLIN | (select.EPOLLOUT if self.unsent else 0)
        self.supervisor.epoll.modify(self.sock.fileno(), events)

    def ready(self, events: int) -> None:
        """Read messages, write what waits."""
        if events & select.EPOLLOUT:
            self.flush()
            if self.sock.fileno() < 0:
                return
        if not events & ~select.EPOLLOUT:
            return
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 256 * 1024, 64)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        self.descriptors += fds
        if not data:
            self.close()
            return
        self.received += data
        if b"\n" not in data:
            if len(self.received) > LARGEST_LINE:
                self.close()
            return
        *lines, self.received = self.received.split(b"\n")
        for line in lines:
            self.supervisor.handle(self, line)
            if self.sock.fileno() < 0:
                return

    def close(self) -> None:
        """Forget the connection; its sandboxes may have become orphans."""
        if self.sock.fileno() < 0:
            return
        self.supervisor.ignore(self.sock.fileno())
        self.sock.close()
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors.clear()
        self.supervisor.client_gone(self)


class Supervisor:
    """The loop, the clients and the sandboxes."""

    def __init__(self, home: str, token: str, owner: socket.socket) -> None:
        self.home = home
        self.token = token
        self.zygote = Zygote(os.path.realpath(sys.executable))
        self.epoll = select.epoll()
        self.handlers: dict[int, Any] = {}
        self.held: dict[str, Held] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.layout: Layout = find_layout()
        self.clients: set[Client] = set()
        self.owner: Client | None = Client(self, owner, owner=True)
        self.clients.add(self.owner)
        self.goodbyes: list[tuple[Client, int, set[str]]] = []
        self.next_slot = os.getpid()
        self.address = f"{home}/supervisors/{token}.sock"
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._bind()

    def _bind(self) -> None:
        folder = os.open(f"{self.home}/supervisors", os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.server.bind(f"/proc/self/fd/{folder}/{self.token}.sock")
        finally:
            os.close(folder)
        self.server.listen(64)
        self.server.setblocking(False)
        self.listen(self.server.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self.server.accept()
            self.clients.add(Client(self, sock, owner=False))

    def listen(self, fd: int, events: int, handler: Any) -> None:
        """Call `handler(events)` when the descriptor is ready."""
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def ignore(self, fd: int) -> None:
        """Stop watching a descriptor."""
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def run(self) -> None:
        """Serve until there is neither client nor sandbox."""
        while self.held or self.clients:
            for fd, events in self.epoll.poll(self._patience()):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler(events)
            now = time.monotonic()
            for held in list(self.held.values()):
                held.tick(now)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)

    def _patience(self) -> float | None:
        times = [held.next_deadline for held in self.held.values() if held.next_deadline is not None]
        return max(0.0, min(times) - time.monotonic()) + 0.001 if times else None

    def handle(self, client: Client, line: bytes) -> None:
        """Do what one message asks; a client that talks nonsense is told so, and nobody else is disturbed."""
        number = None
        try:
            message = json.loads(line)
            number = message["n"]
            answer = getattr(self, f"op_{message['op']}")(client, message)
        except LaunchError as error:
            client.send({"n": number, "error": error.as_message()})
        except OSError as error:
            client.send({"n": number, "error": {"kind": "os", "errno": error.errno, "message": str(error)}})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            print(f"a message that makes no sense: {error!r}: {line[:200]!r}", file=sys.stderr)  # noqa: T201 - its log
            client.send({"n": number, "error": {"kind": "protocol", "message": f"no sense in the message: {error!r}"}})
        else:
            if answer is not None:
                client.send({"n": number, "record": answer})

    def op_launch(self, client: Client, message: dict[str, Any]) -> dict[str, Any] | None:
        """Start a sandbox; the answer follows when its agent is ready."""
        job = message["job"]
        fds = client.descriptors[: 3 if job["image_held"] else 2]
        del client.descriptors[: len(fds)]
        content, stream, *image = fds
        known = self.held.get(job["id"])
        if known is not None:
            for fd in fds:
                os.close(fd)
            if known.record["body"] != job["record"]["body"]:
                raise LaunchError("conflict", f"the id {job['id']} is in use by a sandbox with another specification")
            client.attached.add(job["id"])
            known.orphan_at = None
            known.starters.append((client, message["n"]))
            if known.ready:
                known.answer_starters()
            return None
        held = Held(self, job)
        held.starters.append((client, message["n"]))
        self.held[job["id"]] = held
        try:
            held.start(content, stream, image)
        except BaseException:
            self.held.pop(job["id"], None)
            raise
        finally:
            os.close(content)
            os.close(stream)
        client.attached.add(job["id"])
        return None

    def _find(self, message: dict[str, Any]) -> Held:
        held = self.held.get(message["id"])
        if held is None:
            raise LaunchError("unknown", f"no sandbox {message['id']} here")
        return held

    def op_get(self, _client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Look one up."""
        ended = self.ended.get(message["id"])
        return ended if ended is not None else self._find(message).record

    def op_attach(self, client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Count a client in: while it is connected the sandbox is no orphan, and it is told of changes."""
        held = self._find(message)
        client.attached.add(message["id"])
        held.orphan_at = None
        return held.record

    def op_stop(self, client: Client, message: dict[str, Any]) -> dict[str, Any] | None:
        """End a sandbox; the answer follows when nothing of it runs."""
        ended = self.ended.get(message["id"])
        if ended is not None:
            return ended
        held = self._find(message)
        held.stoppers.append((client, message["n"]))
        held.stop(message["grace"], "stopped")
        return None

    def op_extend(self, _client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Move the end of a lifetime."""
        held = self._find(message)
        held.extend(message["seconds"])
        return held.record

    def op_follow(self, client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Tell this client when the log grows."""
        ended = self.ended.get(message["id"])
        if ended is not None:
            return ended
        held = self._find(message)
        client.followed.add(message["id"])
        return held.record

    def op_forget(self, _client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Remove what is kept of a sandbox that has ended."""
        self.ended.pop(message["id"], None)
        records.remove(records.directory(self.home, message["id"]))
        return {}

    def op_bye(self, client: Client, message: dict[str, Any]) -> None:
        """End the attached sandboxes of the owner now; the answer follows when nothing of them runs."""
        ending = {held.id for held in self.held.values() if not held.detached}
        self.goodbyes.append((client, message["n"], ending))
        for held in list(self.held.values()):
            if not held.detached:
                held.stop(message.get("grace", 0.0), "stopped")
        self._answer_goodbyes()

    def _answer_goodbyes(self) -> None:
        for entry in list(self.goodbyes):
            client, number, ending = entry
            ending &= self.held.keys()
            if not ending:
                self.goodbyes.remove(entry)
                client.send({"n": number, "record": {"count": len(self.held)}})

    def changed(self, record: dict[str, Any]) -> None:
        """Tell those who are concerned of a change."""
        for client in list(self.clients):
            if record["id"] in client.attached or record["id"] in client.followed:
                client.send({"event": "status", "record": record})
            if record["status"] in _TERMINAL:
                client.followed.discard(record["id"])

    def log_grew(self, sandbox_id: str) -> None:
        """Tell those who follow."""
        for client in list(self.clients):
            if sandbox_id in client.followed:
                client.send({"event": "log", "id": sandbox_id})

    def over(self, held: Held) -> None:
        """Keep what is known of a sandbox that has ended, or remove it when nobody can ask any more."""
        self.held.pop(held.id, None)
        self._answer_goodbyes()
        if held.detached:
            return
        self.ended[held.id] = held.record
        if self.owner is None or not held.was_ready:
            self._drop(held.id)
        while len(self.ended) > RETAINED:
            self._drop(next(iter(self.ended)))

    def _drop(self, sandbox_id: str) -> None:
        self.ended.pop(sandbox_id, None)
        records.remove(records.directory(self.home, sandbox_id))

    def client_gone(self, client: Client) -> None:
        """Start the clocks of sandboxes that nobody is connected to."""
        self.clients.discard(client)
        self.goodbyes = [entry for entry in self.goodbyes if entry[0] is not client]
        if client is self.owner:
            self.owner = None
            for sandbox_id in list(self.ended):
                self._drop(sandbox_id)
        for held in self.held.values():
            held.starters = [entry for entry in held.starters if entry[0] is not client]
            held.stoppers = [entry for entry in held.stoppers if entry[0] is not client]
            if not any(held.id in other.attached for other in self.clients):
                held.orphaned()


def main(home: str, token: str, owner_fd: int) -> None:
    """Run a supervisor."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("aviato-super")
    # Some descriptors a sandbox: a shell's usual 1024 would be reached at some hundred of them.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.set_inheritable(owner_fd, False)
    owner = socket.socket(fileno=owner_fd)
    try:
        Supervisor(home, token, owner).run()
    except Exception as error:  # noqa: BLE001 - its last words are all that a person has at 2 a.m.
        import traceback  # noqa: PLC0415 - only now

        print(f"supervisor failed: {error}", file=sys.stderr)  # noqa: T201 - its standard error is its log
        traceback.print_exc()
        os._exit(1)
