"""From a sandbox's configuration to the complete specification that an engine gets."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aviato.engines.base import OWNER_HOST, OWNER_PID, OWNER_SESSION, OWNER_USER, SandboxSpec
from aviato.models import NetworkOptions, SandboxDefaults, SandboxInfo, SandboxStatus

LARGEST_SECRETS = 512 << 10


def as_defaults(value: SandboxDefaults | Mapping[str, Any] | None) -> SandboxDefaults:
    """Take defaults, a mapping of them or None.

    Raises:
        TypeError: It is something else, or a key is unknown.
        ValueError: A value is out of range.
    """
    if value is None:
        return SandboxDefaults()
    if isinstance(value, SandboxDefaults):
        return value
    return SandboxDefaults.from_dict(value)


@lru_cache(maxsize=1)
def _user_and_host(uid: int) -> tuple[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(uid)
    return user, socket.gethostname()


def owner_annotations(session_id: str | None) -> dict[str, str]:
    """Return the annotations by which leftovers are traced to who made them."""
    user, host = _user_and_host(os.getuid())
    owner = {OWNER_USER: user, OWNER_HOST: host, OWNER_PID: str(os.getpid())}
    if session_id is not None:
        owner[OWNER_SESSION] = session_id
    return owner


def _read_secrets(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        if name not in os.environ:
            raise ValueError(f"secrets names {name!r}, and this program's environment has no such variable")
        found[name] = os.environ[name]
    if sum(len(os.fsencode(value)) for value in found.values()) > LARGEST_SECRETS:
        raise ValueError(f"secrets {list(names)} have more than {LARGEST_SECRETS >> 10} KiB together")
    return found


def make_spec(sandbox_id: str, config: SandboxDefaults, session_id: str | None) -> SandboxSpec:
    """Complete a configuration, with the values of its secrets from this program's environment.

    Raises:
        ValueError: A secret is not set, or all of them are too large.
    """
    network = config.network
    if config.ports:
        ports = tuple(dict.fromkeys((*network.exposed_ports, *config.ports)))
        network = NetworkOptions(network.egress_mode, network.ingress_mode, ports, network.allow_hosts)
    return SandboxSpec(
        sandbox_id=sandbox_id,
        image=config.container_image,
        pull_policy=config.pull_policy,
        on_pull_progress=config.on_pull_progress,
        command=None if config.command is None else (config.command, *config.args),
        environment=config.environment_variables,
        working_dir=config.working_dir,
        user=config.user,
        tags=config.tags,
        annotations={**config.annotations, **owner_annotations(session_id)},
        resources=config.resources,
        mounted_files=config.mounted_files,
        network=network,
        volumes=config.volumes,
        secrets=_read_secrets(config.secrets),
        max_lifetime_seconds=config.max_lifetime_seconds,
        idle_timeout_seconds=config.idle_timeout_seconds,
        orphan_timeout_seconds=config.orphan_timeout_seconds,
        detached=config.detached,
        temp_dir=config.temp_dir,
        runtime=config.runtime,
        read_only=config.read_only,
    )


def pending_info(spec: SandboxSpec) -> SandboxInfo:
    """Return what is known before the engine has been asked."""
    return SandboxInfo(
        sandbox_id=spec.sandbox_id,
        status=SandboxStatus.PENDING,
        container_image=spec.image or "",
        created_at=datetime.now(UTC),
        tags=spec.tags,
        annotations=spec.annotations,
        resources=spec.resources,
        detached=spec.detached,
    )
