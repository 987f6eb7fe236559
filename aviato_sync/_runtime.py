"""The one background thread that runs the core's event loop, and what happens to it at a fork and at exit.

Work crosses into the loop through a deque that one wake-up empties, so that a thousand submissions cost one write to
the loop's self-pipe. The thread is a daemon: one that is not would be joined before the exit hooks run, and the
interpreter would hang. At exit it is parked instead of stopped: a stopped loop would be torn down with its
tasks, which complain; a parked one is simply no longer there.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import sys
import threading
import warnings
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, ParamSpec, Protocol, TypeVar

import aviato.aio  # noqa: F401 - see the end of this module
from aviato.exceptions import ForkError
from aviato_sync._tracebacks import raisable

P = ParamSpec("P")
T = TypeVar("T")

PARK_SECONDS = 1.0
"""How long the exit hook waits for the loop to come by; a loop that is blocked is left alone."""

_log = logging.getLogger("aviato")


class Job(Protocol):
    """What crosses into the loop."""

    def begin(self) -> None:
        """Called once, on the loop thread."""

    def refuse(self, error: Exception) -> None:
        """Called instead when the loop can no longer begin it."""


class LoopThread:
    """A thread that runs one event loop until the process ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ident = 0
        self.operations: set[Job] = set()
        """What is in progress. The loop itself holds tasks weakly, and nobody else may hold a dropped ref."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Likewise, of what is no operation."""
        self._refusal: Callable[[], Exception] | None = None
        self.inherited = False
        self._queue: deque[Job] = deque()
        self._woken = False
        self._context = Context()
        ready = threading.Event()
        self.thread = threading.Thread(target=Context().run, args=(self._main, ready), name="aviato-loop", daemon=True)
        self.thread.start()
        ready.wait()

    def _main(self, ready: threading.Event) -> None:
        self.ident = get_ident()
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(ready.set)
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - nothing above would tell those who wait
            _log.critical("the loop thread of aviato died", exc_info=error)
            self._die(error)

    def _die(self, cause: BaseException) -> None:
        def refusal() -> Exception:
            error = RuntimeError(f"the loop thread of aviato died of {type(cause).__name__}: {cause}")
            error.__cause__ = cause
            return error

        self._refusal = refusal
        for job in (*self._queue, *self.operations):
            job.refuse(refusal())
        self._queue.clear()

    def check(self) -> None:
        """Refuse use when nothing can be done here any more.

        Raises:
            ForkError: The thread belongs to the parent process.
            RuntimeError: The interpreter is ending, or the loop died.
        """
        if self._refusal is not None:
            raise self._refusal()

    def check_blocking(self) -> None:
        """Refuse to block where that would never end, and warn where it holds up somebody else's event loop.

        Raises:
            ForkError: As `check`.
            RuntimeError: As `check`, or the caller is the loop's own thread.
        """
        self.check()
        if get_ident() == self.ident:
            raise RuntimeError("blocking on aviato's own loop thread would never end; use `await`")
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - exported for this purpose, and does not raise
            _warn_about_running_loop()

    def post(self, job: Job) -> None:
        """Hand a job over to the loop.

        Raises:
            ForkError: As `check`.
            RuntimeError: As `check`.
        """
        if self._refusal is not None:
            raise self._refusal()
        self._queue.append(job)
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain, context=self._context)

    def _drain(self) -> None:
        self._woken = False  # before the look at the queue: whoever adds from here on wakes the loop again
        jobs = self._queue
        for _ in range(len(jobs)):
            jobs.popleft().begin()

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        """Run a coroutine as a task whose first step is taken at once; on the loop's thread, outside of any task.

        What ends in its first step then costs one round of the loop, and everything begins in the order of the calls.
        """
        if sys.version_info >= (3, 12):
            return asyncio.Task(coroutine, loop=self.loop, context=context, eager_start=True)
        # a task schedules its first step with the loop's call_soon: catch it there and take it
        steps: list[tuple[Callable[..., object], tuple[object, ...]]] = []

        def catch(step: Callable[..., object], *args: object, context: Context | None = None) -> None:
            del context
            steps.append((step, args))

        loop: Any = self.loop
        loop.call_soon = catch
        try:
            task = asyncio.Task(coroutine, loop=loop, context=context)
        finally:
            del loop.call_soon
        ((step, args),) = steps
        context.run(step, *args)
        return task

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function on the loop, after everything that was submitted before, and return what it returns.

        Raises:
            ForkError: As `check`.
            RuntimeError: As `check`.
            BaseException: Whatever the function raises.
        """
        __tracebackhide__ = True
        if get_ident() == self.ident:
            return function(*args, **kwargs)
        call = _Call(function, args, kwargs)
        self.post(call)
        try:
            call.finished.acquire()
        except KeyboardInterrupt:
            call.abandoned = True
            raise
        if call.error is not None:
            raise raisable(call.error)
        return call.value  # type: ignore[no-any-return]  # what the function returned

    def forget(self, thing: object) -> None:
        """Drop the last reference to something on the loop's thread, where its finaliser may touch the loop."""
        if self._refusal is None and not sys.is_finalizing():
            self.post(_Drop(thing))

    def orphan(self) -> None:
        """Mark it as belonging to the parent process; nothing of it is closed, for that would disturb the parent."""
        self._refusal = _orphaned
        self.inherited = True

    def park(self) -> None:
        """Let the thread do nothing any more."""
        if self._refusal is not None:
            return
        self._refusal = _exiting
        parked, forever = allocate_lock(), allocate_lock()
        parked.acquire()
        forever.acquire()

        def stay() -> None:
            parked.release()
            forever.acquire()

        self.loop.call_soon_threadsafe(stay)
        parked.acquire(timeout=PARK_SECONDS)


class _Call:
    """A plain function on its way to the loop and back."""

    __slots__ = ("_arguments", "_context", "_function", "_keywords", "abandoned", "error", "finished", "value")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._arguments = args
        self._keywords = kwargs
        self._context = copy_context()
        self.abandoned = False
        self.error: BaseException | None = None
        self.value: Any = None
        self.finished = allocate_lock()
        self.finished.acquire()

    def begin(self) -> None:
        if self.abandoned:
            return
        try:
            self.value = self._context.run(self._function, *self._arguments, **self._keywords)
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            self.error = error
        self.finished.release()

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.finished.release()


class _Drop:
    """Something to be dropped on the loop's thread."""

    __slots__ = ("_thing",)

    def __init__(self, thing: object) -> None:
        self._thing: object = thing

    def begin(self) -> None:
        self._thing = None

    def refuse(self, error: Exception) -> None:
        """Nothing can be done about it."""


class Callbacks:
    """A thread for the user's callbacks, which may block and must therefore never run on the loop."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, callback: Callable[[], object]) -> None:
        """Call it soon, after those submitted before; an error is logged."""
        self._queue.put(callback)
        if self._thread is None:
            with self._lock:
                if self._thread is None and not sys.is_finalizing():
                    self._thread = threading.Thread(target=self._main, name="aviato-callbacks", daemon=True)
                    self._thread.start()

    def _main(self) -> None:
        while True:
            self._queue.get()()


_lock = threading.Lock()
_home: LoopThread | None = None
_inherited: list[LoopThread] = []
"""Loops of parents, kept so that no finaliser closes in the child what the parent uses."""
_ended = False
callbacks = Callbacks()
_warned_about_running_loop = False


def home() -> LoopThread:
    """Return the process's loop thread, started by the first call.

    Raises:
        RuntimeError: The interpreter is ending.
    """
    global _home  # noqa: PLW0603 - there is one loop per process
    if _home is None:
        with _lock:
            if _ended:
                raise _exiting()
            if _home is None:
                _home = LoopThread()
    return _home


def _orphaned() -> Exception:
    return ForkError(
        "this handle belongs to the parent of this forked process",
        hint="Make sandboxes of the child's own, or attach with Sandbox.from_id().",
    )


def _exiting() -> Exception:
    return RuntimeError("the interpreter is ending: aviato can start nothing any more")


def _warn_about_running_loop() -> None:
    global _warned_about_running_loop  # noqa: PLW0603 - once per process is enough
    if _warned_about_running_loop or _in_ipython():
        return
    _warned_about_running_loop = True
    directory = os.path.dirname(__file__)  # noqa: PTH120 - compared with code objects' names, which are strings
    frame, level = sys._getframe(0), 1  # noqa: SLF001 - the only way to find the user's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(directory):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        "a blocking call of aviato holds up the event loop that runs in this thread; write `await ref` instead of "
        "`ref.result()`, and `async with` and `async for`",
        RuntimeWarning,
        stacklevel=level,
    )


def _in_ipython() -> bool:
    module = sys.modules.get("IPython")
    return module is not None and module.get_ipython() is not None


def _after_fork_in_child() -> None:
    global _home, _lock, callbacks  # noqa: PLW0603 - the child begins anew
    _lock = threading.Lock()  # the old one may be held by a thread that does not exist here
    callbacks = Callbacks()
    if _home is not None:
        _home.orphan()
        _inherited.append(_home)
        _home = None


def _at_exit() -> None:
    """Silence the loop; the core's own hook then stops the sandboxes, within its budget and without a loop."""
    global _ended  # noqa: PLW0603 - the fact is one per process
    _ended = True
    if _home is not None:
        _home.park()


atexit.register(_at_exit)  # hooks run last in, first out: this module imports the core so that its hook runs after this
os.register_at_fork(after_in_child=_after_fork_in_child)
