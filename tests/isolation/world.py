"""What the probes try to reach: a victim process, services, sockets, shared memory and files of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VICTIM = """
import ctypes, signal, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
ctypes.CDLL(None).prctl(0x59616d61, -1, 0, 0, 0)  # anybody may trace it, where only children could be
def reached(number, frame):
    print("reached by", number, flush=True)
signal.signal(signal.SIGURG, reached)
print("ready", flush=True)
sys.stdin.read()
"""
VICTIM_NAME = "aviato-victim"


class Victim:
    """A process of the caller that tells of every signal that reaches it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", VICTIM, VICTIM_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> str:
        """End it, and give what reached it."""
        said, _ = self.process.communicate(timeout=20)
        return said

    def abandon(self) -> None:
        """Make sure that it is gone."""
        self.process.kill()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def own_address() -> str:
    """Find an address of this machine that is not loopback; a datagram socket's connect sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder, contextlib.suppress(OSError):
        finder.connect(("192.0.2.1", 9))
        return str(finder.getsockname()[0])
    return "10.255.255.1"


def answering(server: socket.socket, answer: bytes) -> threading.Thread:
    """Give everybody who connects the same answer, until the socket is shut down."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)

    thread = threading.Thread(target=serve, name="answering", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def service(family: int, address: Any, answer: bytes = b"hello") -> Iterator[Any]:
    """Run a service, and give its address."""
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        thread = answering(server, answer)
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextlib.contextmanager
def shared_memory(content: bytes = b"") -> Iterator[int]:
    """Keep a System V segment that everybody may read, and give its key."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]
    key = secrets.randbelow(1 << 30) + 1
    segment = libc.shmget(key, 4096, 0o1000 | 0o644)
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        if content:
            place = libc.shmat(segment, None, 0)
            ctypes.memmove(place, content, len(content))
            libc.shmdt(place)
        yield key
    finally:
        libc.shmctl(segment, 0, None)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def world() -> Iterator[tuple[dict[str, Any], Victim]]:
    """Arrange everything, give the context of the probes, and clear it all away."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aviato-world-", dir="/tmp")))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".aviato-world-", dir=Path.home())))
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aviato-world-", dir="/var/tmp")))
        (folder / "secret").write_text("secret")
        victim = Victim()
        stack.callback(victim.abandon)
        _, port = stack.enter_context(service(socket.AF_INET, ("0.0.0.0", 0)))
        with contextlib.suppress(OSError):
            stack.enter_context(service(socket.AF_INET6, ("::1", port)))
        sockets = [str(place / "service") for place in (folder, home, here)]
        for path in sockets:
            stack.enter_context(service(socket.AF_UNIX, path))
        abstract = f"aviato-world-{secrets.token_hex(8)}"
        stack.enter_context(service(socket.AF_UNIX, f"\0{abstract}"))
        context = {
            "victim": victim.process.pid,
            "victim_name": VICTIM_NAME,
            "port": port,
            "address": own_address(),
            "sockets": sockets,
            "abstract": abstract,
            "shm_key": stack.enter_context(shared_memory()),
            "in_tmp": str(folder / "secret"),
            "home": str(Path.home()),
            "home_names": sorted(os.listdir(Path.home())),
            "cwd": os.getcwd(),
            "state": os.environ["AVIATO_HOME"],
            "environment": sorted(name for name in os.environ if name.startswith(("PYTEST", "AVIATO"))),
            "python": os.path.realpath(sys.base_prefix),
            "python_file": os.path.realpath(os.__file__),
        }
        yield context, victim


def reached(victim: Victim) -> bool:
    """Tell whether the victim reports a signal of ours, which shows that it would report one from inside."""
    victim.process.send_signal(signal.SIGURG)
    return "reached" in victim.end()
