"""Many threads at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from aviato_sync import OperationRef, _runtime, results
from tests.facade.fixture_core import Box


def test_one_loop_thread_for_all() -> None:
    """Threads that come at the same time share one loop, which is a daemon with a name."""
    with ThreadPoolExecutor(16) as pool:
        homes = set(pool.map(lambda _: _runtime.home(), range(64)))
    (home,) = homes
    assert home.thread.daemon
    assert home.thread.name == "aviato-loop"
    assert Box()._core.loop_thread == "aviato-loop"


def test_calls_from_many_threads() -> None:
    """Every thread gets its own answers, thousands of them."""
    box = Box()

    def ask(thread: int) -> bool:
        wanted = [(thread, number) for number in range(300)]
        return results([box.echo(item) for item in wanted]) == wanted

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(16)))


def test_one_ref_waited_for_by_many() -> None:
    """All who wait for one ref get its value, also those who give up earlier leave it alone."""
    box = Box()
    ref = box.block()
    started = threading.Barrier(17)

    def wait(patience: float | None) -> str:
        started.wait()
        try:
            return ref.result(patience)
        except TimeoutError:
            return "gave up"

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(wait, 0.0 if number % 2 else None) for number in range(16)]
        started.wait()
        gave_up = [waiting[number].result() for number in range(1, 16, 2)]
        box.open()
        values = [waiting[number].result() for number in range(0, 16, 2)]
    assert set(gave_up) == {"gave up"}
    assert set(values) == {"through"}


def test_settling_races_with_waiting() -> None:
    """A ref that settles while it is waited for is never missed."""
    box = Box()
    for _ in range(3000):
        assert box.echo(1).result(timeout=20) == 1


def test_callbacks_race_with_settling() -> None:
    """A callback is called exactly once, however close to the end it is added."""
    box = Box()
    calls: list[OperationRef[int]] = []
    refs = []
    for number in range(2000):
        ref = box.echo(number)
        ref.add_done_callback(calls.append)
        refs.append(ref)
    results(refs)
    flushed = threading.Event()
    _runtime.callbacks.submit(flushed.set)
    assert flushed.wait(20)
    assert len(calls) == 2000
    assert set(calls) == set(refs)
