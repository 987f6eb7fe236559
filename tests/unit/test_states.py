"""The state machine of a sandbox's life."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviato.aio import states
from aviato.models import ExitReason, SandboxInfo, SandboxStatus

BASE = SandboxInfo(
    sandbox_id="sbx-0000000000000000",
    status=SandboxStatus.PENDING,
    container_image="host",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
observations = st.builds(
    lambda status, code, reason: attrs.evolve(BASE, status=status, returncode=code, exit_reason=reason),
    st.sampled_from(SandboxStatus),
    st.none() | st.integers(0, 255),
    st.none() | st.sampled_from(ExitReason),
)


@given(st.lists(observations, max_size=8))
def test_terminal_states_never_go_back(seen: list[SandboxInfo]) -> None:
    """Whatever is observed in whatever order, the first terminal status stays."""
    known, final = BASE, None
    for info in seen:
        known = states.advance(known, info)
        if final is not None:
            assert known.status is final
        elif known.status.is_terminal:
            final = known.status


@given(st.lists(observations, max_size=8))
def test_life_goes_forward_only(seen: list[SandboxInfo]) -> None:
    """No observation makes a sandbox younger, except that running and paused alternate."""
    order = {"pending": 0, "creating": 1, "running": 2, "paused": 2, "terminating": 3}
    known = BASE
    for info in seen:
        before, known = known, states.advance(known, info)
        assert order.get(known.status, 4) >= order.get(before.status, 4)


def test_a_late_return_code_is_taken_once() -> None:
    """A terminal state takes details that it lacked, and never changes those it has."""
    ended = attrs.evolve(BASE, status=SandboxStatus.FAILED)
    with_code = states.advance(ended, attrs.evolve(BASE, status=SandboxStatus.COMPLETED, returncode=7))
    assert (with_code.status, with_code.returncode) == (SandboxStatus.FAILED, 7)
    assert states.advance(with_code, attrs.evolve(ended, returncode=9)).returncode == 7


def test_the_start_time_is_kept() -> None:
    """An observation without a start time does not erase a known one."""
    running = attrs.evolve(BASE, status=SandboxStatus.RUNNING, started_at=BASE.created_at)
    assert states.advance(running, attrs.evolve(BASE, status=SandboxStatus.PAUSED)).started_at == BASE.created_at


def test_observations_of_others_are_refused() -> None:
    """Mixing up two sandboxes is a mistake in the caller."""
    with pytest.raises(ValueError, match="sbx-1"):
        states.advance(BASE, attrs.evolve(BASE, sandbox_id="sbx-1"))


def test_lost_is_an_infrastructure_end() -> None:
    """A lost sandbox is failed for a reason that says nothing of the task."""
    gone = states.lost(BASE, "the machine is gone")
    assert (gone.status, gone.exit_reason) == (SandboxStatus.FAILED, ExitReason.LOST)
    assert ExitReason.LOST.is_infrastructure
