"""The facade used from a running event loop that is not its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import types
import warnings

import pytest

from aviato_sync import _runtime
from tests.facade.fixture_core import Box, Job


@pytest.fixture
def fresh_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been warned about in this process."""
    monkeypatch.setattr(_runtime, "_warned_about_running_loop", False)


async def test_await_does_not_block() -> None:
    """While a ref is awaited the caller's loop goes on."""
    box = Box()
    ref = box.block()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        for _ in range(10):
            beats += 1
            await asyncio.sleep(0)
        box.open()

    answer, _ = await asyncio.gather(_result(ref), beat())
    assert (answer, beats) == ("through", 10)
    assert await ref == "through"


async def _result(ref: object) -> object:
    return await ref  # type: ignore[misc]  # a ref


async def test_await_many_at_once() -> None:
    """Many refs are awaited together."""
    box = Box()
    assert await asyncio.gather(*(_result(box.echo(number)) for number in range(500))) == list(range(500))


async def test_cancelling_the_waiter_leaves_the_operation() -> None:
    """A cancelled awaiter ends alone; others and the operation go on."""
    box = Box()
    ref = box.block()
    waiter = asyncio.ensure_future(_result(ref))
    other = asyncio.ensure_future(_result(ref))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not ref.done()
    box.open()
    assert await other == "through"
    assert box.log == []


async def test_cancelled_operation_is_not_a_cancelled_task() -> None:
    """Awaiting an operation that was cancelled raises the error of futures, which does not end the awaiting task."""
    ref = Box().block()
    ref.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        await ref


async def test_asynchronous_context() -> None:
    """`async with` enters and leaves on the facade's loop, and hands the error over."""
    box = Box()
    async with box as entered:
        assert entered is box
    with pytest.raises(KeyError):
        async with box:
            raise KeyError("k")
    assert box.log == ["entered", "left with None", "entered", "left with KeyError('k')"]


async def test_awaiting_a_handle_gives_the_handle() -> None:
    """Awaiting an awaitable handle gives the facade object itself; a job gives its result."""
    box = Box()
    box.open()
    assert await box is box
    job: Job = box.job()
    job.finish("value")
    assert await job == "value"


async def test_blocking_warns_once(fresh_warning: None) -> None:
    """A blocking call where a loop runs says once what to write instead, at the user's line."""
    del fresh_warning
    box = Box()
    ref = box._start(asyncio.sleep, 0.01)
    with pytest.warns(RuntimeWarning, match="write `await ref` instead") as caught:
        ref.result()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        box._start(asyncio.sleep, 0.01).result()


async def test_blocking_in_a_notebook_is_normal(fresh_warning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython runs every cell on a loop, so that nothing is to be warned about there."""
    del fresh_warning
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = object  # type: ignore[attr-defined]  # as IPython has it
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    Box()._start(asyncio.sleep, 0.01).result()


def test_loop_that_ended_before_the_operation() -> None:
    """A loop that was closed while it awaited does not harm the facade."""
    box = Box()
    ref = box.block()

    async def wait_a_little() -> None:
        asyncio.ensure_future(_result(ref)).add_done_callback(lambda task: task.cancelled())
        await asyncio.sleep(0)

    asyncio.run(wait_a_little())
    box.open()
    assert ref.result() == "through"
