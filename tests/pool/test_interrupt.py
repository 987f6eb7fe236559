"""Ctrl-C in a program that maps over a pool: everything is stopped, and what was done is in the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.facade.script import running

pytestmark = pytest.mark.slow

SHIPPED = """
import time

def hold(seconds: float) -> None:
    time.sleep(seconds)

def count():
    yield 1
    time.sleep(1000)
"""


def test_ctrl_c_in_a_map(tmp_path: Path) -> None:
    """The exception comes out, no sandbox is left, and the pool says that it is closed."""
    path = tmp_path / "results"
    program = f"""
import aviato
from aviato.testing import FakeEngine
engine = FakeEngine()
try:
    with aviato.Session(engine=engine) as session, session.pool(2, reset="none") as pool:
        for result in pool.map(["sh", "-c", "sleep $0; echo $0", "{{}}"], [0, 0, 0, 1000, 1000], journal={str(path)!r}):
            print(result.stdout.strip())
except KeyboardInterrupt:
    print("interrupted", pool.closed, session.sandbox_count)
    with aviato.Session(engine=engine) as session:
        print(session.list().result())
"""
    with running(program, "-W", "ignore::ResourceWarning") as script:
        assert [script.line() for _ in range(3)] == ["0", "0", "0"]
        script.interrupt()
        code, output, errors = script.end()
    assert (code, output) == (0, "interrupted True 0\n[]\n"), errors
    lines = path.read_bytes().splitlines()[1:]
    assert sorted(json.loads(line.partition(b" ")[2])["i"] for line in lines) == [0, 1, 2]


def test_ctrl_c_while_a_sandbox_is_waited_for() -> None:
    """Nothing was taken, and the pool serves the next."""
    program = """
import aviato, threading
from aviato.testing import FakeEngine
with aviato.Session(engine=FakeEngine()) as session, session.pool(1) as pool:
    with pool.acquire() as sandbox:
        def tell():
            while not pool.stats().waiting:
                pass
            print("waiting")
        threading.Thread(target=tell).start()
        try:
            with pool.acquire():
                pass
        except KeyboardInterrupt:
            print("interrupted", pool.stats().waiting)
    with pool.acquire(timeout=20) as sandbox:
        print(sandbox.exec(["echo", "on"]).result().stdout.strip())
"""
    with running(program) as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "interrupted 0\non\n", "")


@pytest.mark.parametrize(
    ("call", "takes"),
    [
        ("pool.map(['sleep', '{}'], [0, 1000, 0], journal=path)", "pool.stats()"),
        ("hold.map([(0,), (1000,), (0,)])", "hold._core._calls._keeper"),
        ("count.stream()", "count._core._calls._keeper"),
    ],
)
def test_ctrl_c_in_an_iteration_that_nobody_closes(tmp_path: Path, call: str, takes: str) -> None:
    """What is at work has ended when the exception comes out, though the pool and the session go on."""
    in_use = f"{takes}.in_use" if "stats" in takes else f"len({takes}._in_use)"
    (tmp_path / "shipped.py").write_text(SHIPPED)  # functions need a source file
    program = f"""
import aviato, sys, threading, time
from aviato.testing import FakeEngine
sys.path.insert(0, {str(tmp_path)!r})
import shipped
path = {str(tmp_path / "results")!r}
session = aviato.Session(engine=FakeEngine())
pool = session.pool(1)
hold = session.function(concurrency=1)(shipped.hold)
count = session.function()(shipped.count)
results = {call}
next(results)
def tell(ref):
    while not ref._listeners:
        time.sleep(0.001)
    print("waiting")
threading.Thread(target=tell, args=(results._batches._fetch(),)).start()
try:
    next(results)
except KeyboardInterrupt:
    print("interrupted", {in_use})
print(len(list(pool.map(["sleep", "{{}}"], [0, 0, 0], journal=path))))
session.close().result()
"""
    with running(program, "-W", "error") as script:
        assert script.line() == "waiting"
        script.interrupt()
        assert script.end() == (0, "interrupted 0\n3\n", "")
