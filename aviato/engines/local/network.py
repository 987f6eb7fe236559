"""A way out for a sandbox: slirp4netns, a TCP/IP stack of its own in a process of ours.

The sandbox's network namespace gets an interface whose traffic slirp4netns carries with ordinary sockets. What must
not be reached that way is made unreachable by routes inside the namespace, which nobody in there may change: the
link-local range 169.254.0.0/16, where clouds keep their credentials, and every address of this machine. Its loopback
is refused by slirp4netns itself. All of this is in place before the agent starts: the first process waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import struct

from aviato.engines.local.syscalls import setns

NAMESERVER = "10.0.2.3"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NEW_ROUTE, _REQUEST_ACK_CREATE, _ERROR = 24, 0x1 | 0x4 | 0x400, 2
_TABLE_MAIN, _PROTOCOL_STATIC, _UNREACHABLE = 254, 4, 7
_ATTRIBUTE_DESTINATION = 1


def find_program() -> str | None:
    """Return where slirp4netns is, None when it is not installed."""
    return shutil.which("slirp4netns", path="/usr/local/bin:/usr/bin:/bin")


def why_not(program: str | None) -> str | None:
    """Say what keeps sandboxes of this user from having a way out, None when nothing does."""
    if program is None:
        return "slirp4netns is not installed; install it: apt-get install slirp4netns"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be opened by this user; as root: chmod 0666 /dev/net/tun"
    return None


def host_addresses() -> list[str]:
    """List this machine's own IPv4 addresses, its loopback left out."""
    found, last = [], ""
    with open("/proc/net/fib_trie", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[:1] in (["|--"], ["+--"]):
                last = words[1]
            elif "host" in words and words[-1] == "LOCAL" and not last.startswith("127."):
                found.append(last)
    return list(dict.fromkeys(found))


def _block(pid: int, *, shifted: bool) -> None:
    """Make ranges unreachable in the namespace of a process; called in a child of its own."""
    if not shifted:
        setns(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), _CLONE_NEWUSER)
    addresses = host_addresses()
    setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), _CLONE_NEWNET)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        for address, bits in (("169.254.0.0", 16), *((item, 32) for item in addresses)):
            route = struct.pack(
                "BBBBBBBBI", socket.AF_INET, bits, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, 0, _UNREACHABLE, 0
            )
            attribute = struct.pack("HH4s", 8, _ATTRIBUTE_DESTINATION, socket.inet_aton(address))
            length = 16 + len(route) + len(attribute)
            link.send(struct.pack("IHHII", length, _NEW_ROUTE, _REQUEST_ACK_CREATE, 1, 0) + route + attribute)
            kind, _, _, _, code = struct.unpack_from("=HHIIi", link.recv(4096), 4)
            if kind != _ERROR or code not in (0, -errno.EEXIST):
                raise OSError(-code, f"{address}/{bits} could not be made unreachable: {os.strerror(-code)}")


class Uplink:
    """The process that carries one sandbox's traffic."""

    def __init__(self, program: str, init: int, *, shifted: bool) -> None:
        """Block what must not be reached, then start it.

        Raises:
            OSError: One of the two was refused.
        """
        blocker = os.fork()
        if blocker == 0:
            try:
                _block(init, shifted=shifted)
            except OSError as error:
                os.write(2, f"{error}\n".encode())
                os._exit(1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(blocker, 0)[1]) != 0:
            raise OSError(1, "169.254.0.0/16 could not be made unreachable")
        self.ready_fd, ready_write = os.pipe()
        exit_read, self._exit_fd = os.pipe()
        argv = [program, "--configure", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"]
        argv += ["--mtu=65520", f"--ready-fd={ready_write}", f"--exit-fd={exit_read}"]
        if not shifted:
            argv.append(f"--userns-path=/proc/{init}/ns/user")
        self._pid = os.fork()
        if self._pid == 0:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1)
            for fd in (ready_write, exit_read):
                os.set_inheritable(fd, True)
            with contextlib.suppress(OSError):
                os.execve(program, [*argv, str(init), "tap0"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606 - it is what carries the traffic
            os._exit(127)
        os.close(ready_write)
        os.close(exit_read)

    def stop(self) -> None:
        """End it."""
        for name in ("ready_fd", "_exit_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
