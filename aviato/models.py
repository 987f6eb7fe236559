"""The public values: frozen attrs classes and enums, shared by both faces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import attrs

from aviato._defaults import SandboxDefaults
from aviato._parts import MountedFile, NetworkOptions, PullProgress, PullState, Resources

__all__ = [
    "ExitReason",
    "Isolation",
    "MountedFile",
    "NetworkOptions",
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
