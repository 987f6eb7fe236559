"""How calls run: in forks of a warm interpreter, with what they print and yield as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aviato import aio
from aviato.exceptions import (
    SandboxError,
    SandboxExecutionError,
)
from tests.helpers.fakes import interpreters_ended

COUNT = [0]


def top() -> str:
    """Name what it defines."""
    return (lambda: None).__qualname__


@pytest.fixture
async def session(engine: Any) -> AsyncIterator[aio.Session]:
    """A session on each engine."""
    async with aio.Session(engine=engine) as session:
        yield session
    await interpreters_ended()


@pytest.fixture
async def real(local_engine: None) -> AsyncIterator[aio.Session]:
    """A session on the local engine, for what takes real processes."""
    async with aio.Session(engine="local") as session:
        yield session


async def test_nothing_stays_between_calls(session: aio.Session) -> None:
    """A call does not see what another did to globals, in the same sandbox."""

    @session.function(concurrency=1)
    def count() -> int:
        COUNT[0] += 1
        return COUNT[0]

    assert [await count.remote() for _ in range(3)] == [1, 1, 1]
    assert session.sandbox_count == 1


async def test_everything_stays_where_it_was_asked_for(session: aio.Session) -> None:
    """`fresh=False` keeps one interpreter for the calls of a sandbox, also after one that raised."""

    @session.function(concurrency=1, fresh=False)
    def count(fail: bool = False) -> int:
        COUNT[0] += 1
        if fail:
            raise ValueError(COUNT[0])
        return COUNT[0]

    assert [await count.remote() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(SandboxExecutionError, match="ValueError: 4") as caught:
        await count.remote(fail=True)
    assert caught.value.exception_class is ValueError
    assert await count.remote() == 5


async def test_a_class_that_is_not_builtin_has_only_a_name(session: aio.Session) -> None:
    """Nothing is looked up by a name that a sandbox gives, but builtins."""

    class OwnError(Exception):
        """An error of the function's own."""

    @session.function
    def fail() -> None:
        raise OwnError("why")

    with pytest.raises(SandboxExecutionError) as caught:
        await fail.remote()
    assert (caught.value.exception_type, caught.value.exception_class) == (
        "test_a_class_that_is_not_builtin_has_only_a_name.<locals>.OwnError",
        None,
    )


async def test_names_are_those_of_the_source(session: aio.Session) -> None:
    """What a function or class defines is named by where that was, as at home; so are methods and lambdas."""

    class Outer:
        """A class that travels."""

        def method(self) -> str:
            return self.method.__qualname__

    @session.function
    def names(fail: bool) -> list[str]:
        class InnerError(Exception):
            """A class of the call."""

        def inner() -> str:
            return inner.__qualname__

        if fail:
            raise InnerError(inner())
        return [InnerError.__qualname__, inner(), Outer().method(), (lambda: None).__qualname__]

    assert await names.remote(False) == names.local(False)
    with pytest.raises(SandboxExecutionError) as caught:
        await names.remote(True)
    own = "test_names_are_those_of_the_source.<locals>.names.<locals>.InnerError"
    assert caught.value.exception_type == own
    assert f".{own}: " in caught.value.__notes__[0].splitlines()[-1]
    plain = session.function(top)
    assert await plain.remote() == top() == "top.<locals>.<lambda>"


async def test_items_come_one_by_one(session: aio.Session) -> None:
    """A generator's items are there before it ends, typed by its annotation, and its error comes after them."""

    @session.function(concurrency=1)
    def numbers(count: int, fail: bool = False) -> Iterator[tuple[int, int]]:
        print("begun")
        for number in range(count):
            yield number, number**2
        if fail:
            raise KeyError("end")

    @session.function(concurrency=1)
    async def later(count: int) -> AsyncIterator[int]:
        for number in range(count):
            await asyncio.sleep(0)
            yield number

    assert [item async for item in numbers.stream(3)] == [(0, 0), (1, 1), (2, 4)]
    assert [item async for item in later.stream(2)] == [0, 1]
    items = []
    with pytest.raises(SandboxExecutionError, match="KeyError") as caught:
        async for item in numbers.stream(2, fail=True):
            items.append(item)  # noqa: PERF401 - those before the error are looked at
    assert items == [(0, 0), (1, 1)]
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.stdout == "begun\n"
    with pytest.raises(TypeError, match=r"use stream\(\)"):
        await numbers.remote(1)


async def test_a_stream_may_be_left(session: aio.Session) -> None:
    """Leaving an endless generator ends it, and the same sandbox serves the next call."""

    @session.function(concurrency=1)
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    for _ in range(2):
        async for item in (stream := endless.stream()):
            if item == 5:
                break
        await stream.aclose()
    assert session.sandbox_count == 1

    @session.function
    def plain() -> int:
        return 1

    wrong: Any = plain  # a type checker sees the slip
    with pytest.raises(TypeError, match=r"use remote\(\)"):
        [item async for item in wrong.stream()]


async def test_a_slow_taker_holds_the_generator_up(real: aio.Session) -> None:
    """Items that nobody takes do not pile up: the generator waits."""

    @real.function(concurrency=1)
    def much(path: str) -> Iterator[bytes]:
        for number in range(300):
            with open(path, "w") as file:  # noqa: PTH123 - runs in the sandbox
                file.write(str(number))
            yield b"x" * 100_000

    sandbox = None
    size = 0
    async for item in much.stream("/tmp/at"):
        size += len(item)
        if sandbox is None:
            (sandbox,) = await real.list()
            await asyncio.sleep(0.3)  # long enough to write all of it, if nothing held it
            assert int(await sandbox.read_file("/tmp/at")) < 100
    assert size == 300 * 100_000


async def test_a_stream_that_is_full_may_be_left(real: aio.Session) -> None:
    """Also when the generator waits with more than anybody will take: its sandbox serves the next call."""

    @real.function(concurrency=1)
    def much() -> Iterator[bytes]:
        while True:
            yield b"x" * 3_000_000

    seen: set[str] = set()
    for _ in range(2):
        stream: Any = much.stream()
        assert len(await anext(stream)) == 3_000_000
        seen.update(sandbox.sandbox_id for sandbox in await real.list())
        await stream.aclose()
    assert {sandbox.sandbox_id for sandbox in await real.list()} == seen
    assert len(seen) == 1


async def test_what_is_printed_comes_at_once(session: aio.Session) -> None:
    """`on_output` hears text while the call runs, whole characters, from both streams."""
    heard: list[tuple[str, str]] = []
    began = asyncio.Event()

    def hear(stream: str, text: str) -> None:
        heard.append((stream, text))
        began.set()

    @session.function(on_output=hear)
    def talk(path: str) -> str:
        print("für dich", flush=True)
        while not os.path.exists(path):  # noqa: PTH110 - a fake sandbox has no pathlib
            pass
        print("end", file=sys.stderr)
        return "done"

    call = asyncio.ensure_future(talk.remote("/tmp/go"))
    await began.wait()
    assert heard == [("stdout", "für dich\n")]
    (sandbox,) = await session.list()
    await sandbox.write_file("/tmp/go", b"")
    assert await call == "done"
    assert heard == [("stdout", "für dich\n"), ("stderr", "end\n")]


async def test_bytes_that_look_like_an_answer(real: aio.Session) -> None:
    """What a call writes is exact, whatever it looks like and however much it is."""

    @real.function
    def write() -> int:
        data = bytes(range(256)) * 4000 + b"\0" * 100
        os.write(1, b"\0" * 17 + b"v" + b"\0" * 8)
        for number in (1, 2):
            done = 0
            while done < len(data):
                done += os.write(number, data[done:])
        raise ValueError

    with pytest.raises(SandboxExecutionError) as caught:
        await write.remote()
    printed = caught.value.exec_result
    assert printed is not None
    data = bytes(range(256)) * 4000 + b"\0" * 100
    assert printed.stdout_bytes == b"\0" * 17 + b"v" + b"\0" * 8 + data
    assert printed.stderr_bytes == data


async def test_what_a_call_leaves_behind_is_killed(real: aio.Session) -> None:
    """Children and threads of a call do not outlive it, nor hold it up when they keep its output open."""

    @real.function(concurrency=1)
    def leave() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "1000"]).pid

    @real.function(concurrency=1)
    def thread() -> str:
        import threading

        threading.Thread(target=lambda: print("the thread's last words")).start()
        return "returned"

    pid = await leave.remote()
    (sandbox,) = await real.list()
    await leave.remote()
    state = await sandbox.exec(["sh", "-c", f"cat /proc/{pid}/stat 2>/dev/null | cut -d' ' -f3"])
    assert state.stdout.strip() in {"", "Z"}
    assert await thread.remote() == "returned"


async def test_a_cancelled_call_is_dead(real: aio.Session) -> None:
    """The interpreter of a cancelled call is gone before its place is free; the sandbox stays."""
    began = asyncio.Event()

    @real.function(concurrency=1, on_output=lambda _stream, _text: began.set())
    def hang() -> None:
        import time

        print("x", flush=True)
        time.sleep(1000)

    for _ in range(2):
        began.clear()
        call = asyncio.ensure_future(hang.remote())
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    (sandbox,) = await real.list()
    assert real.sandbox_count == 1
    left = await sandbox.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[_]take' || true"])
    assert left.stdout.strip() == "0"


async def test_many_at_once_share_the_places(session: aio.Session) -> None:
    """Never more sandboxes than asked for, and every call its own answer."""

    @session.function(concurrency=2)
    def double(value: int) -> int:
        return value * 2

    results = await asyncio.gather(*(double.remote(number) for number in range(60)))
    assert results == [number * 2 for number in range(60)]
    assert session.sandbox_count <= 2


@pytest.mark.slow
async def test_a_large_value_both_ways(real: aio.Session) -> None:
    """20 MB of bytes go and come, exactly."""

    @real.function
    def turn(data: bytes) -> bytes:
        return data[::-1]

    data = os.urandom(20_000_000)
    assert await turn.remote(data) == data[::-1]


async def test_definitions_that_fail_or_print(session: aio.Session) -> None:
    """What goes wrong before the first call is the error of each call; it names what is missing."""

    @session.function(concurrency=1)
    def needs() -> Any:
        import no_such_module_anywhere  # type: ignore[import-not-found]  # that is the point

        return no_such_module_anywhere

    for _ in range(2):
        with pytest.raises(SandboxExecutionError, match="no_such_module_anywhere") as caught:
            await needs.remote()
        assert caught.value.exception_type == "ModuleNotFoundError"
        assert caught.value.exception_class is ModuleNotFoundError


async def test_a_killed_interpreter_takes_one_call_only(real: aio.Session) -> None:
    """A call that kills its parent too ends with an error, and the next has a new interpreter."""

    @real.function(concurrency=1)
    def patricide() -> None:
        os.kill(os.getppid(), 9)
        import time

        time.sleep(1000)

    @real.function(concurrency=1)
    def fine() -> int:
        return 1

    for _ in range(2):
        with pytest.raises(SandboxError):
            await patricide.remote()
    assert await fine.remote() == 1


async def test_redirected_output_does_not_hold_the_answer_up(real: aio.Session) -> None:
    """A function may send its outputs elsewhere, as those do that silence a library, and close what it did not open."""

    @real.function(concurrency=1)
    def silent(number: int) -> Iterator[int]:
        os.dup2(os.open("/dev/null", os.O_WRONLY), number)
        print("nobody hears this")
        yield number
        os.closerange(3, 256)
        yield number + 1

    for number in (1, 2):
        assert [item async for item in silent.stream(number)] == [number, number + 1]


def noted(function: Any) -> Any:
    """Print and register something where it runs in a sandbox."""
    if "PYTEST_CURRENT_TEST" not in os.environ:
        import atexit

        print("defined")
        atexit.register(lambda: os.write(1, b"of the definition"))
    return function


_FORGE = """
import os, sys, time
frame = sys._getframe()
while "teller" not in frame.f_locals:
    frame = frame.f_back
head = frame.f_locals["teller"].head
if os.fork() == 0:
    os.setsid()
    for number in range(3, 2000):
        try:
            os.write(number, b"d")
        except OSError:
            pass
    while True:
        os.write(1, head + b"v" + (4).to_bytes(8, "big") + b"junk" + head + b"v" + (2**29).to_bytes(8, "big"))
        os.write(2, head)
        time.sleep(0.001)
"""


async def test_one_call_cannot_speak_for_the_next(real: aio.Session) -> None:
    """A process that a call left behind does not know the token of later ones."""

    @real.function(concurrency=1, timeout_seconds=30)
    def score(code: str) -> str:
        import time

        exec(code, {})
        time.sleep(0.05)
        return "real"

    with contextlib.suppress(SandboxError):
        await score.remote(_FORGE)
    assert [await score.remote("pass") for _ in range(3)] == ["real"] * 3
    assert real.sandbox_count == 1


async def test_an_interpreter_killed_between_two_calls(real: aio.Session) -> None:
    """The next call was not begun by it, and is not blamed for it."""

    @real.function(concurrency=1)
    def strike(how: str) -> str:
        if how == "parent":
            parent = os.getppid()
            if os.fork() == 0:
                os.setsid()
                import time

                time.sleep(0.05)
                os.kill(parent, 9)
                os._exit(0)
        return how

    assert await strike.remote("parent") == "parent"
    await asyncio.sleep(0.2)
    for _ in range(2):
        assert await strike.remote("") == ""
    assert real.sandbox_count == 1


async def test_a_kept_interpreter_that_dies_before_a_call(real: aio.Session) -> None:
    """The call was not begun by it, and is run by another one; a call that began is not."""

    @real.function(concurrency=1, fresh=False)
    def strike(how: str) -> list[str]:
        COUNT[0] += 1
        with open("/tmp/begun", "a+") as file:  # noqa: PTH123 - in the sandbox
            file.write(f"{how}{COUNT[0]}\n")
            file.flush()
            if how == "call":
                os.kill(os.getpid(), 9)
            if how == "leftover":

                def read(number: int, most: int) -> bytes:
                    import select

                    select.select([number], [], [])  # until the next call is there
                    os.kill(os.getpid(), 9)
                    return b""

                os.read = read
            file.seek(0)
            return file.read().split()

    assert await strike.remote("leftover") == ["leftover1"]
    assert await strike.remote("next") == ["leftover1", "next1"]
    with pytest.raises(SandboxExecutionError, match="ended with signal 9"):
        await strike.remote("call")
    assert await strike.remote("last") == ["leftover1", "next1", "call2", "last1"]
    assert real.sandbox_count == 1


async def test_what_definitions_registered_is_not_run_by_calls(real: aio.Session) -> None:
    """Neither before nor after one; what a call registers runs at its end, and a definition's words are the first's."""

    @real.function(concurrency=1)
    @noted
    def call() -> None:
        import atexit

        atexit.register(lambda: os.write(1, b"of the call"))
        raise ValueError

    for printed in ("defined\nof the call", "of the call"):
        with pytest.raises(SandboxExecutionError) as caught:
            await call.remote()
        assert caught.value.exec_result is not None
        assert caught.value.exec_result.stdout == printed


async def test_a_generator_that_is_returned(real: aio.Session) -> None:
    """It is an error that says what to do, even of one without an end."""

    @real.function(concurrency=1)
    def endless() -> Any:
        import itertools

        return (number for number in itertools.count())

    for _ in range(2):
        with pytest.raises(SandboxExecutionError, match="generator"):
            await endless.remote()
    assert real.sandbox_count == 1


async def test_items_of_one_call_and_output_of_another(real: aio.Session) -> None:
    """What is read late of a stream that has ended says nothing of the call that came after it."""

    @real.function(concurrency=1)
    def give(bad: bool) -> Iterator[int]:
        print("first" if bad else "second")
        yield 1
        yield "no number" if bad else 2  # type: ignore[misc]  # that is the point

    late: Any = give.stream(True)
    assert await anext(late) == 1
    assert [item async for item in give.stream(False)] == [1, 2]
    with pytest.raises(SandboxExecutionError) as caught:
        await anext(late)
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.stdout == "first\n"


def test_another_event_loop_is_refused(local_engine: None) -> None:
    """A function belongs to the loop that it was first called on."""

    async def first() -> Any:
        session = aio.Session(engine="local")

        @session.function()
        def one() -> int:
            return 1

        assert await one.remote() == 1
        return one

    one = asyncio.run(first())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(one.remote())
