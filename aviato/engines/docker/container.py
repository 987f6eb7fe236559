"""From a specification to a container: what the daemon is told, and what it may not be asked for."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import cattrs

from aviato.engines.base import SECRETS_DIRECTORY, SandboxSpec
from aviato.engines.docker import stage
from aviato.engines.docker.records import make_labels
from aviato.exceptions import CapabilityError
from aviato.models import Isolation, Protection

MEMORY_BYTES = 2 << 30
PROCESSES = 512
LEAST_MEMORY_BYTES = 32 << 20
LEAST_PROCESSES = 8
FILES_OPEN = 4096
LONGEST_LIFETIME = 24 * 3600.0
ORPHAN_SECONDS = 30.0
WORKING_DIR = "/workspace"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AGENT_CAPABILITIES = ("KILL", "SETGID", "SETPCAP", "SETUID")
_LOG = {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}}
_NOBODY = 65534
_OWN_PLACES = ("/proc/", "/sys/", "/dev/")
_OWN_FILES = frozenset({"/etc/hostname"})
_OWN_FILES_WITH_NETWORK = frozenset({"/etc/hosts", "/etc/resolv.conf"})
"""What the daemon writes for each container, over what the image and the archive have."""
_SECRETS_OPTIONS = "rw,noexec,nosuid,nodev,size=1m,mode=1777"


@attrs.frozen
class Plan:
    """All that is sent to make one sandbox.

    Attributes:
        body: Of the request that creates the container.
        archive: Tar of the mounted files, empty for none.
        config: What the agent is told.
        native: True when there is no agent.
    """

    body: dict[str, Any]
    archive: bytes
    config: dict[str, Any]
    native: bool = False


def refuse(spec: SandboxSpec) -> None:
    """Refuse what no daemon can give.

    Raises:
        CapabilityError: Something was asked for that this engine does not have.
    """
    for name, asked in (("network.allow_hosts", spec.network.allow_hosts),):
        if asked:
            raise CapabilityError(f"the Docker engine has no {name}", hint=f"Leave {name} out.")
    if spec.network.exposed_ports and spec.network.ingress_mode == "none":
        raise CapabilityError(
            "ports are published only where they are let in",
            hint='Give network={"ingress_mode": "public", "egress_mode": "internet"}, or leave ports out.',
        )
    if spec.network.ingress_mode == "public" and spec.network.egress_mode == "none":
        raise CapabilityError(
            'network.ingress_mode="public" needs egress_mode="internet": a network of Docker leads both ways'
        )
    if spec.read_only and spec.mounted_files:
        raise CapabilityError(
            "mounted_files: a Docker daemon puts no files into a container whose file system is read-only",
            hint="Leave read_only out, or bring the files in an image or a volume.",
        )
    _refuse_places(spec)
    if spec.resources.gpu_type is not None:
        raise CapabilityError("resources.gpu.type: a Docker daemon does not choose among kinds of GPUs")
    memory = spec.resources.memory_bytes or MEMORY_BYTES
    if memory < LEAST_MEMORY_BYTES:
        raise CapabilityError(f"memory: a sandbox cannot start with {memory} bytes", hint="Give it 32Mi or more.")
    processes = spec.resources.max_processes or PROCESSES
    if processes < LEAST_PROCESSES:
        raise CapabilityError(f"processes: {processes} are too few", hint=f"Give it {LEAST_PROCESSES} or more.")


def _refuse_places(spec: SandboxSpec) -> None:
    """Refuse files that would be covered by what each container has for itself."""
    covered = _OWN_FILES if spec.network.egress_mode == "none" else _OWN_FILES | _OWN_FILES_WITH_NETWORK
    for file in spec.mounted_files:
        clean = "/" + posixpath.normpath(file.path).lstrip("/")
        if f"{clean}/".startswith(_OWN_PLACES) or clean in covered:
            raise CapabilityError(
                f"mounted_files: {file.path!r} is in a place that belongs to the container itself",
                hint="Choose another path; what is put there would not be seen.",
            )


def make_plan(spec: SandboxSpec, image: Mapping[str, Any], name: str, token: str, daemon: Mapping[str, Any]) -> Plan:
    """Decide what to send.

    Args:
        spec: What is asked for.
        image: What the daemon says of the image.
        name: The image as the user names it.
        token: What bringers of clients will have to say.
        daemon: What the daemon says of itself (`/info`).

    Raises:
        CapabilityError: Something was asked for that cannot be had.
    """
    refuse(spec)
    settings = image.get("Config") or {}
    working_dir = spec.working_dir or settings.get("WorkingDir") or WORKING_DIR
    body = {
        "Image": image["Id"],
        "Entrypoint": [*stage.PYTHON, stage.WAIT],
        "Cmd": [],
        "User": "0:0",
        "WorkingDir": "/" if spec.read_only else working_dir,  # the daemon would make it, and with the mode it likes
        "Env": [f"{stage.TOKEN_VARIABLE}={token}"],
        "Hostname": "sandbox",
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "NetworkDisabled": spec.network.egress_mode == "none",
        "ExposedPorts": {f"{port}/tcp": {} for port in _ports(spec)},
        "Labels": make_labels(spec, name, _digest(spec, image["Id"]), _isolation(spec, daemon)),
        "HostConfig": _host_config(spec, () if settings.get("WorkingDir") == working_dir else (working_dir,)),
    }
    return Plan(body, _archive(spec), _agent_config(spec, settings, working_dir))


def _ports(spec: SandboxSpec) -> tuple[int, ...]:
    return spec.network.exposed_ports if spec.network.ingress_mode == "public" else ()


def _in_memory(spec: SandboxSpec, working_dirs: Collection[str]) -> dict[str, str]:
    """Name the places that are file systems in memory, with their options: all that can be written when little can."""
    places = {}
    if spec.read_only:
        size = spec.resources.disk_bytes or (spec.resources.memory_bytes or MEMORY_BYTES) // 4
        for place in {spec.temp_dir, *working_dirs} - {"/"}:
            places[place] = f"rw,exec,nosuid,nodev,size={size},mode=1777"
    if spec.secrets:
        places[SECRETS_DIRECTORY] = _SECRETS_OPTIONS  # in no layer that could be exported
    return places


def _host_config(spec: SandboxSpec, working_dirs: Collection[str]) -> dict[str, Any]:
    memory = spec.resources.memory_bytes or MEMORY_BYTES
    config: dict[str, Any] = {
        "NetworkMode": "none" if spec.network.egress_mode == "none" else "bridge",
        "PortBindings": {f"{port}/tcp": [{"HostPort": ""}] for port in _ports(spec)},
        "CapDrop": ["ALL"],
        "CapAdd": list(_AGENT_CAPABILITIES),
        "SecurityOpt": ["no-new-privileges"],
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": spec.resources.max_processes or PROCESSES,
        "Ulimits": [
            {"Name": "nofile", "Soft": FILES_OPEN, "Hard": FILES_OPEN},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "OomScoreAdj": 500,
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": _LOG,
        "Mounts": [_volume(item) for item in spec.volumes],
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": _in_memory(spec, working_dirs),
    }
    if spec.resources.cpu_millicores is not None:
        config["NanoCpus"] = spec.resources.cpu_millicores * 1_000_000
    if spec.resources.memory_request_bytes is not None:
        config["MemoryReservation"] = spec.resources.memory_request_bytes
    if spec.resources.disk_bytes is not None and not spec.read_only:
        config["StorageOpt"] = {"size": str(spec.resources.disk_bytes)}
    if spec.resources.gpu_count:
        config["DeviceRequests"] = [{"Count": spec.resources.gpu_count, "Capabilities": [["gpu"]]}]
    if spec.runtime is not None:
        config["Runtime"] = spec.runtime
    return config


def _volume(value: object) -> dict[str, Any]:
    form = 'volumes items must be like {"name": "data", "mount_path": "/data", "read_only": False}'
    known = {"name", "mount_path", "read_only"}
    if not isinstance(value, Mapping) or not {"name", "mount_path"} <= value.keys() <= known:
        raise CapabilityError(f"{form}, got {value!r}")
    name, path = str(value["name"]), str(value["mount_path"])
    if "/" in name or not name or not path.startswith("/"):
        raise CapabilityError(f"{form}, a volume's name and an absolute path, got {value!r}")
    return {"Type": "volume", "Source": name, "Target": path, "ReadOnly": bool(value.get("read_only", False))}


def _agent_config(spec: SandboxSpec, settings: Mapping[str, Any], working_dir: str) -> dict[str, Any]:
    def encode(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")

    of_image = dict(item.partition("=")[::2] for item in settings.get("Env") or ())
    usual = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": spec.temp_dir}
    environment = {**usual, **of_image, **spec.environment}
    user = spec.user or settings.get("User") or ""
    orphan = ORPHAN_SECONDS if spec.orphan_timeout_seconds is None else spec.orphan_timeout_seconds
    return {
        "env": {encode(key): encode(value) for key, value in environment.items()},
        "cwd": encode(working_dir),
        "user": encode(user),
        "main": [encode(item) for item in spec.command] if spec.command else None,
        "lifetime_ms": round((spec.max_lifetime_seconds or LONGEST_LIFETIME) * 1000),
        "idle_ms": round((spec.idle_timeout_seconds or 0) * 1000),
        "orphan_ms": 0 if spec.detached else max(1, round(orphan * 1000)),
        "stop_at_sigterm": True,
        "secrets": [(encode(f"{SECRETS_DIRECTORY}/{name}"), encode(value)) for name, value in spec.secrets.items()],
        "directories": [(encode(spec.temp_dir), 0o1777)],
    }


def _isolation(spec: SandboxSpec, daemon: Mapping[str, Any]) -> Isolation:
    options = [str(item) for item in daemon.get("SecurityOptions") or ()]
    shifted = any("name=userns" in item or "name=rootless" in item for item in options)
    notes = []
    if not shifted:
        notes.append("the container's users are those of the machine: the daemon does not shift user ids")
    if spec.resources.disk_bytes is None and not spec.read_only:
        notes.append("what it writes is limited by the daemon's disk only")
    if spec.resources.cpu_millicores is None:
        notes.append("CPU time is not limited: none was asked for")
    if spec.network.egress_mode != "none":
        notes.append("it reaches whatever the daemon's machine reaches")

    def has(name: str) -> Protection:
        return Protection.HARD if daemon.get(name) else Protection.NONE

    return Isolation(
        ids=Protection.HARD if shifted else Protection.BEST_EFFORT,
        seccomp=Protection.HARD if any("name=seccomp" in item for item in options) else Protection.NONE,
        memory=has("MemoryLimit"),
        pids=has("PidsLimit"),
        cpu=Protection.NONE if spec.resources.cpu_millicores is None else Protection.HARD,
        disk=Protection.HARD if spec.read_only or spec.resources.disk_bytes is not None else Protection.NONE,
        network=Protection.HARD if spec.network.egress_mode == "none" else Protection.NONE,
        notes=tuple(notes),
    )


def _digest(spec: SandboxSpec, image_id: str) -> str:
    """Digest all that a sandbox is made from, to know a repeated request from another one under the same id."""
    lasting = cattrs.unstructure(
        attrs.evolve(spec, mounted_files=(), on_pull_progress=None, secrets=dict.fromkeys(spec.secrets, ""))
    )
    digest = hashlib.sha256(json.dumps([image_id, lasting], sort_keys=True, default=str).encode())
    for file in spec.mounted_files:
        digest.update(f"{file.path}\0{len(file.content)}\0".encode())
        digest.update(file.content)
    return digest.hexdigest()


def _archive(spec: SandboxSpec) -> bytes:
    """Pack the mounted files; they belong to nobody, so that root, which has no rights over others', cannot write."""
    if not spec.mounted_files:
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in spec.mounted_files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(file.content), 0o444, _NOBODY, _NOBODY
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
