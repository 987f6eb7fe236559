"""Ctrl-C while a thread is blocked: real signals in real processes."""

from __future__ import annotations

import signal

import pytest

from tests.facade.script import running

pytestmark = [pytest.mark.slow, pytest.mark.fault("F8")]

START = """
import threading, time
from tests.facade.fixture_core import Box
from aviato_sync import results, wait, as_completed
box = Box()

def announce(ref):
    # print a line when somebody waits for the ref
    def watch():
        while not ref._listeners:
            time.sleep(0.001)
        print("waiting")
    threading.Thread(target=watch).start()
"""


def test_cancels_waits_for_the_clean_up_and_raises() -> None:
    """The operation is cancelled, its clean-up has run, and `KeyboardInterrupt` comes out."""
    program = f"""{START}
ref = box.block()
announce(ref)
try:
    ref.result()
except KeyboardInterrupt:
    print("interrupted", box.log, ref.cancelled())
print(box.echo("usable").result())
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "interrupted ['cancelled', 'cleaned'] True\nusable\n", "")


def test_results_cancel_all() -> None:
    """Interrupted `results` cancel every ref that is not done."""
    program = f"""{START}
refs = [box.block() for _ in range(3)]
try:
    announce(refs[-1])
    results([box.echo(1), *refs])
except KeyboardInterrupt:
    print([ref.cancelled() for ref in refs], box.log.count("cleaned"))
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "[True, True, True] 3\n", "")


@pytest.mark.parametrize("call", ["wait([ref])", "list(as_completed([ref]))"])
def test_watching_cancels_nothing(call: str) -> None:
    """Interrupted `wait` and `as_completed` only end the waiting."""
    program = f"""{START}
ref = box.block()
announce(ref)
try:
    {call}
except KeyboardInterrupt:
    print(ref.done())
box.open()
print(ref.result())
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "False\nthrough\n", "")


def test_second_one_gives_up_at_once() -> None:
    """While a stuck clean-up is waited for, a second Ctrl-C ends the waiting."""
    program = f"""{START}
import asyncio
class Stuck:
    async def block(self):
        try:
            await asyncio.sleep(3600)
        finally:
            print("cleaning", flush=True)
            await asyncio.sleep(3600)
ref = box._start(Stuck().block)
begin = time.monotonic()
announce(ref)
try:
    ref.result()
except KeyboardInterrupt:
    print(ref.done(), time.monotonic() - begin < 4)
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.line() == "cleaning"
        script.interrupt()
        assert script.end() == (0, "False True\n", "")


def test_stuck_clean_up_is_bounded() -> None:
    """A clean-up that never ends holds Ctrl-C up for a bounded time only."""
    program = f"""{START}
import asyncio
from aviato_sync import _operation
_operation.CLEANUP_SECONDS = 0.2
class Stuck:
    async def block(self):
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(3600)
ref = box._start(Stuck().block)
announce(ref)
try:
    ref.result()
except KeyboardInterrupt:
    print("interrupted", ref.done())
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "interrupted False\n", "")


def test_unhandled_ends_the_program_as_usual() -> None:
    """Without a handler the program ends by SIGINT with one traceback, and without noise of the loop."""
    program = f"""{START}
ref = box.block()
announce(ref)
ref.result()
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        code, _, errors = script.end()
    assert code == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_iterating() -> None:
    """Ctrl-C in a loop over a reader ends the loop; the reader can be read on."""
    program = f"""{START}
async def never(limit):
    await box._core.gate.wait()
    return [42] if limit else []
reader = box.reader(0)
reader._core.read_batch = never
announce(reader._batches._fetch())
try:
    for item in reader:
        print(item)
except KeyboardInterrupt:
    print("interrupted")
box.open()
print(next(reader))
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "interrupted\n42\n", "")


ENDLESS = f"""{START}
import asyncio, signal
from aviato_sync._iterators import BlockingIterator
log = []
async def endless():
    try:
        yield 1
        await asyncio.sleep(3600)
    finally:
        print("cleaning", flush=True)
        await clean()
        log.append("closed")
items = BlockingIterator(box._home, endless)
assert next(items) == 1

def interrupted(*expected):
    announce(items._batches._fetch())
    begin = time.monotonic()
    try:
        next(items)
    except expected as error:
        print(type(error).__name__, log, time.monotonic() - begin < 4)
"""
"""Waits for an item that never comes."""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "LookupError"])
def test_what_makes_the_items_is_stopped(error: str) -> None:
    """An iterator is closed, and its clean-up over, when Ctrl-C or what a signal handler raises comes out of `next`."""
    program = f"""{ENDLESS}
async def clean():
    await asyncio.sleep(0.01)
def handler(*_):
    raise {error}
signal.signal(signal.SIGINT, handler)
interrupted({error})
print(list(items))
items.close().result()
print(log, box.echo("usable").result())
"""
    with running(program, "-W", "error") as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, f"cleaning\n{error} ['closed'] True\n[]\n['closed'] usable\n", "")


def test_second_one_gives_the_items_up_at_once() -> None:
    """While the clean-up of an iterator is waited for, a second Ctrl-C ends the waiting; closing it does not hit it."""
    program = f"""{ENDLESS}
may_end = asyncio.Event()
async def clean():
    await may_end.wait()
interrupted(KeyboardInterrupt)
closing = items.close()
box._home.call(may_end.set)
closing.result()
print(log)
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.line() == "cleaning"
        script.interrupt()
        assert script.end() == (0, "KeyboardInterrupt [] True\n['closed']\n", "")


def test_stuck_clean_up_of_the_items_is_bounded() -> None:
    """One that never ends holds Ctrl-C up for a bounded time only."""
    program = f"""{ENDLESS}
from aviato_sync import _operation
_operation.CLEANUP_SECONDS = 0.2
async def clean():
    await asyncio.sleep(3600)
interrupted(KeyboardInterrupt)
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "cleaning\nKeyboardInterrupt [] True\n", "")
