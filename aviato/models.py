"""The public values: frozen attrs classes and enums, shared by both faces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import attrs

from aviato import validation
from aviato._defaults import SandboxDefaults
from aviato._parts import MountedFile, NetworkOptions, PullProgress, PullState, Resources

__all__ = [
    "ExitReason",
    "Isolation",
    "Limits",
    "MountedFile",
    "NetworkOptions",
    "PoolStats",
    "ProcessResult",
    "Protection",
    "PullProgress",
    "PullState",
    "Resources",
    "SandboxDefaults",
    "SandboxInfo",
    "SandboxStatus",
    "Serialization",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _at_least_one(_: object, attribute: attrs.Attribute[int | None], value: int | None) -> None:
    if value is not None:
        validation.whole_number(attribute.name, value, minimum=1)


def _a_rate(_: object, attribute: attrs.Attribute[float | None], value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{attribute.name} must be a number, not {value!r}")
    if not 0.001 <= value <= 1_000_000:  # noqa: PLR2004 - the bounds are said in the message
        raise ValueError(f"{attribute.name} must be from 0.001 to 1,000,000, got {value!r}")


def _a_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{attribute.name} must be 1 to 64 letters, digits, '.', '_' or '-', got {value!r}")


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


@attrs.frozen(kw_only=True)
class PoolStats:
    """What a pool has and did, at one moment; the last group counts since the pool was made.

    Attributes:
        size: Sandboxes there may be at once.
        idle: Sandboxes that are ready to be taken.
        in_use: Sandboxes that somebody has.
        starting: Sandboxes that start or wait to be allowed to.
        resetting: Sandboxes that are being made fit for their next user.
        stopping: Sandboxes that are being stopped, and still take a place.
        waiting: Callers that wait for a sandbox.
        created: Sandboxes that came to run.
        reused: Times that a sandbox was taken that had been used before.
        replaced: Sandboxes that were given up: dead, contaminated, too old, too used, or with a failed connection.
        contaminated: Those of them whose reset found changes or processes that it could not undo.
        failed: Starts that failed.
        done: Items of `map` whose work came to an end, with a result or an error of the task.
        retried: Times that an item was begun again because its sandbox was lost.
    """

    size: int
    idle: int
    in_use: int
    starting: int
    resetting: int
    stopping: int
    waiting: int
    created: int
    reused: int
    replaced: int
    contaminated: int
    failed: int
    done: int
    retried: int


@attrs.frozen(kw_only=True)
class Limits:
    """What the pools of all processes of a user may do together, when they name the same limits.

    Attributes:
        starting: Sandboxes that start at once; None adapts to processors, memory and pressure.
        running: Sandboxes that are there at once, from their start to their end; None is no limit.
        per_second: Starts a second, evenly spaced; None is no limit.
        name: What the limits are shared by: letters, digits, `.`, `_` and `-`.
    """

    starting: int | None = attrs.field(default=None, validator=_at_least_one)
    running: int | None = attrs.field(default=None, validator=_at_least_one)
    per_second: float | None = attrs.field(default=None, validator=_a_rate)
    name: str = attrs.field(default="default", validator=_a_name)
