"""doctor: what it looks at, what it says is in the way, and that it really starts sandboxes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aviato.engines.local import doctor
from aviato.engines.local.cgroups import Layout
from tests.helpers.local import require_local

ROOT = Path(__file__).parents[2]


@pytest.fixture
def works() -> None:
    """Skip, with the reason, where no sandbox can be started."""
    require_local()


@pytest.mark.usefixtures("works")
async def test_a_sandbox_really_runs() -> None:
    """Where sandboxes work, every blocking check is fine, and the trial reports what protects it."""
    report = await doctor.examine(os.environ["AVIATO_HOME"])
    assert report.works
    assert [check.name for check in report.checks if check.blocker] == []
    first = report.trials[0]
    assert first.ok
    assert first.seconds > 0
    assert first.isolation["seccomp"] == "hard"


@pytest.mark.usefixtures("works")
@pytest.mark.parametrize("output", ["table", "json"])
def test_the_command_reports_and_exits_with_0(output: str) -> None:
    """`aviato doctor` says that sandboxes work, for people and for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "aviato.cli", "doctor", "-o", output], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if output == "json":
        assert json.loads(done.stdout)["works"] is True
    else:
        assert b"isolation: ids " in done.stdout
        assert done.stdout.endswith(b"sandboxes work here\n")


def test_a_state_directory_that_cannot_be_used_is_a_blocker() -> None:
    """The exit code is 1, and the blocker comes with its fix."""
    done = subprocess.run(
        [sys.executable, "-m", "aviato.cli", "doctor"],
        cwd=ROOT,
        env={**os.environ, "AVIATO_HOME": "/proc/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "BLOCKER  state directory: /proc/nowhere" in done.stdout
    assert "fix: export AVIATO_HOME=" in done.stdout
    assert "FAILED   sandbox as" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_network_helper_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it only the internet does not work."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    found = doctor.check_network()
    assert (found.ok, found.blocker, found.remedy) == (False, False, "install it: apt-get install slirp4netns")


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        ({"user/max_user_namespaces": "0"}, "sysctl -w user.max_user_namespaces=15000"),
        ({"kernel/unprivileged_userns_clone": "0"}, "sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"apparmor": "1"}, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ({"seccomp": "2"}, "--security-opt seccomp=unconfined"),
        ({"seccomp": "0"}, "CONFIG_USER_NS"),
    ],
)
def test_forbidden_namespaces_are_explained(facts: dict[str, str], remedy: str) -> None:
    """Each way to forbid user namespaces has its own fix."""
    assert remedy in doctor.explain_namespaces(1, facts)[1]


def test_missing_groups_weaken_and_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without control groups sandboxes start, and what is then weaker is said."""
    monkeypatch.setattr(doctor, "find_layout", lambda: Layout({}, None))
    found = doctor.check_groups()
    assert (found.ok, found.blocker) == (False, False)
    assert "memory, pids, cpu" in found.detail
    assert found.remedy


def test_an_unreadable_python_is_a_blocker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interpreter that is not there, or that sandboxes may not read, is named with the command that helps."""
    monkeypatch.setattr(doctor, "python_program", lambda: str(tmp_path / "python"))
    assert doctor.check_python().blocker
    (tmp_path / "python").touch(mode=0o700)
    found = doctor.check_python()
    if os.getuid() == 0:
        assert found.remedy == f"chmod -R o+rX {tmp_path}/python"


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system, processor or an old kernel is a blocker."""
    for name, value in (("system", "Darwin"), ("machine", "riscv64"), ("release", "5.4.0-1-generic")):
        with monkeypatch.context() as patch:
            patch.setattr(platform, name, lambda value=value: value)
            assert doctor.check_system().blocker
    assert doctor.check_system().ok
