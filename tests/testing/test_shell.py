"""The fake shell does what a real one does, or says that it does not know; compared with dash where there is one."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest

from aviato import aio
from aviato.testing import FakeEngine

SCRIPTS = [
    "echo out; echo err >&2; exit 3",
    "for i in 1 2 3; do echo line $i; done; printf tail",
    "x=5; y=$((x * 3 - 1)); echo $y ${z:-none} \"$x  $y\" '$x' ${#x}",
    "echo a b c | wc -w | cat",
    "if [ -d /tmp ] && [ ! -e /nothing ]; then echo yes; else echo no; fi",
    "if false; then echo 1; elif true; then echo 2; else echo 3; fi",
    "i=0; while [ $i -lt 5 ]; do i=$((i+1)); if [ $i = 2 ]; then continue; fi; [ $i = 4 ] && break; echo $i; done",
    "until true; do echo never; done; echo $?",
    "echo $(echo sub; echo two) `echo three`; echo \"$(printf 'a\\nb\\n\\n')\"",
    "(cd /tmp; pwd; exit 7); echo $?",
    "false || echo ok && echo then; ! true; echo $?",
    "trap 'echo bye' EXIT; echo hi; exit 5",
    "trap '' TERM; kill -TERM $$; echo alive",
    "trap 'echo got' USR1; kill -USR1 $$; echo after",
    "sleep 0.01 & wait; echo done $?",
    "sh -c 'exit 9' & wait $!; echo $?",
    "echo hi > /tmp/avt-f; cat < /tmp/avt-f >> /tmp/avt-g; cat /tmp/avt-g; rm /tmp/avt-f /tmp/avt-g; ls /tmp/avt-f",
    "set -e; false; echo no",
    "set -e; false || true; if false; then :; fi; echo yes",
    "set -u; echo ${nothing-fine}",
    "{ echo a; echo b >&2; } 2>&1 | head -n 1",
    "echo 'a  b' \"c  d\" e  f",
    'a="x y"; for w in $a "$a"; do echo "<$w>"; done',
    'set -- 1 "2 3"; for w in "$@"; do echo "<$w>"; done; shift; echo $# $1',
    "yes | head -n 2",
    "read a b; echo $b-$a",
    "exec 3>&1; echo x >&3; exec >&-; echo y >&2; exit 7",
    "A=1 sh -c 'echo $A'; echo [$A]",
    "export B=2; sh -c 'echo $B'; unset B; sh -c 'echo [$B]'",
    "cd /nowhere 2>/dev/null || echo no; test 3 -gt 2 && echo more",
    "printf '%s-%d|' a 1 b 2; printf '\\101\\n'; printf '%5.2f%%\\n' 3.14159",
    "echo hi # comment\necho two \\\n three; echo a#b",
    "command -v no-such-thing || echo none",
    "seq 3 -1 1; seq 2; seq 1 2 5",
    "echo a>/dev/null; echo b 2>/dev/null 1>&2; echo ${HOME:+home}",
    "kill -KILL $$",
    "echo \"quoted \\\" \\$x\" 'single'\\''s'",
]


def _real(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["dash", "-c", script], input=b"one two\n", capture_output=True, check=False, timeout=20)


@pytest.mark.skipif(shutil.which("dash") is None, reason="there is no dash to compare with")
async def test_scripts_behave_as_with_a_real_shell() -> None:
    """Output and return code of every script are those of dash."""
    async with aio.Session(engine=FakeEngine()) as session:
        sandbox = session.sandbox()
        for script in SCRIPTS:
            real = await asyncio.to_thread(_real, script)
            fake = await sandbox.exec(["sh", "-c", script], stdin="one two\n")
            code = 128 - real.returncode if real.returncode < 0 else real.returncode
            assert (script, fake.stdout_bytes, fake.returncode) == (script, real.stdout, code)
            assert bool(fake.stderr) == bool(real.stderr), script


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("case x in x) ;; esac", "case"),
        ("f() { :; }", "functions"),
        ("cat <<EOF\nEOF", "<<"),
        ("[[ a = a ]]", "[["),
        ("echo ${x%y}", "${x%y"),
        ("echo $((1 ** 2))", "1 ** 2"),
        ("if true", "then"),
        ("echo 'open", "quote"),
        ("set -x", "set -x"),
        ("test a -nt b", "-nt"),
    ],
)
async def test_what_it_does_not_know_it_says(script: str, text: str) -> None:
    """Return code 2 and the thing by name, never a wrong result."""
    async with aio.Session(engine=FakeEngine()) as session:
        result = await session.sandbox().exec(["sh", "-c", script])
        assert result.returncode == 2
        assert text in result.stderr


async def test_scripts_are_files_too() -> None:
    """An interpreter line is followed, arguments are handed on, and a file that is no program is 126."""
    async with aio.Session(engine=FakeEngine()) as session:
        sandbox = session.sandbox()
        await sandbox.write_file("/tmp/run", "#!/bin/sh\necho $0 $1\n")
        assert (await sandbox.exec(["/tmp/run", "x"])).returncode == 126
        await sandbox.exec(["chmod", "+x", "/tmp/run"], check=True)
        assert (await sandbox.exec(["/tmp/run", "x"])).stdout == "/tmp/run x\n"
        assert (await sandbox.exec(["sh", "/tmp/run", "y"])).stdout == "/tmp/run y\n"
        result = await sandbox.exec(["no-such-program"])
        assert (result.returncode, result.stderr) == (127, "aviato: no-such-program: command not found\n")


async def test_a_killed_tree_leaves_no_process() -> None:
    """A time limit ends the shell's background jobs with it."""
    engine = FakeEngine()
    async with aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        with pytest.raises(TimeoutError):
            await sandbox.exec(["sh", "-c", "sleep 600 & (sleep 600) & sleep 600 | cat"], timeout_seconds=0.1)
        kernel = engine.machine.find(sandbox.sandbox_id).kernel
        assert len(kernel.processes) == 1  # the main command
