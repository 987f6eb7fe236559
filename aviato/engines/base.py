"""What an engine is: everything its author must know.

An engine makes, finds and ends sandboxes and opens byte streams to the agents inside. It is stateless
about sandboxes: all knowledge lives in its own substrate (state directory, labels), so any process of the
same user can list, attach to and end what another one made. The core does the rest.

Rules, which `aviato.testing.check_engine` holds:

* `create` is idempotent by id: the same id and body is the same sandbox. When it fails or is cancelled, nothing is
  left.
* An unknown id is `SandboxNotFoundError`, from every method; with `missing_ok` it is success for `stop` and `delete`.
* Changes are pushed through `watch`; terminal states never go back.
* No error of another library crosses: errors are those of `aviato.exceptions`, chained with `from`.
* Every method may be cancelled at any await and leaves the old or the new state.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs

from aviato._defaults import PullPolicy
from aviato.models import (
    Isolation,
    MountedFile,
    NetworkOptions,
    Protection,
    PullProgress,
    Resources,
    SandboxInfo,
    SandboxStatus,
)

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

OWNER_HOST = "aviato.owner.host"
OWNER_USER = "aviato.owner.user"
OWNER_PID = "aviato.owner.pid"
OWNER_SESSION = "aviato.owner.session"


@attrs.frozen
class Capabilities:
    """What an engine offers; a request beyond it is a `CapabilityError` at start."""

    images: bool
    gpu: bool
    egress: bool
    ports: bool
    volumes: bool
    secrets: bool
    users: bool
    read_only: bool = False
    runtimes: tuple[str, ...] = ()


SECRETS_DIRECTORY = "/run/secrets"


def _names(secrets: Mapping[str, str]) -> list[str]:
    return sorted(secrets)


def _names_shown(secrets: Mapping[str, str]) -> str:
    return str(_names(secrets))


@attrs.frozen(kw_only=True)
class SandboxSpec:
    """All that a sandbox is made from; complete, validated and free of defaults still to be found.

    `image` None asks for the engine's default image, and a time limit of None for none (an engine may have
    a longest lifetime of its own). `annotations` hold the owner's automatic ones. `on_pull_progress` is no part of what
    the sandbox is; it may be called from any thread and never blocks. `secrets` maps names to values, which an engine
    hands to the agent and keeps nowhere: not in a record, a label, an environment, a digest or a message.
    """

    sandbox_id: str
    image: str | None = None
    pull_policy: PullPolicy = "missing"
    on_pull_progress: Callable[[PullProgress], object] | None = attrs.field(default=None, eq=False, repr=False)
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict)
    working_dir: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    resources: Resources = attrs.field(factory=Resources)
    mounted_files: tuple[MountedFile, ...] = ()
    network: NetworkOptions = attrs.field(factory=NetworkOptions)
    volumes: tuple[object, ...] = ()
    secrets: Mapping[str, str] = attrs.field(factory=dict, eq=_names, repr=_names_shown)
    max_lifetime_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    orphan_timeout_seconds: float | None = None
    detached: bool = False
    temp_dir: str = "/tmp"  # noqa: S108 - a path in the sandbox
    runtime: str | None = None
    read_only: bool = False


@attrs.frozen(kw_only=True)
class SandboxQuery:
    """Which sandboxes to list: all tags must match, and any of the statuses (empty: any)."""

    tags: tuple[str, ...] = ()
    statuses: frozenset[SandboxStatus] = frozenset()
    include_stopped: bool = False

    def matches(self, info: SandboxInfo) -> bool:
        """Tell whether a sandbox is asked for."""
        if self.statuses:
            if info.status not in self.statuses:
                return False
        elif info.status.is_terminal and not self.include_stopped:
            return False
        return set(self.tags) <= set(info.tags)


@attrs.frozen
class LogRecord:
    """One piece of the main process's output, a line with its newline or a piece of one.

    Attributes:
        timestamp: Seconds since the epoch, UTC, when the engine read it.
        stream: `"stdout"` or `"stderr"`.
        data: The bytes.
    """

    timestamp: float
    stream: str
    data: bytes


def read_resources(fields: Mapping[str, Any]) -> Resources:
    """Make `Resources` of what `cattrs.unstructure` made of some: its fields, not the quantities it is made from."""
    made = Resources.__new__(Resources)
    made.__attrs_init__(**fields)  # pyright: ignore[reportAttributeAccessIssue]  # attrs makes it where __init__ is our own
    return made


def read_isolation(fields: Mapping[str, Any]) -> Isolation:
    """Make `Isolation` of what `cattrs.unstructure` made of it."""
    protections = {name: Protection(item) for name, item in fields.items() if name != "notes"}
    return Isolation(**protections, notes=tuple(fields["notes"]))


class Engine(abc.ABC):
    """Makes sandboxes in one place; belongs to the event loop that first uses it."""

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """What this engine can do here, without I/O."""

    @abc.abstractmethod
    async def create(self, spec: SandboxSpec) -> SandboxInfo:
        """Create and start a sandbox; return when its agent can be connected to.

        Idempotent by `spec.sandbox_id`. On failure or cancellation nothing is left behind.

        Raises:
            CapabilityError: The engine cannot give something that was asked for; it says what is missing.
            IsolationUnavailableError: A protection could not be set up.
            ImageNotFoundError: The image is unknown.
            SandboxFailedError: It could not start, or the id is already used with another body.
            SandboxResourceExhaustedError: The machine has no more of something.
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Look one sandbox up.

        Raises:
            SandboxNotFoundError: There is none of this id.
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    def list(self, query: SandboxQuery) -> AsyncIterator[SandboxInfo]:
        """Iterate over the sandboxes of this user that match, whoever made them.

        Raises:
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    def watch(self) -> AsyncIterator[SandboxInfo]:
        """Iterate, from now on and without end, over changes of the sandboxes this object created or connected to.

        Raises:
            EngineError: The engine itself failed; changes may have been missed, so look up and watch again.
        """

    @abc.abstractmethod
    async def stop(self, sandbox_id: str, *, grace_seconds: float, missing_ok: bool = False) -> SandboxInfo | None:
        """End a sandbox: SIGTERM to its commands, after the grace SIGKILL; return when nothing of it runs.

        Never needs the agent's consent: it ends within the grace and two seconds even when the agent is dead,
        frozen or lying. Idempotent; safe from several clients at once. Cancelled, the request has been sent and goes
        on.

        Returns:
            The final state, or None when it is unknown and `missing_ok`.

        Raises:
            SandboxNotFoundError: There is none of this id and not `missing_ok`.
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    async def delete(self, sandbox_id: str, *, missing_ok: bool = False) -> None:
        """Stop a sandbox without grace and remove every trace of it.

        Raises:
            SandboxNotFoundError: There is none of this id and not `missing_ok`.
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    async def connect(self, sandbox_id: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open a byte stream to the agent and hand it to `protocol`; may be called again after the stream was lost.

        The transport follows asyncio's contract, flow control included.

        Raises:
            SandboxNotFoundError: There is none of this id.
            SandboxNotRunningError: It has ended.
            SandboxLostError: What held it is gone.
            EngineConnectionError: It cannot be reached now.
        """

    @abc.abstractmethod
    def logs(
        self, sandbox_id: str, *, follow: bool = False, tail_lines: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogRecord]:
        """Iterate over the main process's output, oldest first, also after it ended; `follow` goes on until it ends.

        Raises:
            SandboxNotFoundError: There is none of this id.
            EngineError: The engine itself failed.
        """

    @abc.abstractmethod
    async def extend(self, sandbox_id: str, seconds: float) -> SandboxInfo:
        """Let a running sandbox's lifetime end `seconds` later than it would have.

        Raises:
            SandboxNotFoundError: There is none of this id.
            SandboxNotRunningError: It has ended.
            EngineError: The engine itself failed.
        """

    async def prune(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Remove what ended sandboxes of this user and dead programs left; running sandboxes are not touched.

        Returns:
            The names of what was removed, or would be with `dry_run`.

        Raises:
            EngineError: The engine itself failed.
        """
        del dry_run
        return ()

    @abc.abstractmethod
    async def close(self) -> None:
        """Release what this object holds; sandboxes it made and that are not detached are ended. Idempotent."""

    def stop_all_at_exit(self, seconds: float) -> tuple[str, ...]:
        """End, without an event loop, the sandboxes this object made and that are not detached.

        Returns the ids of those that remain.         Called when the interpreter ends, from any thread, where no
        thread or executor can be started.
        """
        del seconds
        return ()

    def forget_after_fork(self) -> None:  # noqa: B027 - an engine that holds nothing has nothing to forget
        """Drop, in a forked child, what belongs to the parent, without disturbing the parent."""

    async def __aenter__(self) -> Self:
        """Return the engine itself."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
