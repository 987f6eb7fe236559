"""Context variables flow into the loop, and nothing flows back."""

from __future__ import annotations

import threading

from tests.facade.fixture_core import Box, variable


def test_visible_in_coroutines_and_plain_calls() -> None:
    """What the caller has set is seen by what runs for it, as it was at the call."""
    box = Box()
    token = variable.set("mine")
    try:
        ref = box.gather()
        variable.set("later")
        assert ref.result() == "mine"
        assert box.context() == "later"
    finally:
        variable.reset(token)
    assert box.context() == "unset"


def test_visible_in_callbacks() -> None:
    """A callback sees what was set where it was added."""
    box = Box()
    ref = box.block()
    seen: list[str] = []
    called = threading.Event()
    token = variable.set("added")

    def note(_: object) -> None:
        seen.append(variable.get())
        called.set()

    ref.add_done_callback(note)
    variable.reset(token)
    box.open()
    assert called.wait(10)
    assert seen == ["added"]


def test_nothing_flows_back() -> None:
    """What an operation sets is not seen by its caller."""

    async def change() -> None:
        variable.set("theirs")

    Box()._start(change).result()
    assert variable.get() == "unset"
