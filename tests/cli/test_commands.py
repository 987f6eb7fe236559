"""Everything but run and exec: lists, files, logs, images, help, and what is said about mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from aviato.cli.__main__ import COMMANDS, main
from tests.cli.conftest import ROOT, Program

Make = Callable[..., str]


def invoke(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    done = CliRunner().invoke(main, list(arguments), env=env, prog_name="aviato")
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A state directory of its own."""
    return {"AVIATO_HOME": str(tmp_path / "home")}


def test_help_is_quick_and_names_every_command() -> None:
    """The overview loads neither the core nor rich."""
    code = (
        "import sys\n"
        "from aviato.cli.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'rich', 'attrs', 'aviato.aio', 'aviato.engines', 'aviato_sync'}\n"
        "sys.exit(repr(sorted(heavy & sys.modules.keys())) if heavy & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


def test_the_doctor_sees_the_configured_engine(tmp_path: Path) -> None:
    """As every command does; one that it knows nothing of is named."""
    away = {"AVIATO_ENGINE": "docker", "DOCKER_HOST": f"unix://{tmp_path}/none"}
    code, out, _ = invoke("doctor", **away)
    assert (code, out.startswith(f"BLOCKER  daemon at unix://{tmp_path}/none")) == (1, True)
    code, _, err = invoke("doctor", "--engine", "nosuch", **away)
    assert (code, "got 'nosuch'" in err) == (125, True)


@pytest.mark.parametrize("arguments", [[], ["image"]])
def test_without_a_command_the_overview_is_shown(arguments: list[str]) -> None:
    """Line by line, as `--help` does, but as a mistake."""
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert err == invoke(*arguments, "--help")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """Each command explains itself."""
    code, out, _ = invoke(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: aviato {name}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["run"],
        ["run", "--nosuch", "true"],
        ["run", "--timeout", "soon", "true"],
        ["run", "--timeout", "-1", "true"],
        ["run", "--network", "some", "true"],
        ["run", "--memory", "much", "true"],
        ["run", "--workdir", "relative", "true"],
        ["run", "--env", "=x", "true"],
        ["run", "--env", "AVIATO_IS_NOT_SET", "true"],
        ["run", "--file", "nowhere:/x", "true"],
        ["run", "--file", "/etc/hostname:relative", "true"],
        ["run", "--detach", "--timeout", "1", "true"],
        ["exec", "sbx-0123456789abcdef"],
        ["exec", "nonsense", "true"],
        ["stop"],
        ["stop", "--grace", "-1", "sbx-0123456789abcdef"],
        ["cp", "a", "b"],
        ["cp", "sbx-0123456789abcdef:/a", "sbx-0123456789abcdef:/b"],
        ["cp", "a", "sbx-0123456789abcdef:relative"],
        ["logs", "--tail", "-1", "sbx-0123456789abcdef"],
        ["ls", "-o", "xml"],
        ["image", "import", "Bad Name", "."],
        ["image", "tag", "host", "host"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], home: dict[str, str]) -> None:
    """A mistake of the user's is `error: …`, without a traceback."""
    code, out, err = invoke(*arguments, **home)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_failures_are_an_error_a_hint_and_exit_code_125(home: dict[str, str]) -> None:
    """aviato's own failures are told from the command's by the exit code."""
    code, _, err = invoke("run", "--image", "nosuch", "true", **home)
    assert code == 125
    assert err.splitlines() == [
        "error: image 'nosuch:latest' is not in the local store",
        "hint: aviato image pull nosuch:latest (or from an archive: aviato image import nosuch:latest TAR)",
    ]
    assert invoke("rm", "sbx-0123456789abcdef", **home)[0] == 125
    assert invoke("run", "--engine", "nosuch", "true", **home)[0] == 125
    assert invoke("ls", AVIATO_HOME="relative")[0] == 125
    assert invoke("ls", AVIATO_ENGINE="nosuch", **home)[2].startswith("error: environment variable AVIATO_ENGINE: ")


def test_a_full_traceback_is_there_for_the_asking(home: dict[str, str]) -> None:
    """AVIATO_FULL_TRACEBACK=1 shows where an error came from."""
    env = {**os.environ, **home, "AVIATO_FULL_TRACEBACK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "aviato.cli", "run", "--image", "nosuch", "true"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" in done.stderr
    assert "ImageNotFoundError" in done.stderr


def test_images_from_import_to_removal(home: dict[str, str], tmp_path: Path) -> None:
    """import, tag, ls and rm, as tables and as JSON."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/x").write_text("x" * 5000)
    os.mkfifo(tmp_path / "root/pipe")
    code, out, err = invoke("image", "import", "app", str(tmp_path / "root"), **home)
    assert (code, err) == (0, "left out: 1 x device, pipe or socket\n")
    assert out.startswith("app:latest sha256:")
    assert invoke("image", "tag", "app", "second:1", **home)[:2] == (0, "second:1\n")
    listed = json.loads(invoke("image", "ls", "-o", "json", **home)[1])
    assert [item["name"] for item in listed] == ["app:latest", "second:1"]
    assert {item["size_bytes"] for item in listed} == {5000}
    table = invoke("image", "ls", **home)[1]
    assert "4.9 KiB" in table
    code, out, err = invoke("image", "rm", "nosuch", "app", "second:1", **home)
    assert (code, out) == (125, "app:latest\nsecond:1\n".replace(":latest", ""))
    assert err.startswith("error: image 'nosuch:latest'")
    assert json.loads(invoke("image", "ls", "-o", "json", **home)[1]) == []


def test_tagging_another_python_warns(home: dict[str, str]) -> None:
    """The warning is a line on stderr, and the tag is made."""
    code, out, err = invoke("image", "tag", "host", "python:2.7", **home)
    assert (code, out) == (0, "python:2.7\n")
    assert err.startswith("warning: ")


def test_prune_has_nothing_to_do_in_an_empty_place(home: dict[str, str]) -> None:
    """A state directory that does not exist is no error."""
    assert invoke("prune", **home) == (0, "", "nothing to remove\n")
    assert invoke("ls", "-o", "json", **home)[:2] == (0, "[]\n")


def test_prune_removes_ended_sandboxes(program: Program, detached: Make) -> None:
    """--dry-run only tells; prune removes what has ended and leaves what runs."""
    ended, running = detached("true"), detached()
    program("logs", "-f", ended)
    program("stop", ended)
    assert ended in program("prune", "--dry-run").stdout.decode().split()
    assert ended.encode() in program("ls", "--all").stdout
    removed = program("prune").stdout.decode().split()
    assert ended in removed
    assert running not in removed
    assert ended.encode() not in program("ls", "--all").stdout
    assert running.encode() in program("ls").stdout


def test_files_are_copied_both_ways(program: Program, detached: Make, tmp_path: Path) -> None:
    """Bytes arrive as they were, directories as targets take the name along, a missing file is said."""
    sandbox_id = detached()
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    assert program("cp", str(tmp_path / "in"), f"{sandbox_id}:/data/deep/x").returncode == 0
    (tmp_path / "out").mkdir()
    assert program("cp", f"{sandbox_id}:/data/deep/x", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out/x").read_bytes() == data
    assert program("cp", str(tmp_path / "in"), f"{sandbox_id}:/tmp/").returncode == 0
    assert program("exec", sandbox_id, "ls", "/tmp").stdout == b"in\n"
    for source in ("/data", "/nosuch"):
        done = program("cp", f"{sandbox_id}:{source}", str(tmp_path / "never"))
        assert done.returncode == 125
        assert done.stderr.startswith(b"error: ")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "out"]
    done = program("cp", f"{sandbox_id}:/data/deep/x", str(tmp_path / "nowhere" / "x"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/nowhere/x: No such file or directory\n".encode())
    done = program("cp", str(tmp_path), f"{sandbox_id}:/tmp/")
    assert done.returncode == 2
    assert b"single files" in done.stderr


def test_logs_of_a_sandbox_that_ended(program: Program, detached: Make) -> None:
    """--follow ends with the main command; --tail and --timestamps do what they say."""
    sandbox_id = detached("--", "sh", "-c", "echo one; echo two >&2; echo three")
    followed = program("logs", "--follow", sandbox_id)
    assert sorted(followed.stdout.split()) == [b"one", b"three", b"two"]
    assert len(program("logs", "--tail", "1", sandbox_id).stdout.splitlines()) == 1
    stamped = program("logs", "--timestamps", sandbox_id).stdout.decode().splitlines()
    assert all("T" in line.split(" ")[0] and line.split(" ")[0].endswith("+00:00") for line in stamped)


def test_stop_and_rm_of_several(program: Program, detached: Make) -> None:
    """All are tried; those that fail are said and the exit code shows it."""
    first, second = detached(), detached()
    done = program("stop", "--grace", "0", first, "sbx-0123456789abcdef", second)
    assert done.stdout.decode().split() == [first, second]
    assert done.returncode == 125
    listed = json.loads(program("ls", "--all", "-o", "json").stdout)
    assert {item["status"] for item in listed if item["sandbox_id"] in (first, second)} == {"terminated"}
    assert program("rm", first, second).stdout.decode().split() == [first, second]
    left = {item["sandbox_id"] for item in json.loads(program("ls", "--all", "-o", "json").stdout)}
    assert left.isdisjoint({first, second})
