"""Parts of a sandbox's configuration: resources, mounted files and network, and what is told of its image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from aviato import validation
from aviato.quantities import parse_bytes, parse_cpu


def _amount_of_gpu(value: Any, name: str) -> tuple[int, str | None]:
    kind: str | None = None
    if isinstance(value, Mapping):
        validation.known_keywords(f"{name}", value, ("count", "type"))
        kind = validation.text(f"{name}.type", value["type"]) if value.get("type") is not None else None
        value = value.get("count", 1)
    if isinstance(value, str):
        if not (value.isascii() and value.strip().isdigit()):
            raise ValueError(f'{name} must be a whole number such as 1 or "1", got {value!r}')
        value = int(value)
    return validation.whole_number(name, value), kind


@attrs.frozen(init=False)  # its own __init__, which type checkers see only so
class Resources:
    """How much of the machine a sandbox may use; None leaves a key to the engine's default.

    Attributes:
        cpu_millicores: Limit of CPU time, 1000 is one processor.
        memory_bytes: Limit of memory.
        gpu_count: Number of GPUs.
        gpu_type: Kind of GPU, as the engine names it.
        disk_bytes: Limit of what the sandbox may write (`disk`); None: on the local engine 1 GiB, and no more than a
            memory limit that was given.
        max_processes: Limit of processes and threads (`processes`).
        cpu_request_millicores: What is reserved, at most the limit.
        memory_request_bytes: What is reserved, at most the limit.
    """

    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    gpu_count: int = 0
    gpu_type: str | None = None
    disk_bytes: int | None = None
    max_processes: int | None = None
    cpu_request_millicores: int | None = None
    memory_request_bytes: int | None = None

    def __init__(
        self,
        cpu: str | float | None = None,
        memory: str | float | None = None,
        gpu: int | str | Mapping[str, Any] | None = None,
        *,
        disk: str | float | None = None,
        processes: int | None = None,
        requests: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """Read Kubernetes quantities; `limits` is the nested spelling of the flat keys.

        Raises:
            TypeError: A value has the wrong type, or a key of a mapping is unknown.
            ValueError: A quantity is negative or unparsable, or a request is more than its limit.
        """
        flat = {"cpu": cpu, "memory": memory, "gpu": gpu, "disk": disk}
        for name, nested in (("requests", requests), ("limits", limits)):
            if nested is not None and not isinstance(nested, Mapping):
                raise TypeError(f'resources.{name} must be a mapping such as {{"cpu": 1}}, not {nested!r}')
        for key, value in (limits or {}).items():
            validation.known_keywords("resources.limits", [key], flat)
            if flat[key] is not None and flat[key] != value:
                raise ValueError(f"resources.limits.{key} is {value!r}, but resources.{key} is {flat[key]!r}")
            flat[key] = value
        requests = requests or {}
        validation.known_keywords("resources.requests", requests, ("cpu", "memory"))
        count, kind = (0, None) if flat["gpu"] is None else _amount_of_gpu(flat["gpu"], "resources.gpu")

        def cpus(value: Any, name: str) -> int | None:
            return None if value is None else parse_cpu(value, name=name)

        def size(value: Any, name: str) -> int | None:
            return None if value is None else parse_bytes(value, name=name)

        cpu_limit, memory_limit = cpus(flat["cpu"], "resources.cpu"), size(flat["memory"], "resources.memory")
        cpu_request = cpus(requests.get("cpu"), "resources.requests.cpu")
        memory_request = size(requests.get("memory"), "resources.requests.memory")
        for key, request, limit in (("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)):
            if request is not None and limit is not None and request > limit:
                raise ValueError(f"resources.requests.{key} is {requests[key]!r}, more than the limit {flat[key]!r}")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]  # attrs makes it where __init__ is our own
            cpu_limit,
            memory_limit,
            count,
            kind,
            size(flat["disk"], "resources.disk"),
            None if processes is None else validation.whole_number("resources.processes", processes, minimum=1),
            cpu_request,
            memory_request,
        )

    @classmethod
    def coerce(cls, value: Resources | Mapping[str, Any] | None) -> Resources:
        """Take `Resources`, a flat mapping or None.

        Raises:
            TypeError: It is something else, or has an unknown key.
            ValueError: As the constructor.
        """
        if value is None:
            return cls()
        if isinstance(value, Resources):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f'resources must be Resources or a mapping such as {{"cpu": 1}}, not {value!r}')
        known = ("cpu", "memory", "gpu", "disk", "processes", "requests", "limits")
        validation.known_keywords("resources", value, known)
        return cls(**value)


@attrs.frozen
class MountedFile:
    """A read-only file that is in the sandbox before its first command."""

    path: str
    content: bytes

    @classmethod
    def coerce(cls, value: MountedFile | Mapping[str, Any]) -> MountedFile:
        """Take a `MountedFile` or a mapping with `path` and `content` (or `mount_path`, `file_content`).

        Raises:
            TypeError: It is something else, a key is unknown or missing, or content is neither str nor bytes.
            ValueError: The path is not absolute.
        """
        if isinstance(value, MountedFile):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f'mounted_files items must be like {{"path": "/app/x", "content": "..."}}, not {value!r}')
        names = {"mount_path": "path", "file_content": "content"}
        validation.known_keywords("mounted_files", value, ("path", "content", *names))
        given = {names.get(key, key): item for key, item in value.items()}
        if len(given) != 2 or len(value) != 2:  # noqa: PLR2004 - a path and a content
            raise TypeError(f"mounted_files items need exactly one path and one content, got {sorted(value)}")
        content = given["content"]
        if isinstance(content, str):
            content = content.encode()
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError(f"mounted_files content must be str or bytes, not {content!r}")
        return cls(validation.absolute_path("mounted_files path", given["path"]), bytes(content))


def _as_tuple(value: Iterable[int]) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"network.exposed_ports must be a list of port numbers, not {value!r}")
    return tuple(value)


def _hosts(value: Iterable[str]) -> tuple[str, ...]:
    return validation.strings("network.allow_hosts", value)


def _known_egress(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("none", "internet"):
        raise ValueError(f'network.egress_mode must be "none" or "internet", got {value!r}')


def _known_ingress(_instance: object, _attribute: object, value: object) -> None:
    if value not in ("none", "public"):
        raise ValueError(f'network.ingress_mode must be "none" or "public", got {value!r}')


def _real_ports(_instance: object, _attribute: object, value: tuple[object, ...]) -> None:
    for port in value:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:  # noqa: PLR2004
            raise ValueError(f"network.exposed_ports must be ports from 1 to 65535, got {port!r}")


@attrs.frozen
class NetworkOptions:
    """What a sandbox may reach and who may reach it; the default is no network at all.

    Attributes:
        egress_mode: `"none"` (only the sandbox's own loopback) or `"internet"`.
        ingress_mode: `"none"` or `"public"`; engines which cannot publish ports refuse the latter.
        exposed_ports: Ports of the sandbox to publish.
        allow_hosts: Host names to which egress is restricted; empty means all that `egress_mode` allows.
    """

    egress_mode: str = attrs.field(default="none", validator=_known_egress)
    ingress_mode: str = attrs.field(default="none", validator=_known_ingress)
    exposed_ports: tuple[int, ...] = attrs.field(default=(), converter=_as_tuple, validator=_real_ports)
    allow_hosts: tuple[str, ...] = attrs.field(default=(), converter=_hosts)

    @classmethod
    def coerce(cls, value: NetworkOptions | Mapping[str, Any] | None) -> NetworkOptions:
        """Take `NetworkOptions`, a mapping or None.

        Raises:
            TypeError: It is something else, or has an unknown key.
            ValueError: A mode or port is not a known one.
        """
        if value is None:
            return cls()
        if isinstance(value, NetworkOptions):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f'network must be NetworkOptions or like {{"egress_mode": "internet"}}, not {value!r}')
        validation.known_keywords("network", value, [field.name for field in attrs.fields(cls)])
        return cls(**value)


class PullState(StrEnum):
    """How far a layer is."""

    WAITING = "waiting"
    """Another download comes first."""
    DOWNLOADING = "downloading"
    PRESENT = "present"
    """It was there before, because another image has it, or an earlier pull got so far."""
    DOWNLOADED = "downloaded"
    UNPACKING = "unpacking"
    UNPACKED = "unpacked"


@attrs.frozen
class PullProgress:
    """One layer of an image that is being pulled.

    Attributes:
        digest: The layer, as it is in the registry; a Docker daemon tells the first twelve digits of it only.
        bytes_done: Bytes of it that are here, or that are unpacked.
        bytes_total: Bytes of it; 0 while they are not known.
        state: How far it is.
    """

    digest: str
    bytes_done: int
    bytes_total: int
    state: PullState
