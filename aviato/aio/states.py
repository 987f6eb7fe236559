"""The state machine of a sandbox's life: frozen states, one pure transition, terminal states final."""

from __future__ import annotations

import attrs

from aviato.models import ExitReason, SandboxInfo, SandboxStatus

_RANK = {
    SandboxStatus.PENDING: 0,
    SandboxStatus.CREATING: 1,
    SandboxStatus.RUNNING: 2,
    SandboxStatus.PAUSED: 2,
    SandboxStatus.TERMINATING: 3,
    SandboxStatus.COMPLETED: 4,
    SandboxStatus.FAILED: 4,
    SandboxStatus.TERMINATED: 4,
}
_LATE_DETAILS = ("returncode", "exit_reason", "started_at", "ended_at")


def advance(known: SandboxInfo, seen: SandboxInfo) -> SandboxInfo:
    """Combine what is known with one more observation, from whatever source and in whatever order.

    Life goes forward only, except that running and paused alternate. A terminal state keeps its status for good and
    takes from later terminal observations only details that it did not have, so that the return code is
    right however the end was first seen.

    Raises:
        ValueError: The observation is of another sandbox.
    """
    if known.sandbox_id != seen.sandbox_id:
        raise ValueError(f"observation of {seen.sandbox_id} given to {known.sandbox_id}")
    if known.status.is_terminal:
        if not seen.status.is_terminal:
            return known
        late = {
            name: getattr(seen, name)
            for name in _LATE_DETAILS
            if getattr(known, name) is None and getattr(seen, name) is not None
        }
        return attrs.evolve(known, **late) if late else known
    if _RANK[seen.status] < _RANK[known.status]:
        return known
    if known.started_at is not None and seen.started_at is None:
        seen = attrs.evolve(seen, started_at=known.started_at)
    return seen


def lost(known: SandboxInfo, message: str) -> SandboxInfo:
    """Return the state of a sandbox whose machine is gone."""
    gone = attrs.evolve(known, status=SandboxStatus.FAILED, exit_reason=ExitReason.LOST, message=message)
    return advance(known, gone)
