"""The pytest plugin, and what check_engine says of an engine that does not keep the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from aviato.engines.base import SandboxSpec
from aviato.models import SandboxInfo
from aviato.testing import ContractError, FakeEngine, check_engine, contract_checks

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
def test_session(sandbox_session, fake_engine):
    result = sandbox_session.sandbox().exec(["echo", "hi"]).result()
    assert result.stdout == "hi\\n"
    assert len(fake_engine.machine.sandboxes) == 1

def test_engine_is_fresh(fake_engine):
    assert fake_engine.machine.sandboxes == {}
"""


def test_fixtures_work_in_another_project(tmp_path: Path) -> None:
    """A project's tests use them without a word of configuration."""
    (tmp_path / "test_it.py").write_text(TEXT)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_it.py",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


class Forgetful(FakeEngine):
    """Gives wrong tags."""

    async def create(self, spec: SandboxSpec) -> SandboxInfo:
        """Make a sandbox without its tags."""
        return await super().create(attrs.evolve(spec, tags=()))


async def test_a_broken_engine_is_told_what_is_wrong() -> None:
    """The report names the check and the fault, and raises on demand; checks it passes stay passed."""
    machine = FakeEngine().machine
    names = ["create_starts_a_sandbox", "unknown_ids_are_not_found"]
    report = await check_engine(lambda: Forgetful(machine=machine), only=names)
    assert not report.ok
    assert [result.outcome for result in report.results] == ["failed", "passed"]
    assert "tags are ()" in str(report)
    with pytest.raises(ContractError, match="create_starts_a_sandbox"):
        report.raise_on_failure()


async def test_what_cannot_be_checked_is_said() -> None:
    """A check that needs what was not given is skipped with the reason."""
    machine = FakeEngine().machine
    report = await check_engine(
        lambda: FakeEngine(machine=machine), only=["an_orphan_ends", "a_missing_image_is_named"]
    )
    assert report.ok
    assert [(result.outcome, result.detail) for result in report.results] == [
        ("skipped", "abandon was not given"),
        ("skipped", "missing_image was not given"),
    ]


async def test_an_unknown_check_is_refused() -> None:
    """A name that is none lists the known ones."""
    with pytest.raises(ValueError, match=contract_checks()[0]):
        await check_engine(FakeEngine, only=["no_such_check"])
