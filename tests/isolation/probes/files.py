"""What of the machine's files, descriptors and environment can be reached from inside."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import Callable

from tests.isolation.probes.tools import (
    CONTEXT,
    Outcome,
    info,
    limited,
    listing,
    main,
    open_,
    probe,
    reading,
    stopped,
)

_FILES = {
    "read-the-machines-password-hashes": "/etc/shadow",
    "read-the-machines-group-passwords": "/etc/gshadow",
    "read-who-may-become-root": "/etc/sudoers",
    "read-the-machines-own-id": "/etc/machine-id",
    "read-the-list-of-mounted-disks": "/etc/fstab",
    "read-a-host-key-of-ssh": "/etc/ssh/ssh_host_ed25519_key",
    "read-the-package-database": "/var/lib/dpkg/status",
    "read-the-token-of-kubernetes": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "read-the-marker-of-docker": "/.dockerenv",
    "read-the-docker-socket": "/run/docker.sock",
    "read-the-docker-socket-by-its-other-name": "/var/run/docker.sock",
    "read-the-containerd-socket": "/run/containerd/containerd.sock",
    "read-the-podman-socket": "/run/podman/podman.sock",
    "read-the-system-bus-socket": "/run/dbus/system_bus_socket",
    "read-the-kernels-messages-device": "/dev/kmsg",
    "read-the-memory-device": "/dev/mem",
    "read-the-io-port-device": "/dev/port",
    "read-the-first-disk": "/dev/sda",
    "read-the-first-virtual-disk": "/dev/vda",
    "read-the-first-loop-device": "/dev/loop0",
    "open-the-loop-control": "/dev/loop-control",
    "open-the-fuse-device": "/dev/fuse",
    "open-the-tunnel-device": "/dev/net/tun",
    "open-the-virtual-machine-device": "/dev/kvm",
    "open-the-hypervisors-socket-device": "/dev/vsock",
    "open-the-page-fault-device": "/dev/userfaultfd",
    "open-the-cpu-registers-device": "/dev/cpu/0/msr",
    "open-the-display-device": "/dev/dri/card0",
    "open-the-input-devices": "/dev/input/event0",
    "read-the-machines-serial-number": "/sys/class/dmi/id/product_uuid",
    "read-a-control-group": "/sys/fs/cgroup/cgroup.procs",
    "read-the-memory-control-group": "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "read-the-kernels-symbols-in-sys": "/sys/kernel/notes",
    "read-the-boot-image": "/boot/vmlinuz",
}
_FOLDERS = {
    "list-sys": "/sys",
    "list-run": "/run",
    "list-home": "/home",
    "list-tmp": "/tmp",
    "list-var-tmp": "/var/tmp",
    "list-shared-memory": "/dev/shm",
    "list-var-lib": "/var/lib",
    "list-var-log": "/var/log",
    "list-srv": "/srv",
    "list-mnt": "/mnt",
    "list-media": "/media",
    "list-boot": "/boot",
    "list-message-queues": "/dev/mqueue",
    "list-huge-pages": "/dev/hugepages",
    "list-device-mappings": "/dev/mapper",
    "list-the-kernels-debugging": "/sys/kernel/debug",
}


def _with(function: Callable[[str], Outcome], path: str) -> Callable[[], Outcome]:
    return lambda: function(path)


for _name, _path in _FILES.items():
    probe(_name)(_with(reading, _path))
for _name, _path in _FOLDERS.items():
    probe(_name)(_with(listing, _path))


@probe("see-the-root-homes-files")
def _root_home() -> Outcome:
    """Only the way to a Python that is lent may be there."""
    lent = CONTEXT["python"].split("/")
    names = [name for name in os.listdir("/root") if not (CONTEXT["python"].startswith("/root/") and name == lent[2])]
    return open_(" ".join(names)) if names else stopped("empty")


@probe("see-the-callers-home")
def _home() -> Outcome:
    names = [name for name in CONTEXT["home_names"] if os.path.lexists(os.path.join(CONTEXT["home"], name))]
    lent = [name for name in names if not CONTEXT["python"].startswith(os.path.join(CONTEXT["home"], name) + "/")]
    return open_(" ".join(lent)) if lent else stopped("absent")


@probe("see-the-clients-directory")
def _directory() -> Outcome:
    return listing(CONTEXT["cwd"])


@probe("see-the-state-directory")
def _state() -> Outcome:
    return listing(CONTEXT["state"])


@probe("see-another-sandboxs-record")
def _record() -> Outcome:
    return listing(CONTEXT["other"])


@probe("see-the-machines-tmp")
def _tmp() -> Outcome:
    return reading(CONTEXT["in_tmp"])


@probe("lock-a-file-that-the-machine-has-locked")
def _lock() -> Outcome:
    """A lock that is shared would carry messages between sandboxes; the overlay's is a lock of its own."""
    with open(CONTEXT["locked"], "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return open_("the machine's lock is seen")
    return stopped("own")


@probe("change-a-program-of-the-machine")
def _program() -> Outcome:
    """A copy on the sandbox's own disk may change; who asked looks at the machine's afterwards."""
    try:
        with open(CONTEXT["locked"], "ab") as file:
            file.write(b"x")
    except PermissionError:
        return stopped("EACCES")
    return limited("copy")


@probe("change-the-lent-python")
def _python() -> Outcome:
    with open(CONTEXT["python_file"], "ab") as file:
        file.write(b"")
    return limited("copy") if CONTEXT["python_file"].startswith(("/usr/", "/opt/")) else open_("opened")


@probe("change-the-users-of-the-machine")
def _users() -> Outcome:
    with open("/etc/passwd", "a", encoding="ascii") as file:
        file.write("intruder:x:0:0::/:/bin/sh\n")
    return limited("copy")


@probe("make-a-file-in-dev")
def _dev() -> Outcome:
    with open("/dev/made", "wb"):
        return open_("made")


def _node(kind: int, major: int, minor: int) -> Callable[[], Outcome]:
    def function() -> Outcome:
        os.mknod("/workspace/node", kind | 0o600, os.makedev(major, minor))
        return open_("made")

    return function


probe("make-a-disk-device")(_node(stat.S_IFBLK, 254, 0))
probe("make-a-memory-device")(_node(stat.S_IFCHR, 1, 1))
probe("make-a-terminal-device")(_node(stat.S_IFCHR, 5, 0))


@probe("list-devices")
def _devices() -> Outcome:
    return info(" ".join(sorted(os.listdir("/dev"))))


@probe("list-terminals")
def _terminals() -> Outcome:
    names = [name for name in os.listdir("/dev/pts") if name != "ptmx"]
    return open_(" ".join(names)) if names else stopped("empty")


@probe("open-the-callers-terminal")
def _terminal() -> Outcome:
    return reading("/dev/tty")


@probe("list-the-top")
def _top() -> Outcome:
    return info(" ".join(sorted(os.listdir("/"))))


@probe("list-etc")
def _etc() -> Outcome:
    return info(" ".join(sorted(os.listdir("/etc"))))


@probe("trust-an-attribute-of-the-overlay")
def _attribute() -> Outcome:
    """trusted.overlay.redirect would let a layer show what lies elsewhere."""
    os.mkdir("/usr/spoof")
    os.setxattr("/usr/spoof", "trusted.overlay.redirect", b"/../../..")
    return open_("set")


@probe("follow-a-link-out-of-the-root")
def _link() -> Outcome:
    os.symlink("/proc/self/root/../../.." + CONTEXT["in_tmp"], "/workspace/link")
    return reading("/workspace/link")


if __name__ == "__main__":
    main()
