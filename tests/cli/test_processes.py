"""run and exec: bytes in, bytes out, the exit code, and what signals do."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.conftest import ROOT, Program

Make = Callable[..., str]


def test_run_says_what_the_command_said(program: Program) -> None:
    """README's first command: its output, nothing else, and its exit code."""
    done = program("run", "--", "python", "-c", "print('hello from a sandbox')")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello from a sandbox\n", b"")


@pytest.mark.parametrize(
    ("code", "expected"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exec nosuch", 127)]
)
def test_run_exits_with_the_command_code(program: Program, code: str, expected: int) -> None:
    """The exit code is the command's, as a shell gives it."""
    assert program("run", "--", "sh", "-c", code).returncode == expected


def test_run_keeps_the_streams_apart_and_as_bytes(program: Program) -> None:
    """Output is not decoded, and stdout and stderr stay what they are."""
    done = program("run", "sh", "-c", r"printf '\377\000a'; printf '\376' >&2")
    assert (done.stdout, done.stderr) == (b"\xff\x00a", b"\xfe")


def test_run_forwards_what_is_piped_in(program: Program) -> None:
    """A megabyte through the sandbox and back is the same megabyte."""
    data = os.urandom(1 << 20)
    assert program("run", "--", "cat", data=data).stdout == data


def test_run_does_not_wait_for_input_that_nobody_sends(program: Program) -> None:
    """A command that ends while our stdin is still open ends the program."""
    process = program.start("run", "--", "echo", "done", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read() == b"done\n"
    assert process.wait(10) == 0
    process.communicate()


def test_run_streams_while_the_command_runs(program: Program) -> None:
    """A line is there before the command goes on: it waits for our answer to it."""
    process = program.start("run", "-i", "--", "sh", "-c", "echo question; read x; echo $x", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"question\n"
    process.stdin.write(b"answer\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"answer\n"
    process.communicate()
    assert process.returncode == 0


def test_run_takes_its_options(program: Program, tmp_path: object) -> None:
    """Variables, files, directory, and limits arrive."""
    local = ROOT / "LICENSE"
    script = "echo $A $B; pwd; head -c 9 /app/l | tr -d ' '; grep -c . /sys/class/net/eth0 2>/dev/null || echo alone"
    done = program(
        "run", "--env", "A=1", "-e", "B", "--workdir", "/tmp", "--memory", "256Mi", "--tag", "t",
        "--file", f"{local}:/app/l", "--network", "none", "--", "sh", "-c", script, B="two",
    )  # fmt: skip
    assert done.stderr == b""
    lines = done.stdout.decode().split("\n")
    assert lines[0] == "1 two"
    assert lines[1] == "/tmp"
    assert lines[-2].endswith("alone")


def test_run_leaves_nothing(program: Program) -> None:
    """After the end there is no sandbox, not even an ended one."""
    program("run", "--tag", "leaves-nothing", "true")
    assert program("ls", "--all", "--tag", "leaves-nothing", "-o", "json").stdout == b"[]\n"


def test_run_ends_a_command_at_its_timeout(program: Program) -> None:
    """The time limit kills the command, keeps the output, and is exit code 124."""
    done = program("run", "--timeout", "300ms", "--", "sh", "-c", "echo begun; sleep 60")
    assert (done.returncode, done.stdout) == (124, b"begun\n")
    assert done.stderr.startswith(b"error: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_the_command_in_the_sandbox(program: Program, number: signal.Signals, code: int) -> None:
    """Ctrl-C and its like end the sandbox and exit with 128 and the signal's number, without a traceback."""
    process = program.start("run", "--tag", "interrupted", "--", "sh", "-c", "echo up; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert program("ls", "--tag", "interrupted", "-o", "json").stdout == b"[]\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_hears_the_signal_first(program: Program, number: signal.Signals) -> None:
    """It may tidy up, and what it then writes is shown."""
    script = "trap 'echo tidied; exit 3' INT TERM; echo up; while :; do sleep 0.05; done"
    process = program.start("run", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + number, b"tidied\n")


def test_a_reader_that_goes_away_ends_the_command(program: Program) -> None:
    """`aviato run yes | head -1` ends, with the code of a broken pipe."""
    process = program.start("run", "--", "yes")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""


def test_a_detached_sandbox_stays(program: Program, detached: Make) -> None:
    """run --detach prints the id of a sandbox that another process finds, uses and stops."""
    sandbox_id = detached("--tag", "stays", "--", "sh", "-c", "echo from main; sleep 600")
    assert program("exec", sandbox_id, "--", "echo", "hi").stdout == b"hi\n"
    assert (
        program("exec", "--env", "A=1", "--workdir", "/tmp", sandbox_id, "sh", "-c", "echo $A; pwd; exit 3").returncode
        == 3
    )
    assert program("exec", sandbox_id, "cat", data=b"in").stdout == b"in"
    assert program("logs", sandbox_id).stdout == b"from main\n"
    assert sandbox_id.encode() in program("ls", "--tag", "stays").stdout
    assert program("stop", "--grace", "1", sandbox_id).stdout.decode().strip() == sandbox_id
    done = program("exec", sandbox_id, "true")
    assert done.returncode == 125
    assert done.stderr.startswith(b"error: ")


def test_ctrl_c_of_exec_kills_the_command_only(program: Program, detached: Make) -> None:
    """The command is gone, the sandbox is not."""
    sandbox_id = detached()
    process = program.start("exec", sandbox_id, "--", "sh", "-c", "echo up; sleep 6000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    running = program("exec", sandbox_id, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert b"sleep 6000" not in running


def test_control_sequences_do_not_reach_a_terminal(program: Program) -> None:
    """On a terminal, what could command it is taken out, unless --raw; the text stays."""
    del program
    text = r"printf '\033]0;title\007\033[31mred\033[0m\n'"
    assert _on_terminal("run", "--", "sh", "-c", text) == b"red\r\n"
    assert _on_terminal("run", "--raw", "--", "sh", "-c", text) == b"\033]0;title\007\033[31mred\033[0m\r\n"


def test_a_closed_or_full_output_is_an_error(program: Program) -> None:
    """What cannot be shown is said, and never goes into a file that happens to have the number."""
    del program
    for redirection, said in ((">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -m aviato.cli run -- echo hello {redirection}', sys.executable],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (125, f"error: cannot write to standard output: {said}\n")


def _on_terminal(*arguments: str) -> bytes:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "aviato.cli", *arguments],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        os.close(theirs)
        theirs = -1
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:
            pass  # how a terminal ends
        assert process.wait(20) == 0
        return seen
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
