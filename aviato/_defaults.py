"""The configuration of sandboxes: every field checked and converted where it is given."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self

import attrs
from attrs.converters import optional

from aviato import validation
from aviato._parts import MountedFile, NetworkOptions, PullProgress, Resources

_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
PullPolicy = Literal["missing", "always", "never"]
PULL_POLICIES: tuple[PullPolicy, ...] = ("missing", "always", "never")


def _image(value: str) -> str:
    return validation.text("container_image", value)


def _command(value: str) -> str:
    return validation.text("command", value)


def _args(value: Iterable[str]) -> tuple[str, ...]:
    return validation.strings("args", value)


def _tags(value: Iterable[str]) -> tuple[str, ...]:
    tags = validation.strings("tags", value)
    for tag in tags:
        if not tag or len(tag) > 128 or not tag.isprintable():  # noqa: PLR2004 - stated in the message
            raise ValueError(f"tags must be printable and of 1 to 128 characters, got {tag!r}")
    return tuple(dict.fromkeys(tags))


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    return validation.environment("environment_variables", value)


def _annotations(value: Mapping[str, str]) -> Mapping[str, str]:
    return validation.string_mapping("annotations", value)


def _files(value: Iterable[MountedFile | Mapping[str, Any]]) -> tuple[MountedFile, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f'mounted_files must be a list like [{{"path": "/app/x", "content": "..."}}], not {value!r}')
    files = tuple(map(MountedFile.coerce, value))
    taken: set[str] = set()
    for file in files:
        path = posixpath.normpath(file.path)
        if path in taken:
            raise ValueError(f"mounted_files has two files for {path!r}; give one")
        taken.add(path)
    return files


def _ports(value: Iterable[int]) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"ports must be a list of port numbers, not {value!r}")
    return NetworkOptions(exposed_ports=value).exposed_ports


def _volumes(value: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"volumes must be a list, not {value!r}")
    return tuple(value)


def _secrets(value: Iterable[str]) -> tuple[str, ...]:
    names = validation.strings("secrets", value)
    for name in names:
        if not _SECRET.fullmatch(name):
            raise ValueError(f"secrets must be names of environment variables such as 'API_TOKEN', got {name!r}")
    return tuple(dict.fromkeys(names))


def _resources(value: Resources | Mapping[str, Any] | None) -> Resources:
    return Resources.coerce(value)


def _network(value: NetworkOptions | Mapping[str, Any] | None) -> NetworkOptions:
    return NetworkOptions.coerce(value)


def _working_dir(value: str) -> str:
    return validation.absolute_path("working_dir", value)


def _temp_dir(value: str) -> str:
    return validation.absolute_path("temp_dir", value)


def _user(value: str | int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(validation.whole_number("user", value))
    return validation.text("user", value)


def _lifetime(value: float) -> float:
    return validation.seconds("max_lifetime_seconds", value, above=True)


def _idle(value: float) -> float:
    return validation.seconds("idle_timeout_seconds", value, above=True)


def _orphan(value: float) -> float:
    return validation.seconds("orphan_timeout_seconds", value)


def _request_timeout(value: float) -> float:
    return validation.seconds("request_timeout_seconds", value, above=True)


def _detached(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"detached must be True or False, not {value!r}")
    return value


def _pull_policy(value: PullPolicy) -> PullPolicy:
    if value not in PULL_POLICIES:
        raise ValueError(f"pull_policy must be {', '.join(map(repr, PULL_POLICIES))}, got {value!r}")
    return value


def _on_pull_progress(value: Callable[[PullProgress], object]) -> Callable[[PullProgress], object]:
    if not callable(value):
        raise TypeError(f"on_pull_progress must be a callable that takes a PullProgress, not {value!r}")
    return value


def _runtime(value: str) -> str:
    return validation.text("runtime", value)


def _read_only(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"read_only must be True or False, not {value!r}")
    return value


def _base_url(value: str) -> str:
    return validation.text("base_url", value)


@attrs.frozen(kw_only=True)
class SandboxDefaults:
    """The configuration of sandboxes; every field is optional and None means the engine's default.

    Attributes:
        container_image: Image name; None is `python:3.11` on engines that run images and `host` on the local one.
        pull_policy: `"missing"` pulls the image when the engine does not have it, `"always"` asks its registry at
            every start, and `"never"` fails without it. The local engine pulls nothing at a start: `"missing"` and
            `"never"` mean its store, and `"always"` is a `CapabilityError`.
        on_pull_progress: Called with a `PullProgress` at each step of each layer that a start pulls, in order, on a
            thread of its own; one that blocks or fails holds nothing up.
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
        secrets: Names of environment variables of this program, read when the sandbox is made. Before anything runs
            in it, each value is in the file `/run/secrets/NAME`, in memory, 0400 and owned by the user of its commands;
            it is in no record, log or environment.
        working_dir: Absolute directory in which commands start.
        user: User name or number that commands run as.
        max_lifetime_seconds: Age at which the sandbox is ended, whatever it does.
        idle_timeout_seconds: Time without a running command after which it is ended.
        orphan_timeout_seconds: Time without a connected client after which it is ended.
        detached: Keep it without clients until its lifetime ends.
        request_timeout_seconds: Limit of each request to the engine, waiting and retries included.
        temp_dir: Absolute directory for temporary files.
        runtime: Stronger isolation by name, such as `runsc`, where the engine has it.
        read_only: Let nothing be written but below `temp_dir` and `working_dir`, which are in memory then, and what
            `volumes` allow. A working directory that is the image's own stays as it is.
        engine: Engine name, URL or object.
        base_url: URL of a gateway; the same as `engine="https://..."`.
    """

    container_image: str | None = attrs.field(default=None, converter=optional(_image))
    pull_policy: PullPolicy = attrs.field(default="missing", converter=_pull_policy)
    on_pull_progress: Callable[[PullProgress], object] | None = attrs.field(
        default=None, converter=optional(_on_pull_progress), repr=False
    )
    command: str | None = attrs.field(default=None, converter=optional(_command))
    args: tuple[str, ...] = attrs.field(default=(), converter=_args)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_tags)
    environment_variables: Mapping[str, str] = attrs.field(factory=dict, converter=_variables)
    annotations: Mapping[str, str] = attrs.field(factory=dict, converter=_annotations)
    resources: Resources = attrs.field(default=None, converter=_resources)
    mounted_files: tuple[MountedFile, ...] = attrs.field(default=(), converter=_files)
    volumes: tuple[Any, ...] = attrs.field(default=(), converter=_volumes)
    ports: tuple[int, ...] = attrs.field(default=(), converter=_ports)
    network: NetworkOptions = attrs.field(default=None, converter=_network)
    secrets: tuple[str, ...] = attrs.field(default=(), converter=_secrets)
    working_dir: str | None = attrs.field(default=None, converter=optional(_working_dir))
    user: str | None = attrs.field(default=None, converter=optional(_user))
    max_lifetime_seconds: float | None = attrs.field(default=None, converter=optional(_lifetime))
    idle_timeout_seconds: float | None = attrs.field(default=None, converter=optional(_idle))
    orphan_timeout_seconds: float | None = attrs.field(default=None, converter=optional(_orphan))
    detached: bool = attrs.field(default=False, converter=_detached)
    request_timeout_seconds: float = attrs.field(default=300.0, converter=_request_timeout)
    temp_dir: str = attrs.field(default="/tmp", converter=_temp_dir)  # noqa: S108 - a path in the sandbox
    runtime: str | None = attrs.field(default=None, converter=optional(_runtime))
    read_only: bool = attrs.field(default=False, converter=_read_only)
    engine: Any = None
    base_url: str | None = attrs.field(default=None, converter=optional(_base_url))

    def __attrs_post_init__(self) -> None:
        """Refuse combinations that contradict each other."""
        if self.args and self.command is None:
            raise ValueError(f"args needs a command to belong to, got args={list(self.args)!r} alone")
        if self.secrets and any(
            posixpath.normpath(file.path).startswith("/run/secrets/") for file in self.mounted_files
        ):
            raise ValueError("mounted_files has a file below /run/secrets, where secrets are; choose another place")
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
        validation.known_keywords(
            "sandbox configuration", overrides, [field.name for field in attrs.fields(type(self))]
        )
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
        return attrs.evolve(
            self, **{key: value for key, value in merged.items() if value is not None or key not in _NOT_NONE}
        )

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
    {
        "args",
        "tags",
        "environment_variables",
        "annotations",
        "mounted_files",
        "volumes",
        "ports",
        "secrets",
        "pull_policy",
        "read_only",
        "detached",
        "request_timeout_seconds",
        "temp_dir",
    }
)  # fields for which an explicit None means "as it was"
