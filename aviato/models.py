"""The public values: frozen attrs classes and enums, shared by both faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import attrs

from aviato import validation
from aviato.quantities import parse_bytes, parse_cpu

__all__ = [
    "ExitReason",
    "Isolation",
    "MountedFile",
    "NetworkOptions",
    "ProcessResult",
    "Protection",
    "Resources",
    "SandboxDefaults",
    "SandboxInfo",
    "SandboxStatus",
    "Serialization",
]


class SandboxStatus(StrEnum):
    """Where a sandbox is in its life; `completed`, `failed` and `terminated` are final."""

    PENDING = "pending"
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    TERMINATING = "terminating"
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"

    @property
    def is_terminal(self) -> bool:
        """True for the three states that nothing follows."""
        return self in {SandboxStatus.COMPLETED, SandboxStatus.FAILED, SandboxStatus.TERMINATED}


class ExitReason(StrEnum):
    """Why a sandbox or a command ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OOM_KILLED = "oom_killed"
    TIMEOUT = "timeout"
    IDLE = "idle"
    LIFETIME = "lifetime"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_infrastructure(self) -> bool:
        """True when the end says nothing about the task."""
        return self is ExitReason.LOST


class Serialization(StrEnum):
    """How a remote function's arguments travel."""

    JSON = "json"
    PICKLE = "pickle"


class Protection(StrEnum):
    """How firmly one protection of a sandbox holds."""

    HARD = "hard"
    BEST_EFFORT = "best effort"
    NONE = "none"


@attrs.frozen
class Isolation:
    """What protects a running sandbox, as it was really set up."""

    ids: Protection
    seccomp: Protection
    memory: Protection
    pids: Protection
    cpu: Protection
    disk: Protection
    network: Protection
    notes: tuple[str, ...] = ()


def _amount_of_gpu(value: Any, name: str) -> tuple[int, str | None]:
    kind: str | None = None
    if isinstance(value, Mapping):
        validation.known_keywords(f"{name}", value, ("count", "type"))
        kind = validation.text(f"{name}.type", value["type"]) if value.get("type") is not None else None
        value = value.get("count", 1)
    if isinstance(value, str):
        if not value.strip().isdigit():
            raise ValueError(f'{name} must be a whole number such as 1 or "1", got {value!r}')
        value = int(value)
    return validation.whole_number(name, value), kind


@attrs.frozen
class Resources:
    """How much of the machine a sandbox may use; None leaves a key to the engine's default.

    Attributes:
        cpu_millicores: Limit of CPU time, 1000 is one processor.
        memory_bytes: Limit of memory.
        gpu_count: Number of GPUs.
        gpu_type: Kind of GPU, as the engine names it.
        disk_bytes: Limit of what the sandbox may write (`disk`).
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
                raise ValueError(
                    f"resources.requests.{key} is {requests[key]!r}, more than the limit {flat[key]!r}"
                )
        self.__attrs_init__(  # type: ignore[attr-defined]  # attrs makes it where __init__ is our own
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


@attrs.frozen
class NetworkOptions:
    """What a sandbox may reach and who may reach it; the default is no network at all.

    Attributes:
        egress_mode: `"none"` (only the sandbox's own loopback) or `"internet"`.
        ingress_mode: `"none"` or `"public"`; engines which cannot publish ports refuse the latter.
        exposed_ports: Ports of the sandbox to publish.
        allow_hosts: Host names to which egress is restricted; empty means all that `egress_mode` allows.
    """

    egress_mode: str = attrs.field(default="none")
    ingress_mode: str = attrs.field(default="none")
    exposed_ports: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    allow_hosts: tuple[str, ...] = attrs.field(
        default=(), converter=lambda value: validation.strings("allow_hosts", value)
    )

    @egress_mode.validator
    def _known_egress(self, _attribute: object, value: object) -> None:
        if value not in ("none", "internet"):
            raise ValueError(f'network.egress_mode must be "none" or "internet", got {value!r}')

    @ingress_mode.validator
    def _known_ingress(self, _attribute: object, value: object) -> None:
        if value not in ("none", "public"):
            raise ValueError(f'network.ingress_mode must be "none" or "public", got {value!r}')

    @exposed_ports.validator
    def _real_ports(self, _attribute: object, value: tuple[object, ...]) -> None:
        for port in value:
            if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:  # noqa: PLR2004
                raise ValueError(f"network.exposed_ports must be ports from 1 to 65535, got {port!r}")

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


def _seconds(name: str, *, above: bool = True) -> Any:
    def convert(value: Any) -> float | None:
        return None if value is None else validation.seconds(name, value, above=above)

    return convert


def _files(value: Iterable[MountedFile | Mapping[str, Any]]) -> tuple[MountedFile, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f'mounted_files must be a list like [{{"path": "/app/x", "content": "..."}}], not {value!r}')
    return tuple(map(MountedFile.coerce, value))


def _optional(check: Any, name: str) -> Any:
    def convert(value: Any) -> Any:
        return None if value is None else check(name, value)

    return convert


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _ports(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of port numbers, not {value!r}")
    return NetworkOptions(exposed_ports=value).exposed_ports


@attrs.frozen(kw_only=True)
class SandboxDefaults:
    """The configuration of sandboxes; every field is optional and None means the engine's default.

    Attributes:
        container_image: Image name; None is `python:3.11` on engines that run images and `host` on the local one.
        command: The main program; None keeps the sandbox alive until it is stopped.
        args: Arguments of `command`.
        tags: Names to find sandboxes by.
        environment_variables: Added to every command's environment.
        annotations: Free notes kept with the sandbox.
        resources: Limits.
        mounted_files: Files there before the first command, read-only.
        volumes: Engine-specific volumes.
        ports: Ports to publish, added to `network.exposed_ports`.
        network: What may be reached; default nothing.
        secrets: Names of secrets of the engine.
        working_dir: Absolute directory in which commands start.
        user: User name or number that commands run as.
        max_lifetime_seconds: Age at which the sandbox is ended, whatever it does.
        idle_timeout_seconds: Time without a running command after which it is ended.
        orphan_timeout_seconds: Time without a connected client after which it is ended.
        detached: Keep it without clients until its lifetime ends.
        request_timeout_seconds: Limit of each request to the engine, waiting and retries included.
        temp_dir: Absolute directory for temporary files.
        runtime: Stronger isolation by name, such as `runsc`, where the engine has it.
        engine: Engine name, URL or object.
        base_url: URL of a gateway; the same as `engine="https://..."`.
    """

    container_image: str | None = attrs.field(default=None, converter=_optional(validation.text, "container_image"))
    command: str | None = attrs.field(default=None, converter=_optional(validation.text, "command"))
    args: tuple[str, ...] = attrs.field(default=(), converter=lambda v: validation.strings("args", v))
    tags: tuple[str, ...] = attrs.field(default=(), converter=lambda v: _tags(v))
    environment_variables: Mapping[str, str] = attrs.field(
        factory=dict, converter=lambda v: validation.environment("environment_variables", v)
    )
    annotations: Mapping[str, str] = attrs.field(
        factory=dict, converter=lambda v: validation.string_mapping("annotations", v)
    )
    resources: Resources = attrs.field(default=None, converter=Resources.coerce)
    mounted_files: tuple[MountedFile, ...] = attrs.field(default=(), converter=_files)
    volumes: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    ports: tuple[int, ...] = attrs.field(default=(), converter=lambda v: _ports("ports", v))
    network: NetworkOptions = attrs.field(default=None, converter=NetworkOptions.coerce)
    secrets: tuple[str, ...] = attrs.field(default=(), converter=lambda v: validation.strings("secrets", v))
    working_dir: str | None = attrs.field(default=None, converter=_optional(validation.absolute_path, "working_dir"))
    user: str | None = attrs.field(default=None, converter=lambda v: _user(v))
    max_lifetime_seconds: float | None = attrs.field(default=None, converter=_seconds("max_lifetime_seconds"))
    idle_timeout_seconds: float | None = attrs.field(default=None, converter=_seconds("idle_timeout_seconds"))
    orphan_timeout_seconds: float | None = attrs.field(
        default=None, converter=_seconds("orphan_timeout_seconds", above=False)
    )
    detached: bool = attrs.field(default=False, converter=lambda v: _boolean("detached", v))
    request_timeout_seconds: float = attrs.field(
        default=300.0, converter=lambda v: validation.seconds("request_timeout_seconds", v, above=True)
    )
    temp_dir: str = attrs.field(default="/tmp", converter=lambda v: validation.absolute_path("temp_dir", v))  # noqa: S108 - a path in the sandbox
    runtime: str | None = attrs.field(default=None, converter=_optional(validation.text, "runtime"))
    engine: Any = None
    base_url: str | None = attrs.field(default=None, converter=_optional(validation.text, "base_url"))

    def __attrs_post_init__(self) -> None:
        """Refuse combinations that contradict each other."""
        if self.args and self.command is None:
            raise ValueError(f"args needs a command to belong to, got args={list(self.args)!r} alone")
        if self.engine is not None and self.base_url is not None and self.engine != self.base_url:
            raise ValueError(f"engine={self.engine!r} and base_url={self.base_url!r} name two engines; give one")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Build from a mapping of the same names.

        Raises:
            TypeError: It is not a mapping, a key is unknown, or a value has the wrong type.
            ValueError: A value is out of range.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"defaults must be SandboxDefaults or a mapping, not {mapping!r}")
        validation.known_keywords("SandboxDefaults", mapping, [field.name for field in attrs.fields(cls)])
        return cls(**mapping)

    def with_overrides(self, **overrides: Any) -> Self:
        """Return a copy in which the given fields are replaced and tags, variables and annotations merged.

        Raises:
            TypeError: A keyword is unknown or has the wrong type.
            ValueError: A value is out of range.
        """
        validation.known_keywords("sandbox configuration", overrides, [field.name for field in attrs.fields(type(self))])
        merged = dict(overrides)
        if overrides.get("tags") is not None:
            merged["tags"] = self.merge_tags(overrides["tags"])
        if overrides.get("environment_variables") is not None:
            merged["environment_variables"] = self.merge_environment_variables(overrides["environment_variables"])
        if overrides.get("annotations") is not None:
            merged["annotations"] = self.merge_annotations(overrides["annotations"])
        if "engine" in merged and "base_url" not in merged:
            merged["base_url"] = None
        elif "base_url" in merged and "engine" not in merged:
            merged["engine"] = None
        return attrs.evolve(self, **{key: value for key, value in merged.items() if value is not None or key not in _NOT_NONE})

    def merge_tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Return these tags followed by the given ones that are new.

        Raises:
            TypeError: `tags` is a bare string or holds something else than strings.
        """
        return tuple(dict.fromkeys((*self.tags, *_tags(tags))))

    def merge_environment_variables(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return these variables updated with the given ones.

        Raises:
            TypeError: `variables` does not map strings to strings.
            ValueError: A name is empty or holds `=`.
        """
        return {**self.environment_variables, **validation.environment("environment_variables", variables)}

    def merge_annotations(self, annotations: Mapping[str, str]) -> dict[str, str]:
        """Return these annotations updated with the given ones.

        Raises:
            TypeError: `annotations` does not map strings to strings.
        """
        return {**self.annotations, **validation.string_mapping("annotations", annotations)}


_NOT_NONE = frozenset(
    {"args", "tags", "environment_variables", "annotations", "mounted_files", "volumes", "ports", "secrets",
     "detached", "request_timeout_seconds", "temp_dir"}
)  # fields for which an explicit None means "as it was"


def _tags(value: Any) -> tuple[str, ...]:
    tags = validation.strings("tags", value)
    for tag in tags:
        if not tag or len(tag) > 128 or not tag.isprintable():  # noqa: PLR2004 - stated in the message
            raise ValueError(f"tags must be printable and of 1 to 128 characters, got {tag!r}")
    return tuple(dict.fromkeys(tags))


def _user(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(validation.whole_number("user", value))
    return validation.text("user", value)


@attrs.frozen(kw_only=True)
class SandboxInfo:
    """What an engine knows of one sandbox at one moment."""

    sandbox_id: str
    status: SandboxStatus
    container_image: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    returncode: int | None = None
    exit_reason: ExitReason | None = None
    message: str = ""
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    resources: Resources = attrs.field(factory=Resources)
    isolation: Isolation | None = None
    service_address: str | None = None
    exposed_ports: Mapping[int, int] = attrs.field(factory=dict)
    detached: bool = False


@attrs.frozen
class ProcessResult:
    """A command's end.

    Attributes:
        stdout_bytes: Standard output, at most `max_output_bytes` of it.
        stderr_bytes: Standard error, likewise.
        returncode: As a shell gives it: 126 not executable, 127 not found, 128+N killed by signal N.
        command: The argument list.
        duration_seconds: From start to end inside the sandbox.
        truncated: True when some output was left out of the two fields above.
        reason: Why it ended.
        signal: Number of the signal that ended it, or None.
    """

    stdout_bytes: bytes
    stderr_bytes: bytes
    returncode: int
    command: tuple[str, ...]
    duration_seconds: float
    truncated: bool = False
    reason: ExitReason = ExitReason.EXITED
    signal: int | None = None

    @property
    def stdout(self) -> str:
        """Standard output as UTF-8, with replacement characters for what is not."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as UTF-8, with replacement characters for what is not."""
        return self.stderr_bytes.decode("utf-8", "replace")
