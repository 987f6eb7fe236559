"""What to do about a step of the launch that was refused, by the step's name."""

from __future__ import annotations

REMEDIES = {
    "user namespace": (
        "The machine forbids user namespaces. On Ubuntu 23.10 and later: "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for python; "
        "elsewhere: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000; "
        "in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined."
    ),
    "mount namespace": "Mounting is forbidden here. In Docker: run with --privileged, or use the Docker engine.",
    "root file system": "The kernel must offer tmpfs and overlayfs (Linux 5.11 or later for ordinary users).",
    "proc": "In Docker: --security-opt systempaths=unconfined, since a covered /proc cannot be mounted anew.",
    "network": 'slirp4netns must be able to open /dev/net/tun; try network egress_mode="none" to do without.',
    "seccomp": "The kernel must be built with CONFIG_SECCOMP_FILTER.",
    "control group": "Give this user its groups (systemd: Delegate=yes), or ask for no limits on CPU and memory.",
}
