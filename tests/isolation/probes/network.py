"""Services of the machine and of its network, by address, by path and by name."""

from __future__ import annotations

import os
import socket
from typing import Any, Callable

from tests.isolation.probes.tools import CONTEXT, Outcome, connecting, main, open_, probe, read, stopped


def _to(family: int, address: Callable[[], Any]) -> Callable[[], Outcome]:
    return lambda: connecting(family, address())


_ADDRESSES: dict[str, Callable[[], Any]] = {
    "connect-to-the-machines-loopback": lambda: ("127.0.0.1", CONTEXT["port"]),
    "connect-to-another-loopback-address": lambda: ("127.0.0.2", CONTEXT["port"]),
    "connect-to-any-address": lambda: ("0.0.0.0", CONTEXT["port"]),
    "connect-to-the-machines-own-address": lambda: (CONTEXT["address"], CONTEXT["port"]),
    "connect-to-the-metadata-of-the-cloud": lambda: ("169.254.169.254", 80),
    "connect-to-the-machine-behind-the-gateway": lambda: ("10.0.2.2", CONTEXT["port"]),
    "connect-to-the-forwarder-of-names": lambda: ("10.0.2.3", 53),
    "connect-to-dockers-bridge": lambda: ("172.17.0.1", CONTEXT["port"]),
    "connect-to-the-local-network": lambda: ("192.168.0.1", 80),
    "connect-to-the-internet": lambda: ("192.0.2.1", 80),
}
for _name, _address in _ADDRESSES.items():
    probe(_name)(_to(socket.AF_INET, _address))
probe("connect-to-the-machines-loopback-of-version-6")(_to(socket.AF_INET6, lambda: ("::1", CONTEXT["port"])))
probe("connect-to-the-mapped-loopback")(_to(socket.AF_INET6, lambda: ("::ffff:127.0.0.1", CONTEXT["port"])))
probe("connect-to-the-internet-of-version-6")(_to(socket.AF_INET6, lambda: ("2001:db8::1", 80)))
probe("connect-to-a-socket-in-tmp")(_to(socket.AF_UNIX, lambda: CONTEXT["sockets"][0]))
probe("connect-to-a-socket-in-the-home")(_to(socket.AF_UNIX, lambda: CONTEXT["sockets"][1]))
probe("connect-to-a-socket-in-the-working-directory")(_to(socket.AF_UNIX, lambda: CONTEXT["sockets"][2]))
probe("connect-to-the-sockets-by-the-root-of-a-process")(
    _to(socket.AF_UNIX, lambda: "/proc/self/root" + CONTEXT["sockets"][0])
)
probe("connect-to-an-abstract-socket")(_to(socket.AF_UNIX, lambda: "\0" + CONTEXT["abstract"]))
probe("connect-to-the-docker-socket")(_to(socket.AF_UNIX, lambda: "/var/run/docker.sock"))
probe("connect-to-the-system-bus")(_to(socket.AF_UNIX, lambda: "/run/dbus/system_bus_socket"))
probe("connect-to-the-supervisor")(_to(socket.AF_UNIX, lambda: CONTEXT["supervisor"]))
probe("connect-to-another-sandboxs-agent")(_to(socket.AF_UNIX, lambda: CONTEXT["other"] + "/agent.sock"))
probe("connect-to-the-own-agent")(_to(socket.AF_UNIX, lambda: CONTEXT["own"] + "/agent.sock"))


@probe("send-a-datagram-to-the-internet")
def _datagram() -> Outcome:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("192.0.2.1", 53))
    return open_("sent")


@probe("send-to-everybody")
def _broadcast() -> Outcome:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"x", ("255.255.255.255", 9))
    return open_("sent")


@probe("resolve-a-name")
def _resolve() -> Outcome:
    try:
        socket.getaddrinfo("aviato.invalid", 80)
    except socket.gaierror as error:
        return stopped("EAI %d" % (error.errno or 0))
    return open_("resolved")


@probe("see-interfaces-of-the-machine")
def _interfaces() -> Outcome:
    names = {name for _, name in socket.if_nameindex()} - {"lo"}
    return open_(" ".join(sorted(names))) if names else stopped("lo")


@probe("see-routes-of-the-machine")
def _routes() -> Outcome:
    lines = read("/proc/net/route").splitlines()[1:]
    return open_(repr(lines[0])) if lines else stopped("empty")


@probe("see-connections-of-the-machine")
def _connections() -> Outcome:
    port = ":%04X" % CONTEXT["port"]
    return open_("listed") if port in read("/proc/net/tcp").decode() else stopped("absent")


@probe("see-unix-sockets-of-the-machine")
def _unix() -> Outcome:
    text = read("/proc/net/unix").decode()
    names = [name for name in (CONTEXT["abstract"], *CONTEXT["sockets"]) if name in text]
    return open_(" ".join(names)) if names else stopped("absent")


@probe("see-neighbours-of-the-machine")
def _neighbours() -> Outcome:
    lines = read("/proc/net/arp").splitlines()[1:]
    return open_(repr(lines[0])) if lines else stopped("empty")


@probe("use-the-own-loopback")
def _own() -> Outcome:
    """What must work does: programs that talk to themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        return stopped("works")


@probe("bind-the-sockets-of-the-machine-anew")
def _bind() -> Outcome:
    """A socket of this name would be one of the sandbox's own, never seen outside."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + CONTEXT["abstract"])
    return stopped("own") if os.getpid() else open_("bound")


if __name__ == "__main__":
    main()
