"""Ids made by the client."""

from __future__ import annotations

import pytest

from aviato.aio._ids import check_sandbox_id, new_sandbox_id


def test_ids_are_well_formed_and_distinct() -> None:
    """Ten thousand ids pass the check and differ."""
    ids = {new_sandbox_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    for sandbox_id in ids:
        assert check_sandbox_id(sandbox_id) == sandbox_id


def test_ids_sort_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later id is greater as text."""
    made = []
    for now in (1.0, 2.0, 3_000_000_000.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        made.append(new_sandbox_id())
    assert made == sorted(made)


@pytest.mark.parametrize("bad", ["", "sbx-", "sbx-00000000000000000", "SBX-0000000000000000", "sbx-000000000000000/"])
def test_bad_ids_are_refused(bad: str) -> None:
    """What is not of the form of an id never reaches a path or a request."""
    with pytest.raises(ValueError, match="sandbox_id"):
        check_sandbox_id(bad)
    with pytest.raises(TypeError):
        check_sandbox_id(None)
