# ruff: noqa: SLF001 - the modules of this package share what is private to it
"""What the generated classes stand on: one facade object per core object, and the ways across to the loop.

Core objects are touched on the loop thread only. There, too, they are wrapped, so that the map from core objects to
facade objects needs no lock. The map is keyed by identity and holds facade objects weakly; each holds its core object,
whose id therefore cannot be given to another while the entry lives.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from types import FunctionType, TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar
from weakref import WeakValueDictionary

from aviato_sync import _runtime
from aviato_sync._operation import CANCELLED, VALUE, OperationRef
from aviato_sync._runtime import LoopThread
from aviato_sync._tracebacks import ELSEWHERE, origin

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_OF_FUNCTIONS = frozenset({"__name__", "__qualname__", "__doc__", "__signature__"})
_classes: dict[type, type[Handle]] = {}
_handles: WeakValueDictionary[int, Handle] = WeakValueDictionary()


class Handle:
    """A facade object; equal only to itself."""

    _core: Any
    _home: LoopThread

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} objects are returned by other methods, not made")

    @classmethod
    def _wrap(cls, core: Any, home: LoopThread) -> Self:
        self = cls.__new__(cls)
        self._bind(core, home)
        if callable(core):  # it stands for a function, whose name, text and signature help() and editors ask for
            vars(self).update({name: value for name, value in vars(core).items() if name in _OF_FUNCTIONS})
        return self

    def _bind(self, core: Any, home: LoopThread) -> None:
        self._core = core
        self._home = home
        _handles[id(core)] = self

    def _make(self, cls: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the core object; the body of a constructor."""
        __tracebackhide__ = True
        home = _runtime.home()

        def make() -> None:
            self._bind(cls(*args, **kwargs), home)

        home.call(make)

    def _call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function of the core on the loop."""
        __tracebackhide__ = True
        return self._home.call(function, *args, **kwargs)

    def _call_wrapped(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Likewise, and wrap the handles in what it returns."""
        __tracebackhide__ = True
        found = self._home.call(_wrapping, self._home, function, args, kwargs)
        if isinstance(found, RefHandle) and found._origin is ELSEWHERE:
            found._origin = origin()  # it was bound on the loop's thread, which does not know who called
        return found

    def _get(self, name: str) -> Any:
        """Read a property of the core that gives a handle, and wrap it."""
        __tracebackhide__ = True
        return self._call_wrapped(getattr, self._core, name)

    def _launch(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments and make the handle here, and have it begin on the loop without waiting for that."""
        __tracebackhide__ = True
        home = self._home
        home.check()
        core = getattr(self._core, f"_prepare_{name}")(*args, **kwargs)
        facade = _classes[type(core)]._wrap(core, home)
        if isinstance(facade, OperationRef):
            facade._origin = origin()
        home.post(_Launch(core))
        return facade

    def _start(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> OperationRef[T]:
        """Start a coroutine function of the core on the loop."""
        return OperationRef._started(self._home, None, function, args, kwargs)

    def _start_wrapped(
        self, function: Callable[P, Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> OperationRef[Any]:
        """Likewise, and wrap the handles in what it returns."""
        return OperationRef._started(self._home, wrap, function, args, kwargs)

    def __repr__(self) -> str:
        return repr(self._core)


class _Launch:
    """A handle on its way to the loop, where it begins."""

    __slots__ = ("_context", "_core")

    def __init__(self, core: Any) -> None:
        self._context = copy_context()
        self._core = core

    def begin(self) -> None:
        self._context.run(self._core._launch)

    def refuse(self, error: Exception) -> None:
        """The facade object is among the operations, which are refused as well."""


class AwaitableHandle(Handle):
    """A facade object that awaiting gives back, when it is ready."""

    def _as_ref(self) -> OperationRef[Self]:
        """Return a ref that is done when awaiting the handle is over."""
        return self._start_wrapped(_awaited, self._core)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._as_ref().__await__()


class ContextHandle(Handle):
    """A facade object that is a context manager of both kinds; the asynchronous one works on any running loop."""

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        self._start(self._core.__aenter__).result()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if self._home.inherited:
            return  # a forked child leaves the block of its parent, whose sandboxes are not its own to stop
        self._start(self._core.__aexit__, exc_type, exc, traceback).result()

    async def __aenter__(self) -> Self:
        await self._start(self._core.__aenter__)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._home.inherited:
            return  # as above
        await self._start(self._core.__aexit__, exc_type, exc, traceback)


class EnteringHandle(Handle, Generic[T]):
    """A facade object that is a context manager of both kinds, which gives another handle."""

    def __enter__(self) -> T:
        __tracebackhide__ = True
        entered: T = self._start_wrapped(self._core.__aenter__).result()
        return entered

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if self._home.inherited:
            return  # as above
        self._start(self._core.__aexit__, exc_type, exc, traceback).result()

    async def __aenter__(self) -> T:
        entered: T = await self._start_wrapped(self._core.__aenter__)
        return entered

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._home.inherited:
            return  # as above
        await self._start(self._core.__aexit__, exc_type, exc, traceback)


class RefHandle(OperationRef[T_co], Handle):
    """A facade object that is the ref of what awaiting its core object gives."""

    def __init__(self) -> None:
        Handle.__init__(self)

    def _bind(self, core: Any, home: LoopThread) -> None:
        self._prepare(home, ELSEWHERE)
        Handle._bind(self, core, home)
        home.operations.add(self)
        core.add_done_callback(self._core_done)

    def _core_done(self, core: Any) -> None:
        # the core's result is there: its coroutine ends at the first step
        outcome = core.result()
        try:
            outcome.send(None)
        except StopIteration as end:
            self._settle(VALUE, end.value)
        except asyncio.CancelledError:
            self._settle(CANCELLED, None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._fail(error)
        else:
            outcome.close()
            raise AssertionError(f"{core!r} called back before it was done")

    def __repr__(self) -> str:
        return Handle.__repr__(self)


def facade_of(core: type) -> Callable[[type[T]], type[T]]:
    """Register the facade's class for one of the core's."""

    def register(cls: type[T]) -> type[T]:
        _classes[core] = cls  # type: ignore[assignment]  # only handles are decorated
        return cls

    return register


def wrap(value: Any, home: LoopThread) -> Any:
    """Return the facade object of a core object, also within lists and tuples; on the loop thread."""
    cls = _classes.get(type(value))
    if cls is not None:
        known = _handles.get(id(value))
        return cls._wrap(value, home) if known is None else known
    if isinstance(value, (list, tuple)):
        return type(value)(wrap(item, home) for item in value)
    if isinstance(value, FunctionType):  # such as the decorator that a method returned
        return _bridged(value, home)
    return value


def _bridged(function: Callable[..., Any], home: LoopThread) -> Callable[..., Any]:
    @functools.wraps(function)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return home.call(_wrapping, home, function, args, kwargs)

    return bridged


def unwrap(value: Any) -> Any:
    """Return the core object of a facade object, also within lists and tuples."""
    if isinstance(value, Handle):
        value._home.check()
        return value._core
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(item) for item in value)
    return value


def _wrapping(home: LoopThread, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return wrap(function(*args, **kwargs), home)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def call_class(function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Any:
    """Run a plain class method of the core on the loop and wrap what it returns."""
    __tracebackhide__ = True
    home = _runtime.home()
    return home.call(_wrapping, home, function, args, kwargs)


def start_class(
    function: Callable[P, Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
) -> OperationRef[Any]:
    """Start a coroutine class method of the core on the loop; what it returns is wrapped."""
    return OperationRef._started(_runtime.home(), wrap, function, args, kwargs)
