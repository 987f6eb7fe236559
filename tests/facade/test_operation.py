"""`OperationRef`, `results`, `wait` and `as_completed`."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import weakref

import pytest

import aviato_sync
from aviato_sync import OperationRef, as_completed, results, wait
from aviato_sync._tracebacks import describe
from tests.facade import fixture_core
from tests.facade.fixture_core import Box


def test_result_many_times() -> None:
    """A ref gives its value as often as it is asked."""
    ref = Box().echo(3)
    assert [ref.result(), ref.result(timeout=0), ref.exception()] == [3, 3, None]
    assert ref.done()
    assert not ref.cancelled()


def test_refs_are_not_made_by_hand() -> None:
    """The constructor says where refs come from."""
    with pytest.raises(TypeError, match="returned by the methods"):
        OperationRef()


def test_handles_without_a_public_constructor() -> None:
    """A handle that others return cannot be made."""
    with pytest.raises(TypeError, match="StreamWriter objects are returned"):
        aviato_sync.StreamWriter()


def test_error_is_the_same_object() -> None:
    """`result` and `exception` give the very error that was raised."""
    error = ValueError("no")
    ref = Box().fail(error)
    assert ref.exception() is error
    with pytest.raises(ValueError, match="no") as caught:
        ref.result()
    assert caught.value is error


def test_timeout_only_ends_the_waiting() -> None:
    """After a `TimeoutError` the operation goes on and can be waited for again."""
    box = Box()
    ref = box.block()
    with pytest.raises(TimeoutError, match=r"not done within 0\.01 s; it goes on"):
        ref.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        ref.exception(timeout=0)
    box.open()
    assert ref.result(timeout=10) == "through"


def test_cancel_counts_after_the_clean_up() -> None:
    """A cancelled operation has run its clean-up when it counts as cancelled, and cancelling twice does not hurt it."""
    box = Box()
    ref = box.block()
    assert ref.cancel()
    assert ref.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        ref.result()
    assert ref.cancelled()
    assert not ref.cancel()
    assert box.log == ["cancelled", "cleaned"]
    with pytest.raises(concurrent.futures.CancelledError):
        ref.exception()


def test_cancelled_is_an_ordinary_exception() -> None:
    """`except Exception` catches a cancelled operation."""
    ref = Box().block()
    ref.cancel()
    with pytest.raises(Exception, match="was cancelled") as caught:
        ref.result()
    assert isinstance(caught.value, Exception)


def test_operation_that_completes_nevertheless() -> None:
    """An operation that completes in spite of a cancellation keeps its result."""
    ref = Box().stubborn()
    ref.cancel()
    assert ref.result() == "completed nevertheless"
    assert not ref.cancelled()


def test_done_callback_on_a_thread_of_its_own() -> None:
    """A callback gets the ref and runs neither on the loop nor, being late, anywhere else than here."""
    box = Box()
    ref = box.block()
    seen: list[tuple[OperationRef[str], str]] = []
    called = threading.Event()

    def note(done: OperationRef[str]) -> None:
        seen.append((done, threading.current_thread().name))
        called.set()

    ref.add_done_callback(note)
    box.open()
    assert called.wait(10)
    assert seen == [(ref, "aviato-callbacks")]
    ref.add_done_callback(note)
    assert seen[1] == (ref, threading.current_thread().name)


def test_done_callback_may_block_on_a_ref() -> None:
    """A callback may use the facade, for it is not on the loop."""
    box = Box()
    ref = box.block()
    answers: list[int] = []
    called = threading.Event()

    def ask(_: object) -> None:
        answers.append(box.echo(5).result())
        called.set()

    ref.add_done_callback(ask)
    box.open()
    assert called.wait(10)
    assert answers == [5]


def test_failing_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a callback is logged and harms nobody."""
    ref = Box().echo(1)
    ref.result()
    ref.add_done_callback(lambda _: 1 / 0)
    assert "a done-callback of an operation failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_callback_must_be_callable() -> None:
    """What cannot be called is refused at the call."""
    with pytest.raises(TypeError, match="callback must be a function"):
        Box().echo(1).add_done_callback(3)  # type: ignore[arg-type]  # the mistake under test


def test_unobserved_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that nobody looked at is logged with the place where the operation was started."""
    box = Box()
    ref = box.fail(ValueError("unseen"))
    wait([box.echo(1)])
    while not ref.done():
        wait([box.echo(1)])
    with caplog.at_level(logging.ERROR, "aviato"):
        del ref
        gc.collect()
    (record,) = [record for record in caplog.records if "nobody looked" in record.message]
    assert f"started at {fixture_core.__file__}:" in record.message
    assert "ValueError: unseen" in record.message


def test_observed_failure_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that was looked at is nobody else's business."""
    Box().fail(ValueError("seen")).exception()
    gc.collect()
    assert caplog.records == []


def test_ref_does_not_keep_its_arguments() -> None:
    """A settled ref holds its value and not what the operation worked on."""
    box = Box()
    ref = box.echo([])
    ref.result()
    assert ref._arguments is None
    assert ref._function is None


def test_dropped_ref_goes_on() -> None:
    """An operation whose ref is dropped is not collected with it, but after its end."""
    box = Box()
    dropped = weakref.ref(box.block())
    gc.collect()
    assert dropped() is not None
    box.open()
    while dropped() is not None:
        wait([box.echo(1)])
        gc.collect()
    assert box.log == []


def test_blocking_on_the_loop_thread_raises() -> None:
    """On the loop's own thread a blocking call raises at once instead of waiting for itself."""
    box = Box()
    ref = box.block()
    caught: list[RuntimeError] = []

    def block() -> None:
        try:
            ref.result()
        except RuntimeError as error:
            caught.append(error)

    box._call(block)
    box.open()
    ref.result()
    assert "would never end" in str(caught[0])


def test_repr_tells_state_and_origin() -> None:
    """The repr says how far it is and where it was started."""
    box = Box()
    ref = box.block()
    assert repr(ref).startswith(f"<OperationRef pending, started at {fixture_core.__file__}:")
    box.open()
    ref.result()
    assert "done" in repr(ref)
    assert repr(box) == "<Box box>"


def test_order_of_calls_is_kept() -> None:
    """A plain call takes effect after the operations that were started before it."""
    box = Box()
    refs = [box.echo(number) for number in range(50)]
    box.open()
    assert all(ref.done() for ref in refs)


def test_plain_call_raises_at_the_call() -> None:
    """An error of a plain method is raised where it is called, and a constructor's too."""
    with pytest.raises(ValueError, match="exploded"):
        Box().explode()
    with pytest.raises(ValueError, match="name must not be empty"):
        Box("")


def test_results_in_the_order_of_the_input() -> None:
    """`results` gives a value for a ref, a list for several, and nothing for none."""
    box = Box()
    assert results(box.echo(7)) == 7
    assert results([]) == []
    assert results(box.echo(number) for number in range(100)) == list(range(100))


def test_results_raise_the_first_failure_to_happen() -> None:
    """The first failure in time wins, at once, and the others go on."""
    box, other = Box(), Box()
    blocked = box.block()
    late = other.job()
    early = other.job()
    early.fail(ValueError("early"))
    late.fail(ValueError("late"))
    with pytest.raises(ValueError, match="early"):
        results([blocked, late, early])
    assert not blocked.done()
    box.open()
    assert blocked.result() == "through"
    late.exception()


def test_results_wake_at_a_failure() -> None:
    """A failure ends the waiting although others are not done."""
    box = Box()
    blocked, job = box.block(), box.job()
    timer = threading.Timer(0.05, job.fail, [ValueError("meanwhile")])
    timer.start()
    with pytest.raises(ValueError, match="meanwhile"):
        results([blocked, job])
    box.open()
    blocked.result()
    timer.join()


@pytest.mark.parametrize("function", [results, wait, as_completed])
def test_wrong_things_to_wait_for(function: object) -> None:
    """What is not a ref or a handle is refused with its value."""
    with pytest.raises(TypeError, match="must hold sandboxes, processes and other OperationRefs, not 3"):
        function([3])  # type: ignore[operator]  # the mistake under test


@pytest.mark.parametrize("function", [wait, as_completed])
def test_one_instead_of_several(function: object) -> None:
    """A single ref is refused with the right spelling."""
    with pytest.raises(TypeError, match=r"write \[it\]"):
        function(Box().echo(1))  # type: ignore[operator]  # the mistake under test


def test_wait_partitions_the_same_objects() -> None:
    """`wait` gives back the objects, done in the order of completion; a failed one is done, nothing is raised."""
    box = Box()
    first, second, third = box.job(), box.job(), box.job()
    blocked = box.block()
    second.finish("2")
    first.fail(ValueError("1"))
    done, pending = wait([first, blocked, second, third], num_returns=2)
    assert done == [second, first]
    assert pending == [blocked, third]
    done, pending = wait([blocked, third], timeout=0.01)
    assert (done, pending) == ([], [blocked, third])
    box.open()
    third.finish("3")
    assert wait([blocked, third])[1] == []
    assert wait([]) == ([], [])


def test_wait_for_an_awaitable_handle() -> None:
    """A handle counts when awaiting it would be over, and is left alone when it is not."""
    box, other = Box(), Box()
    box.open()
    assert wait([other, box], num_returns=1) == ([box], [other])
    assert wait([other], timeout=0) == ([], [other])
    other.open()
    assert wait([other]) == ([other], [])


def test_wait_refuses_less_than_one() -> None:
    """`num_returns` starts at 1."""
    with pytest.raises(ValueError, match="num_returns must be at least 1, got 0"):
        wait([], num_returns=0)


def test_as_completed_in_the_order_of_completion() -> None:
    """What is done comes first, in its order, then the rest as it is done."""
    box = Box()
    jobs = [box.job() for _ in range(4)]
    jobs[2].finish("c")
    jobs[0].fail(ValueError("a"))
    iterator = as_completed(jobs)
    assert [next(iterator), next(iterator)] == [jobs[2], jobs[0]]
    jobs[3].finish("d")
    assert next(iterator) is jobs[3]
    jobs[1].finish("b")
    assert list(iterator) == [jobs[1]]


def test_as_completed_gives_up_in_time() -> None:
    """When `timeout` passes first, the error says how many were not done."""
    box = Box()
    blocked = box.block()
    iterator = as_completed([blocked, box.echo(1)], timeout=0.05)
    next(iterator)
    with pytest.raises(TimeoutError, match=r"1 of 2 were not done within 0\.05 s"):
        next(iterator)
    box.open()
    blocked.result()


def test_handle_that_is_a_ref() -> None:
    """An awaitable handle with a result is an `OperationRef` in every respect."""
    box = Box()
    job = box.job()
    assert isinstance(job, OperationRef)
    assert not job.done()
    job.finish("value")
    assert (job.result(), job.done(), results([job])) == ("value", True, ["value"])
    assert describe(job._origin).startswith(fixture_core.__file__)
    cancelled = box.job()
    assert cancelled.cancel()
    assert cancelled.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result()


def test_identity_of_handles() -> None:
    """One core object has one facade object, and a dropped one leaves nothing behind."""
    box = Box()
    child = box.make_child()
    assert box.make_child() is child
    assert box.children().result() == [child, box]
    assert len({child, box.make_child()}) == 1
    kept = child._core
    del child
    gc.collect()
    assert box.make_child()._core is kept
