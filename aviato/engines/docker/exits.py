"""Removing containers when the interpreter ends: without a loop, a thread or an executor, and within a budget."""

from __future__ import annotations

import contextlib
import socket
import time

from aviato.engines.docker.endpoint import Endpoint


def remove_all(endpoint: Endpoint, prefix: str, containers: tuple[str, ...], seconds: float) -> tuple[str, ...]:
    """Ask for all removals at once, then collect the answers; return those that may remain.

    A daemon behind ssh is not asked: the agents there end their sandboxes when nobody is connected any more.
    """
    if endpoint.kind == "ssh":
        return containers
    deadline = time.monotonic() + seconds
    waiting: dict[str, socket.socket] = {}
    for name in containers:
        with contextlib.suppress(OSError):
            connection = _connect(endpoint, max(0.01, deadline - time.monotonic()))
            waiting[name] = connection
            request = (
                f"DELETE {prefix}/containers/{name}?force=1&v=1 HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(request.encode())
    removed = set()
    for name, connection in waiting.items():
        with contextlib.suppress(OSError), connection:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            answer = connection.recv(4096).split(None, 2)
            if len(answer) > 1 and answer[1] in {b"204", b"404", b"409"}:
                removed.add(name)
    return tuple(name for name in containers if name not in removed)


def _connect(endpoint: Endpoint, seconds: float) -> socket.socket:
    if endpoint.kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(endpoint.address)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((endpoint.address, endpoint.port), timeout=seconds)
    context = endpoint.ssl_context()
    return connection if context is None else context.wrap_socket(connection, server_hostname=endpoint.address)
