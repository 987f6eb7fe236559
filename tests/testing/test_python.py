"""The fake `python`: the sandbox's own files, streams and environment, and it can be killed."""

from __future__ import annotations

import sys
import threading

import pytest

from aviato import aio
from aviato.testing import FakeEngine


@pytest.mark.parametrize(
    ("code", "output", "returncode"),
    [
        ("print(1 + 1)", "2\n", 0),
        ("import sys; sys.exit(5)", "", 5),
        ("raise SystemExit", "", 0),
        ("import sys; print(sys.argv)", "['-c', 'a']\n", 0),
        ("import os; print(os.getcwd(), os.environ['X'], os.path.exists('/work'))", "/tmp 1 False\n", 0),
        ("open('f', 'w').write('hey'); print(open('/tmp/f').read(), end='')", "hey", 0),
        ("import json, os; os.makedirs('/a/b/c'); print(json.dumps(os.listdir('/a')))", '["b"]\n', 0),
        ("import time; time.sleep(0.001); print('slept')", "slept\n", 0),
        ("import os; os.kill(os.getpid(), 9)", "", 137),
        ("print(input('? '))", "? given\n", 0),
        ("with open('/tmp/g', 'w+b') as f: f.write(b'abc'); f.seek(1); print(f.read())", "b'bc'\n", 0),
        ("import os; n = os.open('/tmp/h', os.O_WRONLY | os.O_CREAT); os.write(n, b'x'); os.close(n)", "", 0),
    ],
)
async def test_code_runs(code: str, output: str, returncode: int) -> None:
    """Output and return code are those of an interpreter in the sandbox."""
    async with aio.Session(engine=FakeEngine()) as session:
        process = session.sandbox().exec(["python3", "-c", code, "a"], env={"X": "1"}, cwd="/tmp", stdin="given\n")
        result = await process
        assert (result.stdout, result.stderr, result.returncode) == (output, "", returncode)


@pytest.mark.parametrize(
    ("code", "text"), [("1/0", "ZeroDivisionError"), ("x =", "SyntaxError"), ("open('/no')", "/no")]
)
async def test_errors_are_tracebacks(code: str, text: str) -> None:
    """Return code 1 and the error on stderr, without a frame of ours."""
    async with aio.Session(engine=FakeEngine()) as session:
        result = await session.sandbox().exec(["python", "-c", code])
        assert result.returncode == 1
        assert text in result.stderr
        assert "exec(code" not in result.stderr


async def test_large_output_waits_for_its_reader() -> None:
    """Bytes arrive complete though the pipe holds less."""
    async with aio.Session(engine=FakeEngine()) as session:
        code = "import sys; sys.stdout.buffer.write(b'\\xff' * 3_000_000)"
        assert (await session.sandbox().exec(["python", "-c", code])).stdout_bytes == b"\xff" * 3_000_000


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(600)", "input()"])
async def test_it_can_be_killed(code: str) -> None:
    """Computing, sleeping or reading: it ends, its thread too, and the sandbox goes on."""
    async with aio.Session(engine=FakeEngine()) as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["python", "-c", f"print('on', flush=True)\n{code}"], stdin=True)
        assert await anext(aiter(process.stdout)) == "on\n"
        process.kill()
        assert (await process).returncode == 137
        assert (await sandbox.exec(["python", "-c", "print('next')"])).stdout == "next\n"
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("aviato-fake")] == []


async def test_this_process_is_untouched() -> None:
    """What the code sets in sys, os and time stays there."""
    before = sys.argv
    async with aio.Session(engine=FakeEngine()) as session:
        code = "import sys, os; sys.argv = []; sys.stdout.marker = 1; os.environ['LEAK'] = '1'; sys.modules.clear()"
        assert (await session.sandbox().exec(["python", "-c", code])).returncode == 0
    assert sys.argv is before
    assert sys.modules
