"""What a pool does with one item: run a command, or call a function."""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aviato import validation
from aviato.aio.function import RemoteFunction
from aviato.aio.pooling.reset import INTERPRETERS_KEPT
from aviato.aio.shipping.collect import check_function, collect
from aviato.exceptions import AviatoError, SandboxNotRunningError, SandboxTerminatedError

if TYPE_CHECKING:
    from aviato.aio._keeper import Keeper
    from aviato.aio.process import Process
    from aviato.aio.session import Session

_FIELD_HINT = 'Write "{}" for the item, "{0}" for the first part of a tuple, "{name}" for a key, as a word of its own.'


class Work(Protocol):
    """What is done with each item."""

    name: str
    retries: int
    """How often it wants to be begun again itself."""

    def classes(self) -> tuple[Any, ...]:
        """Return the classes that items and results may have beyond the common ones."""
        ...

    def identity(self) -> bytes:
        """Return what is done, the same in every process that would do the same."""
        ...

    def prepare(self, item: Any, number: int) -> Any:
        """Check an item and make of it what `run` takes.

        Raises:
            TypeError: It is not of the right form.
            ValueError: It has not the parts that are needed.
        """
        ...

    async def run(self, keeper: Keeper, prepared: Any) -> Any:
        """Do it in a sandbox of the keeper.

        Raises:
            AviatoError: It failed.
        """
        ...


class Functions:
    """The plain functions that one pool was given; those that are the same use the same interpreters."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: OrderedDict[tuple[object, ...], RemoteFunction[..., Any]] = OrderedDict()

    def remote(self, function: Callable[..., Any], timeout_seconds: float | None) -> RemoteFunction[..., Any]:
        """Return the remote function for what would be shipped now; an earlier one if that is the same.

        It is compared by what is shipped and not by identity, so that a function whose globals have changed is another
        one, and a lambda that is made anew is not.

        Raises:
            FunctionSerializationError: It cannot be shipped.
        """
        check_function(function)
        shipped = collect(function)
        found = self._known.get(_key(function, shipped.document, shipped.classes, timeout_seconds))
        if found is None:
            found = self._session.function(timeout_seconds=timeout_seconds)(function)
        document, carrier = found._shipped()  # noqa: SLF001 - it is fixed now
        key = _key(function, document, carrier.classes, timeout_seconds)
        self._known[key] = found
        self._known.move_to_end(key)
        if len(self._known) > INTERPRETERS_KEPT:
            self._known.popitem(last=False)
        return found


def _key(function: Any, document: bytes, classes: Sequence[Any], timeout_seconds: float | None) -> tuple[object, ...]:
    names = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    kinds = tuple(id(cls) for cls in classes if isinstance(cls, type))  # functions are made anew, with the same code
    return document, kinds, timeout_seconds, *names


def make_work(functions: Functions, what: Any, timeout_seconds: float | None) -> Work:
    """Tell commands and functions apart.

    Raises:
        TypeError: It is neither.
        ValueError: A command has no field for the item, or `timeout_seconds` does not go with it.
        FunctionSerializationError: A plain function cannot be shipped.
    """
    if timeout_seconds is not None:
        timeout_seconds = validation.seconds("timeout_seconds", timeout_seconds, above=True)
    if isinstance(what, RemoteFunction):
        if timeout_seconds is not None:
            raise ValueError("timeout_seconds of a remote function is given where it is decorated")
        return FunctionWork(what)
    if callable(what):
        return FunctionWork(functions.remote(what, timeout_seconds))
    if isinstance(what, str):
        validation.command("fn_or_command", what)  # says how to write it as a list
    if not isinstance(what, (list, tuple)):
        raise TypeError(f"fn_or_command must be a function or a list of words, not {what!r}")
    return CommandWork(validation.command("fn_or_command", what), timeout_seconds)


class CommandWork:
    """A command whose words hold fields for the item."""

    def __init__(self, words: tuple[str, ...], timeout_seconds: float | None) -> None:
        self._words = words
        self._timeout = timeout_seconds
        self.name = words[0]
        self.retries = 0
        if not any(_field(word) is not None for word in words):
            raise ValueError(f"no word of fn_or_command {list(words)!r} stands for the item\nhint: {_FIELD_HINT}")

    def classes(self) -> tuple[Any, ...]:
        """Return none."""
        return ()

    def identity(self) -> bytes:
        """Return the words."""
        return json.dumps(["command", *self._words]).encode()

    def prepare(self, item: Any, number: int) -> list[str]:
        """Fill the fields in."""
        argv: list[str] = []
        for word in self._words:
            field = _field(word)
            if field is None:
                argv.append(word)
            elif not field:
                parts = item if isinstance(item, (tuple, list)) else (item,)
                argv += [_word(part, number) for part in parts]
            else:
                argv.append(_word(_part(item, field, number), number))
        return argv

    async def run(self, keeper: Keeper, prepared: list[str]) -> Any:
        """Run the command in a sandbox that nobody else uses meanwhile."""
        kept = await keeper.take()
        reusable = False
        process: Process | None = None
        try:
            process = kept.sandbox.exec(prepared, timeout_seconds=self._timeout)
            result = await process.result()
            reusable = True
            return result
        except AviatoError as error:
            reusable = not error.is_infrastructure
            raise
        except asyncio.CancelledError:
            if process is not None:
                process.cancel()  # its end is nobody's news; the sandbox is replaced, so that nothing of it goes on
            raise
        finally:
            await keeper.give_back(kept, reusable=reusable)


class FunctionWork:
    """A remote function, called with the parts of each item."""

    def __init__(self, function: RemoteFunction[..., Any]) -> None:
        self._function = function
        self.name: str = function._name  # noqa: SLF001 - pools call functions in sandboxes of their own
        self.retries: int = function._calls.retries  # noqa: SLF001 - likewise

    def classes(self) -> tuple[Any, ...]:
        """Return those that travel with the function."""
        return self._function._shipped()[1].classes  # noqa: SLF001 - likewise

    def identity(self) -> bytes:
        """Return all that would be shipped."""
        return self._function._shipped()[0]  # noqa: SLF001 - likewise

    def prepare(self, item: Any, number: int) -> tuple[Any, ...]:
        """Return the arguments: the item's parts if it is a tuple, else the item itself."""
        del number
        return item if isinstance(item, tuple) else (item,)

    async def run(self, keeper: Keeper, prepared: tuple[Any, ...]) -> Any:
        """Call it."""
        return await self._function._calls.run(prepared, {}, keeper=keeper)  # noqa: SLF001 - likewise


def may_begin_again(error: Exception) -> bool:
    """Tell whether an item may be begun again: its sandbox was lost or had ended, which says nothing about it."""
    if isinstance(error, (SandboxNotRunningError, SandboxTerminatedError)):
        return True
    return isinstance(error, AviatoError) and error.is_infrastructure


def _field(word: str) -> str | None:
    """Return the name within `{}` when that is the whole word."""
    inner = word[1:-1]
    if (
        word[:1] == "{"
        and word[-1:] == "}"
        and len(word) > 1
        and (not inner or inner.isidentifier() or inner.isdigit())
    ):
        return inner
    return None


def _part(item: Any, field: str, number: int) -> Any:
    if field.isdigit():
        parts = item if isinstance(item, (tuple, list)) else (item,)
        if int(field) >= len(parts):
            raise ValueError(f"items[{number}] has no part {field} for the word '{{{field}}}': {item!r}")
        return parts[int(field)]
    if not isinstance(item, Mapping):
        raise TypeError(f"items[{number}] must be a mapping with the key {field!r}, not {item!r}")
    if field not in item:
        raise ValueError(f"items[{number}] has no key {field!r} for the word '{{{field}}}': {item!r}")
    return item[field]


def _word(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, (int, float)) and not isinstance(part, bool):
        return str(part)
    if isinstance(part, os.PathLike):
        path: Any = os.fspath(part)
        if isinstance(path, str):
            return path
    raise TypeError(f"items[{number}] has {part!r}, which is no word of a command: give str, int, float or a path")
