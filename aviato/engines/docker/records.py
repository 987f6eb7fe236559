"""Between the public values and containers: labels that hold a sandbox's record, and states that tell of its end."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import cattrs

from aviato.engines.base import SandboxSpec, read_isolation, read_resources
from aviato.models import ExitReason, Isolation, SandboxInfo, SandboxStatus

SANDBOX_LABEL = "aviato.sandbox"
USER_LABEL = "aviato.user"
RECORD_LABEL = "aviato.record"
STOPPING_SUFFIX = ".stopping"
"""Of the name of a container that somebody has asked to stop: the one thing of it that can be changed at any time."""

_REASONS = {
    1: ExitReason.EXITED,
    2: ExitReason.STOPPED,
    3: ExitReason.IDLE,
    4: ExitReason.LIFETIME,
    5: ExitReason.TIMEOUT,
}
_MAIN_EXITED = 1
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - to compare with, not to bind to
_NEVER = "0001-01-01T00:00:00Z"
_SIGNALLED = 128
_OOM_CODE = 137


@attrs.frozen
class LastWords:
    """What the agent wrote at its end: why, and the main command's return code, -1 for none."""

    reason: int
    code: int


def believable(words: LastWords | None, state: Mapping[str, Any]) -> LastWords | None:
    """Return last words if the container's end does not contradict them: a shell's may be anybody's of its user."""
    if words is not None and _REASONS.get(words.reason) is ExitReason.EXITED and words.code != state.get("ExitCode"):
        return None
    return words


def user_name() -> str:
    """Return whose sandboxes these are: a daemon may be shared."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def make_labels(spec: SandboxSpec, image: str, digest: str, isolation: Isolation) -> dict[str, str]:
    """Write down what other processes need to know."""
    record = {
        "image": image,
        "created_at": datetime.now(UTC).timestamp(),
        "tags": list(spec.tags),
        "annotations": dict(spec.annotations),
        "resources": cattrs.unstructure(spec.resources),
        "isolation": cattrs.unstructure(isolation),
        "detached": spec.detached,
        "body": digest,
    }
    return {SANDBOX_LABEL: spec.sandbox_id, USER_LABEL: user_name(), RECORD_LABEL: json.dumps(record)}


def read_record(labels: Mapping[str, str]) -> dict[str, Any]:
    """Read it back.

    Raises:
        ValueError: The label is missing or damaged.
    """
    try:
        found = json.loads(labels[RECORD_LABEL])
        found["sandbox_id"] = labels[SANDBOX_LABEL]
        found["tags"] = [str(tag) for tag in found["tags"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a container's label {RECORD_LABEL} makes no sense: {error!r}") from error
    return dict(found)


def is_over(state: Mapping[str, Any]) -> bool:
    """Tell whether a container has run and ended."""
    return state["Status"] in {"exited", "dead", "removing"}


def describe(
    container: Mapping[str, Any], words: LastWords | None, complaint: str = "", *, machine: str
) -> SandboxInfo:
    """Turn what `inspect` says into the public value.

    Args:
        container: What `inspect` says.
        words: The last words of a container that has ended.
        complaint: What it complained of before.
        machine: Where ports of the daemon's machine are reached.

    Raises:
        ValueError: It is not a container of ours.
    """
    record = read_record(container["Config"]["Labels"])
    state = container["State"]
    stopping = container["Name"].endswith(STOPPING_SUFFIX)
    ports, address = _ports(container.get("NetworkSettings") or {}, machine)
    known = {
        "sandbox_id": record["sandbox_id"],
        "container_image": record["image"],
        "created_at": datetime.fromtimestamp(record["created_at"], UTC),
        "started_at": _time(state.get("StartedAt")),
        "tags": tuple(record["tags"]),
        "annotations": record["annotations"],
        "resources": read_resources(record["resources"]),
        "isolation": read_isolation(record["isolation"]),
        "detached": record["detached"],
        "exposed_ports": ports,
        "service_address": address,
    }
    if not is_over(state):
        status = {"created": SandboxStatus.CREATING, "paused": SandboxStatus.PAUSED}.get(
            state["Status"], SandboxStatus.TERMINATING if stopping else SandboxStatus.RUNNING
        )
        return SandboxInfo(status=status, **known)
    native = record.get("native")
    if native is not None:
        words = believable(words, state)
    if native is not None and native["shell"] is None and not state.get("OOMKilled") and not state.get("Error"):
        words = (
            LastWords(_MAIN_EXITED, state["ExitCode"]) if not stopping else None
        )  # its main command is all there was
    return SandboxInfo(
        ended_at=_time(state.get("FinishedAt")), **_end(state, words, complaint, stopping=stopping), **known
    )


def _end(state: Mapping[str, Any], words: LastWords | None, complaint: str, *, stopping: bool) -> dict[str, Any]:
    reason = None if words is None else _REASONS.get(words.reason)
    if reason is ExitReason.EXITED and words is not None:
        how = ExitReason.SIGNALLED if words.code > _SIGNALLED else ExitReason.EXITED
        if words.code == _OOM_CODE and state.get("OOMKilled"):
            how = ExitReason.OOM_KILLED
        status = SandboxStatus.COMPLETED if words.code == 0 else SandboxStatus.FAILED
        return {"status": status, "exit_reason": how, "returncode": words.code}
    if stopping or reason is not None:
        return {"status": SandboxStatus.TERMINATED, "exit_reason": reason or ExitReason.STOPPED}
    if state.get("OOMKilled"):
        return {"status": SandboxStatus.FAILED, "exit_reason": ExitReason.OOM_KILLED}
    code, error = state.get("ExitCode"), state.get("Error") or complaint
    message = f"its container ended with code {code}{': ' if error else ''}{error}"
    return {"status": SandboxStatus.FAILED, "exit_reason": ExitReason.LOST, "message": message}


def _ports(network: Mapping[str, Any], machine: str) -> tuple[dict[int, int], str | None]:
    """Read which ports are published as which, and where they are reached; None when there are none."""
    found, address = {}, None
    for name, places in (network.get("Ports") or {}).items():
        if places:
            found[int(name.partition("/")[0])] = int(places[0]["HostPort"])
            bound = str(places[0].get("HostIp") or "")
            address = machine if bound in _EVERYWHERE else bound
    return found, address


def _time(text: str | None) -> datetime | None:
    if not text or text == _NEVER:
        return None
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")  # Python knows microseconds at most
