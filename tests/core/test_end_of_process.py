"""What happens to sandboxes when their process ends, however it ends: run as real programs on the local engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.local import require_local, sandboxes_alive

pytestmark = pytest.mark.slow

PRELUDE = """
import asyncio, os, signal, sys, threading
import aviato
from aviato import aio
"""


@pytest.fixture(autouse=True)
def _home_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the programs a state directory of their own, in which nothing is left."""
    require_local()
    with tempfile.TemporaryDirectory(prefix="aviato-") as directory:
        monkeypatch.setenv("AVIATO_HOME", directory)
        yield
        assert sandboxes_alive() == []


def start(program: str) -> subprocess.Popen[str]:
    """Start a program in a fresh interpreter."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end, bounded."""
    out, err = process.communicate(timeout=40)
    return process.returncode, out, err


ASYNC_BODY = """
async def main():
    sandbox = aio.Sandbox.run("sleep", "1000")
    await sandbox
    print(sandbox.sandbox_id, flush=True)
    {then}
asyncio.run(main())
"""
SYNC_BODY = """
sandbox = aviato.Sandbox.run("sleep", "1000")
sandbox.wait().result()
print(sandbox.sandbox_id, flush=True)
{then}
"""


@pytest.mark.parametrize("body", [ASYNC_BODY, SYNC_BODY], ids=["aio", "front"])
@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('boom')", 1),
        ("os._exit(5)", 5),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("os.kill(os.getpid(), signal.SIGHUP)", -1),
    ],
)
@pytest.mark.fault("F8", "F12")
def test_nothing_is_left_however_the_process_ends(body: str, then: str, code: int) -> None:
    """Normal end, error, sys.exit, os._exit, SIGKILL, SIGTERM, SIGHUP: the sandbox is gone soon after."""
    process = start(body.format(then=then))
    returncode, out, err = finish(process)
    assert out.startswith("sbx-"), err
    assert returncode == code, err
    if code == 0:
        assert "Traceback" not in err


@pytest.mark.parametrize("body", [ASYNC_BODY, SYNC_BODY], ids=["aio", "front"])
def test_ctrl_c_stops_everything(body: str) -> None:
    """SIGINT raises KeyboardInterrupt as usual, and the sandbox is stopped on the way out."""
    wait = "await asyncio.sleep(100)" if body is ASYNC_BODY else "threading.Event().wait(100)"
    process = start(body.format(then=wait))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("sbx-")
    process.send_signal(signal.SIGINT)
    returncode, _, err = finish(process)
    assert returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def test_an_earlier_handler_is_called_after_the_stop() -> None:
    """Our SIGTERM handler chains to the program's own."""
    process = start(
        """
        def mine(number, frame):
            print("mine", flush=True)
            os._exit(77)
        signal.signal(signal.SIGTERM, mine)
        sandbox = aviato.Sandbox.run()
        sandbox.wait().result()
        os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    returncode, out, err = finish(process)
    assert (returncode, out) == (77, "mine\n"), err


def test_handlers_can_be_switched_off() -> None:
    """With handlers disabled SIGTERM has its default effect, and the sandbox ends as an orphan."""
    process = start(
        """
        aviato.disable_signal_handlers()
        sandbox = aviato.Sandbox.run()
        sandbox.wait().result()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        print("ok", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    returncode, out, err = finish(process)
    assert (returncode, out) == (-15, "ok\n"), err


def test_a_forked_child_owns_nothing() -> None:
    """In the child an inherited handle is a ForkError, new ones work, and its end stops nothing of the parent."""
    process = start(
        """
        with aviato.Session() as session:
            sandbox = session.sandbox()
            sandbox.wait().result()
            pid = os.fork()
            if pid == 0:
                try:
                    sandbox.exec(["true"])
                except aviato.ForkError:
                    print("forked", flush=True)
                with aviato.Sandbox.run() as own:
                    print(own.exec(["echo", "own"]).result().stdout.strip(), flush=True)
                sys.exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
            print(sandbox.exec(["echo", "parent"]).result().stdout.strip(), flush=True)
        """
    )
    returncode, out, err = finish(process)
    assert (returncode, out.split()) == (0, ["forked", "own", "parent"]), err


@pytest.mark.fault("F10")
def test_two_event_loops_one_after_the_other() -> None:
    """A handle of a finished loop says so; a new loop works; nothing of the first is left."""
    process = start(
        """
        async def first():
            sandbox = aio.Sandbox.run()
            await sandbox
            return sandbox
        kept = asyncio.run(first())
        async def second():
            try:
                await kept.exec(["true"])
            except RuntimeError as error:
                assert "closed" in str(error), error
            async with aio.Sandbox.run() as sandbox:
                print((await sandbox.exec(["echo", "second"])).stdout.strip())
        asyncio.run(second())
        """
    )
    returncode, out, err = finish(process)
    assert (returncode, out.split()) == (0, ["second"]), err
