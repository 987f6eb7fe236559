"""A forked child owns nothing of its parent's, and works by itself."""

from __future__ import annotations

import pytest

from tests.facade.script import run

pytestmark = [pytest.mark.slow, pytest.mark.fault("F9")]

START = """
import asyncio, gc, os, sys
from aviato.exceptions import ForkError
from tests.facade.fixture_core import Box
box = Box()
pending, finished = box.block(), box.echo("known")
finished.result()

def child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException as error:
            print(type(error).__name__, error)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def refused(call):
    try:
        call()
    except ForkError as error:
        assert "parent of this forked process" in str(error), error
    else:
        raise AssertionError("not refused")
"""


def test_inherited_handles_are_refused_at_once() -> None:
    """Every use of a handle or of a pending ref raises `ForkError` in the child, and the parent's go on."""
    program = f"""{START}
def inside():
    refused(box.open)
    refused(lambda: box.echo(1))
    refused(pending.result)
    refused(pending.cancel)
    refused(lambda: pending.add_done_callback(print))
    refused(lambda: asyncio.run(awaiting()))
    assert finished.result() == "known"
    gc.collect()

async def awaiting():
    await pending

child(inside)
box.open()
print(pending.result())
"""
    assert run(program) == (0, "through\n", "")


def test_new_handles_work_in_the_child() -> None:
    """The child gets a loop of its own."""
    program = f"""{START}
def inside():
    mine = Box()
    called = []
    import threading
    event = threading.Event()
    ref = mine.block()
    ref.add_done_callback(lambda _: event.set())
    mine.open()
    assert ref.result() == "through"
    assert event.wait(10)
    grandchild = lambda: refused(mine.open)
    child(grandchild)

pending.add_done_callback(lambda _: None)
child(inside)
box.open()
pending.result()
"""
    assert run(program) == (0, "", "")


def test_forking_while_other_threads_work() -> None:
    """Forking again and again in the middle of traffic leaves neither a child nor the parent stuck."""
    program = f"""{START}
import threading
stop = threading.Event()
def traffic():
    while not stop.is_set():
        box.echo(1).result()
threads = [threading.Thread(target=traffic) for _ in range(4)]
for thread in threads:
    thread.start()
for number in range(20):
    child(lambda: Box().echo(number).result())
stop.set()
for thread in threads:
    thread.join()
print(box.echo("alive").result())
"""
    assert run(program) == (0, "alive\n", "")


def test_exit_of_the_child_touches_nothing() -> None:
    """A child that ends with `sys.exit` runs its exit hooks without noise, and the parent's loop goes on."""
    program = f"""{START}
pid = os.fork()
if pid == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
box.open()
print(pending.result())
"""
    assert run(program, "-W", "always") == (0, "through\n", "")


def test_multiprocessing_by_fork() -> None:
    """A pool of forked workers can use the facade."""
    program = """
import multiprocessing
from tests.facade.fixture_core import Box
box = Box()
box.echo(0).result()

def work(number):
    return Box().echo(number).result()

with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(work, range(6)))
print(box.echo("alive").result())
"""
    assert run(program) == (0, "[0, 1, 2, 3, 4, 5]\nalive\n", "")
