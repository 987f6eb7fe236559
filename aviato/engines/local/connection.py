"""The client's end of the conversation with a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from aviato.exceptions import (
    AviatoError,
    CapabilityError,
    EngineConnectionError,
    EngineError,
    IsolationUnavailableError,
    Outcome,
    SandboxFailedError,
    SandboxNotFoundError,
    SandboxResourceExhaustedError,
    SandboxTerminatedError,
)

__all__ = ["SupervisorConnection"]


def as_error(told: dict[str, Any], sandbox_id: str) -> AviatoError:
    """Turn what a supervisor said into an error."""
    kind, message = told.get("kind"), str(told.get("message", ""))
    if kind == "isolation":
        return IsolationUnavailableError(
            f"sandbox {sandbox_id} was not started: {message}", step=told["step"], remedy=told["remedy"]
        )
    if kind == "capability":
        return CapabilityError(message, hint=told.get("remedy") or None)
    if kind == "unknown":
        return SandboxNotFoundError(f"no sandbox {sandbox_id}", sandbox_id=sandbox_id)
    if kind == "exhausted":
        return SandboxResourceExhaustedError(message, sandbox_id=sandbox_id)
    if kind == "conflict":
        return SandboxFailedError(message, sandbox_id=sandbox_id)
    if kind == "stopped":
        return SandboxTerminatedError(message, sandbox_id=sandbox_id)
    if kind == "os" and told.get("errno") in {12, 23, 24, 11}:
        return SandboxResourceExhaustedError(f"the machine has no more of something: {message}", sandbox_id=sandbox_id)
    return EngineError(f"the local engine failed: {message}")


class SupervisorConnection:
    """Requests to one supervisor, and what it tells without being asked."""

    def __init__(
        self, sock: socket.socket, on_event: Callable[[dict[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = sock.detach()
        os.set_blocking(self._fd, False)
        self._on_event = on_event
        self._on_lost = on_lost
        self._received = b""
        self._number = 0
        self._waiting: dict[int, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._unsent: list[tuple[bytes, tuple[int, ...]]] = []
        self._loop.add_reader(self._fd, self._readable)

    @property
    def alive(self) -> bool:
        """False when the supervisor is gone."""
        return self._fd >= 0

    def request(
        self, op: str, sandbox_id: str, *, fds: tuple[int, ...] = (), **fields: Any
    ) -> asyncio.Future[dict[str, Any]]:
        """Ask now; the answer is awaited. If cancelled, what was asked is done all the same.

        The answer raises what the supervisor said, or `EngineConnectionError` when it is gone.
        """
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if self._fd < 0:
            answer.set_exception(self._gone())
            return answer
        self._number += 1
        self._waiting[self._number] = (sandbox_id, answer)
        message = {"op": op, "n": self._number, "id": sandbox_id, **fields}
        self._unsent.append((json.dumps(message).encode() + b"\n", tuple(os.dup(fd) for fd in fds)))
        self._flush()
        return answer

    def _flush(self) -> None:
        sock = socket.socket(fileno=self._fd)
        try:
            while self._unsent:
                data, fds = self._unsent[0]
                sent = socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
                for fd in fds:
                    os.close(fd)
                if sent < len(data):
                    self._unsent[0] = (data[sent:], ())
                else:
                    self._unsent.pop(0)
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
            return
        finally:
            sock.detach()
        if self._unsent:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        sandbox_id, answer = self._waiting.pop(message["n"], ("", None))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(as_error(message["error"], sandbox_id))
        else:
            answer.set_result(message["record"])

    def _gone(self) -> EngineConnectionError:
        return EngineConnectionError("the supervisor of the local engine is gone", outcome=Outcome.UNKNOWN)

    def _lost(self) -> None:
        self.close()
        self._on_lost()

    def close(self) -> None:
        """Hang up; what waits for an answer fails."""
        if self._fd < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            if not answer.done():
                answer.set_exception(self._gone())

    def hang_up(self) -> None:
        """End the conversation without an event loop; whoever still reads it is told by its end."""
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(self._fd)) as sock:
            sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close the descriptor in a forked child, leaving the parent's loop alone."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def connect_in(folder: str, name: str) -> socket.socket:
    """Connect to a socket in a directory whose path may be longer than an address holds.

    Raises:
        OSError: There is none, or nobody answers.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    except OSError:
        sock.close()
        raise
    return sock


def say_goodbye(folder: str, name: str, seconds: float) -> bool:
    """Ask a supervisor, without an event loop, to end what is attached; True when nothing of it runs any more.

    It has a connection of its own, because the loop's thread may still be reading the other.
    """
    deadline = time.monotonic() + seconds
    try:
        with connect_in(folder, name) as sock:
            sock.settimeout(max(0.01, seconds))
            sock.sendall(json.dumps({"op": "bye", "n": 0}).encode() + b"\n")
            answer = b""
            while b"\n" not in answer:
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                piece = sock.recv(65536)
                if not piece:
                    break
                answer += piece
    except TimeoutError:
        return False
    except OSError:
        return True  # it is gone, and with it everything that it held
    return True
