"""Between the public values and what the supervisor works with: jobs to do, records to show."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cattrs

from aviato.engines.base import SECRETS_DIRECTORY, SandboxSpec, read_isolation, read_resources
from aviato.engines.local import etc, ids, network, records
from aviato.engines.local.cgroups import find_layout
from aviato.engines.local.imageinfo import ResolvedImage
from aviato.engines.local.images import ImageStore
from aviato.engines.local.seccomp import ARCHITECTURES
from aviato.engines.local.syscalls import MACHINE
from aviato.exceptions import CapabilityError, ConfigurationError, IsolationUnavailableError
from aviato.models import ExitReason, Isolation, Protection, Resources, SandboxInfo, SandboxStatus

DEFAULT_IMAGE = "host"
LONGEST_LIFETIME = 24 * 3600.0
ORPHAN_SECONDS = 2.0
MEMORY_BYTES = 2 << 30
DISK_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 16 << 20
LEAST_PROCESSES = 2
"""The agent and a command."""
PROCESSES = 512
BYTES_PER_INODE = 16384
FILES_OPEN = 4096
"""Where an image's sandbox has what is lent to its agent; closed once the agent has started."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def python_program() -> str:
    """Return the interpreter that runs this, never a virtual environment's or a shim."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def make_job(home: str, spec: SandboxSpec) -> tuple[dict[str, Any], list[bytes], int | None]:
    """Turn a specification into a job, the content of its mounted files, and a descriptor that holds its image.

    Raises:
        CapabilityError: This machine cannot give what was asked for.
        IsolationUnavailableError: A protection is not to be had.
        ImageNotFoundError: The image is not in the store.
        ConfigurationError: The state directory cannot be used.
    """
    try:
        records.prepare(home)
        etc_copy = etc.prepare(home)
    except OSError as error:
        raise ConfigurationError(
            f"AVIATO_HOME {home!r} cannot be used: {error.strerror or error}",
            hint="Set AVIATO_HOME to a directory that this user owns and may write, with space left.",
        ) from error
    _refuse(spec)
    if MACHINE not in ARCHITECTURES:
        raise IsolationUnavailableError(
            f"there is no system call filter for {MACHINE}",
            step="seccomp",
            remedy=f"Use one of {', '.join(ARCHITECTURES)}.",
        )
    is_root = ids.can_shift()
    limits, isolation = _limits(spec.resources, is_root=is_root)
    connected = spec.network.egress_mode == "internet"
    disk = spec.resources.disk_bytes or min(DISK_BYTES, spec.resources.memory_bytes or DISK_BYTES)
    subordinate = None if is_root else ids.subordinate()
    several = is_root or subordinate is not None
    if spec.user is not None and not several and spec.user not in {"0", "root"}:
        raise CapabilityError(
            f"user={spec.user!r}: sandboxes of this user have one user only",
            hint="Give it subordinate ids (usermod --add-subuids; apt-get install uidmap), or run as root.",
        )
    mounted, content = _mounted(spec)
    image = ImageStore(home).resolve(spec.image or DEFAULT_IMAGE)
    python = python_program()
    environment = {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TMPDIR": spec.temp_dir,
        **image.environment,
        **spec.environment,
    }
    job = {
        "id": spec.sandbox_id,
        "shift_ids": is_root,
        "subordinate": subordinate,
        "several_users": several,
        "disk_bytes": disk,
        "inodes": max(4096, disk // BYTES_PER_INODE),
        "limits": limits,
        "rlimits": _rlimits(disk, limits, isolation, is_root=is_root),
        "mounted": mounted,
        "directories": _directories(spec),
        "uplink": network.find_program() if connected else None,
        **_tree(image, etc_copy, python, nameserver=network.NAMESERVER if connected else None),
        "agent": {
            "env": environment,
            "cwd": spec.working_dir or image.working_dir or "/workspace",
            "user": spec.user or "",
            "main": list(spec.command) if spec.command else None,
            "idle": spec.idle_timeout_seconds or 0,
            "secrets": {f"{SECRETS_DIRECTORY}/{name}": value for name, value in spec.secrets.items()},
        },
        "record": {
            "id": spec.sandbox_id,
            "image": image.name,
            "status": "creating",
            "created_at": time.time(),
            "tags": list(spec.tags),
            "annotations": dict(spec.annotations),
            "resources": cattrs.unstructure(spec.resources),
            "detached": spec.detached,
            "lifetime": spec.max_lifetime_seconds or LONGEST_LIFETIME,
            "orphan": ORPHAN_SECONDS if spec.orphan_timeout_seconds is None else spec.orphan_timeout_seconds,
            "isolation": cattrs.unstructure(isolation),
        },
    }
    job["record"]["body"] = _body(job, content)
    return job, content, image.hold()


def _body(job: Mapping[str, Any], content: Iterable[bytes]) -> str:
    """Digest all that a sandbox is made from, to know a repeated request from another one under the same id."""
    agent = {**job["agent"], "secrets": sorted(job["agent"]["secrets"])}  # names alone: a digest can be guessed at
    lasting = {**job, "agent": agent, "record": {**job["record"], "created_at": None}}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode())
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()


def _refuse(spec: SandboxSpec) -> None:
    if spec.resources.gpu_count:
        raise CapabilityError("the local engine has no GPUs to give", hint="Leave gpu out, or use another engine.")
    for name, asked in (
        ("volumes", spec.volumes),
        ("ports", spec.network.exposed_ports),
        ("network.allow_hosts", spec.network.allow_hosts),
        ("runtime", spec.runtime),
        ("read_only", spec.read_only),
    ):
        if asked:
            raise CapabilityError(f"the local engine has no {name}", hint=f"Leave {name} out, or use another engine.")
    if spec.pull_policy == "always":
        raise CapabilityError(
            'pull_policy="always": the local engine pulls no images at a start',
            hint=f"Leave it out, and bring the image before: aviato image pull {spec.image or 'NAME'}",
        )
    if spec.network.ingress_mode != "none":
        raise CapabilityError('the local engine cannot publish ports: network.ingress_mode must be "none"')
    if spec.network.egress_mode != "none" and (reason := network.why_not(network.find_program())):
        raise CapabilityError(f'network.egress_mode="internet" cannot be had: {reason.partition("; ")[0]}', hint=reason)


def _limits(asked: Resources, *, is_root: bool) -> tuple[dict[str, Any], Isolation]:
    layout = find_layout()
    memory = asked.memory_bytes or MEMORY_BYTES
    processes = asked.max_processes or PROCESSES
    if memory < LEAST_MEMORY_BYTES:
        raise CapabilityError(f"memory: a sandbox cannot start with {memory} bytes", hint="Give it 16Mi or more.")
    if processes < LEAST_PROCESSES:
        raise CapabilityError(
            f"processes: {processes} leaves none to commands, since one is the sandbox's own",
            hint=f"Give it {LEAST_PROCESSES} or more.",
        )
    if asked.cpu_millicores is not None and "cpu" not in layout.controllers:
        raise CapabilityError(
            f"cpu: this user may not make control groups, so {asked.cpu_millicores} millicores cannot be held",
            hint="Run as root, delegate a control group (systemd: Delegate=yes), or leave cpu out.",
        )
    held = {
        name: Protection.HARD if name in layout.controllers else Protection.BEST_EFFORT for name in ("memory", "pids")
    }
    cpu = Protection.NONE if asked.cpu_millicores is None else Protection.HARD
    notes = [] if asked.cpu_millicores is not None else ["CPU time is not limited: none was asked for"]
    if not is_root:
        notes.append("an escape from the sandbox would have the rights of this user")
    isolation = Isolation(
        ids=Protection.HARD if is_root else Protection.BEST_EFFORT,
        seccomp=Protection.HARD,
        memory=held["memory"],
        pids=held["pids"],
        cpu=cpu,
        disk=Protection.HARD,
        network=Protection.HARD,
        notes=tuple(notes),
    )
    limits = {"memory": memory, "processes": processes, "cpu": asked.cpu_millicores}
    return limits, isolation


def _rlimits(disk: int, limits: Mapping[str, Any], isolation: Isolation, *, is_root: bool) -> dict[str, int]:
    rlimits = {
        "NOFILE": FILES_OPEN,
        "CORE": 0,
        "MEMLOCK": 64 * 1024,
        "MSGQUEUE": 0,
        "RTPRIO": 0,
        "SIGPENDING": 1024,
        "FSIZE": disk,
    }
    if isolation.pids is not Protection.HARD and not is_root:
        rlimits["NPROC"] = limits["processes"]
    if isolation.memory is not Protection.HARD:
        rlimits["AS"] = limits["memory"]
    return rlimits


def _tree(image: ResolvedImage, etc_copy: str, python: str, *, nameserver: str | None) -> dict[str, Any]:
    prefix = str(Path(sys.base_prefix).resolve())
    tree = _image_tree(image.root) if image.root is not None else _host_tree(etc_copy, prefix, python)
    if nameserver is not None:
        tree["files"]["/etc/resolv.conf"] = f"nameserver {nameserver}\n"
    return tree


def _host_tree(etc_copy: str, prefix: str, python: str) -> dict[str, Any]:
    layers = {place: place for place in ("/usr", "/opt") if os.path.isdir(place)}
    layers["/etc"] = etc_copy
    names = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
    links = {f"/{name}": os.readlink(f"/{name}") for name in names if os.path.islink(f"/{name}")}
    layers.update({f"/{name}": f"/{name}" for name in names if os.path.isdir(f"/{name}") and f"/{name}" not in links})
    lent = {} if prefix in {"/usr", "/"} else {prefix: prefix}
    return {
        "layers": layers,
        "links": links,
        "lent": lent,
        "files": {},
        "named_python": python,
        "image_held": False,
    }


def _image_tree(root: str) -> dict[str, Any]:
    return {
        "layers": {"/": root},
        "links": {},
        "lent": {},
        "files": {f"/etc/{name}": etc.FRESH[name] for name in ("hosts", "hostname", "resolv.conf")},
        "named_python": "",
        "image_held": True,
    }


def _directories(spec: SandboxSpec) -> dict[str, int]:
    """Name the directories that are made where they are missing, with their modes."""
    wanted = {_place("temp_dir", spec.temp_dir): 0o1777}
    if spec.secrets:
        wanted[SECRETS_DIRECTORY] = 0o1777
    if spec.working_dir is not None:
        wanted.setdefault(_place("working_dir", spec.working_dir), 0o755)
    return {path: mode for path, mode in wanted.items() if path != "/"}


def _place(name: str, path: str) -> str:
    """Take a place in the sandbox's tree that may be made.

    Raises:
        CapabilityError: It is one that belongs to the kernel.
    """
    clean = os.path.normpath(path)
    if clean.startswith("//"):
        clean = clean[1:]
    if clean.startswith(("/proc/", "/sys/", "/dev/")) or clean in {"/proc", "/sys", "/dev"}:
        raise CapabilityError(f"{name}: {path!r} is in a place that belongs to the sandbox itself")
    return clean


def _mounted(spec: SandboxSpec) -> tuple[list[tuple[str, int, int]], list[bytes]]:
    places, content, at = [], [], 0
    for file in spec.mounted_files:
        path = _place("mounted_files", file.path)
        if path == "/":
            raise CapabilityError(f"mounted_files: {file.path!r} is no place for a file")
        places.append((path, at, len(file.content)))
        content.append(file.content)
        at += len(file.content)
    return places, content


def _time(value: float | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value, UTC)


def describe(record: Mapping[str, Any]) -> SandboxInfo:
    """Turn a record into the public value."""
    reason = record.get("exit_reason")
    created = _time(record["created_at"])
    assert created is not None  # noqa: S101 - every record has it
    return SandboxInfo(
        sandbox_id=record["id"],
        status=SandboxStatus(record["status"]),
        container_image=record["image"],
        created_at=created,
        started_at=_time(record.get("started_at")),
        ended_at=_time(record.get("ended_at")),
        returncode=record.get("returncode"),
        exit_reason=None if reason is None else ExitReason(reason),
        message=record.get("message", ""),
        tags=tuple(record["tags"]),
        annotations=record["annotations"],
        resources=read_resources(record["resources"]),
        isolation=read_isolation(record["isolation"]),
        detached=record["detached"],
    )
