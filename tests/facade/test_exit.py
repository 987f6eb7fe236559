"""The end of the interpreter: bounded, and silent."""

from __future__ import annotations

import pytest

from tests.facade.script import run

pytestmark = [pytest.mark.slow, pytest.mark.fault("F12")]

START = """
import atexit, os, sys, threading, time
from tests.facade.fixture_core import Box
box = Box()
"""

ENDS = {
    "end of the program": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "sys.exit in a thread": ("t = threading.Thread(target=sys.exit); t.start(); t.join()", 0),
}


@pytest.mark.parametrize("end", ENDS, ids=list(ENDS))
@pytest.mark.parametrize("options", [(), ("-W", "always")], ids=["plain", "all warnings"])
def test_operations_under_way_do_not_matter(end: str, options: tuple[str, ...]) -> None:
    """With operations, callbacks, readers and waiting daemon threads about, a program ends as it should, silently."""
    statement, code = ENDS[end]
    program = f"""{START}
kept = [box.block() for _ in range(20)]
for ref in kept:
    ref.add_done_callback(print)
box.block()
job = box.job()
loop = iter(box.reader(10))
next(loop)
threading.Thread(target=kept[0].result, daemon=True).start()
{statement}
"""
    assert run(program, *options) == (code, "", "")


def test_exception_of_the_program() -> None:
    """A program that fails prints its own traceback and nothing else."""
    code, output, errors = run(f"{START}\nbox.block()\nraise SystemError('mine')\n")
    assert (code, output) == (1, "")
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("SystemError: mine")


def test_threads_that_wait_are_waited_for() -> None:
    """A thread that is not a daemon gets its result although the main thread has ended."""
    program = f"""{START}
ref = box._start(__import__("asyncio").sleep, 0.1, "late")
threading.Thread(target=lambda: print(ref.result())).start()
"""
    assert run(program) == (0, "late\n", "")


def test_use_in_an_exit_hook() -> None:
    """A hook of the program that was registered after the import may use the facade."""
    program = f"""{START}
atexit.register(lambda: print(box.echo("still").result()))
"""
    assert run(program) == (0, "still\n", "")


def test_use_after_our_exit_hook() -> None:
    """A hook that runs when nothing can be done any more gets an error instead of waiting for ever."""
    program = """
import atexit
def late():
    for call in (lambda: box.echo(1), pending.result, lambda: Box().open()):
        try:
            call()
        except RuntimeError as error:
            print(error)
atexit.register(late)
from tests.facade.fixture_core import Box
box = Box()
pending = box.block()
"""
    expected = "the interpreter is ending: aviato can start nothing any more\n"
    assert run(program) == (0, expected * 3, "")


def test_blocked_loop_does_not_hold_up_the_exit() -> None:
    """A loop that does not come back is left alone after a bounded time."""
    program = f"""{START}
from aviato_sync import _runtime
_runtime.PARK_SECONDS = 0.2
box._start(__import__("asyncio").sleep, 0).result()
entered = threading.Event()
async def hang():
    entered.set()
    threading.Event().wait()
box._start(hang)
entered.wait()
"""
    assert run(program) == (0, "", "")


def test_unobserved_failure_is_said_once() -> None:
    """A failure that nobody looked at is said on stderr with the place, in one line."""
    program = f"""{START}
ref = box.fail(ValueError("unseen"))
while not ref.done():
    time.sleep(0.001)
del ref
"""
    code, output, errors = run(program)
    assert (code, output) == (0, "")
    (line,) = errors.splitlines()
    assert "nobody looked at it: ValueError: unseen" in line


def test_dead_loop_thread_is_reported() -> None:
    """When the loop dies, those who wait get an error with its cause, and so does every later use."""
    program = f"""{START}
import logging
logging.getLogger("aviato").setLevel(logging.CRITICAL + 1)
ref = box.block()
def die():
    raise SystemExit("broken")
box._home.loop.call_soon_threadsafe(die)
for call in (ref.result, lambda: box.echo(1).result()):
    try:
        call()
    except RuntimeError as error:
        print(error, "-", repr(error.__cause__))
"""
    expected = "the loop thread of aviato died of SystemExit: broken - SystemExit('broken')\n"
    assert run(program) == (0, expected * 2, "")
