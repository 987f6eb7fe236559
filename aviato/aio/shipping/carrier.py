"""The values of one remote function on the client's side: arguments to bytes, and bytes to results."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from aviato.aio.shipping.annotations import hints, item_type, result_type, unresolved
from aviato.aio.shipping.inside.gathered import Gathered
from aviato.aio.shipping.inside.messages import read_result, write_call, write_pickled_call
from aviato.aio.shipping.inside.refused import BadValue, NotCarried, NotHere
from aviato.exceptions import FunctionSerializationError
from aviato.models import Serialization

_EXACT = frozenset({bool, int, float, str, bytes, type(None)})
"""A value of just this type fits an annotation of it, which costs no converter."""
_HINT = (
    "Values are those of JSON, bytes, tuples, sets, dates, paths and other types of the standard library, arrays of "
    "numpy, and enums, dataclasses, attrs classes and named tuples in the function's annotations."
)
_PICKLE_HINT = " serialization=Serialization.PICKLE carries all that can be pickled."
_TRUST_HINT = (
    " Only a pickle could carry it, and reading a pickle runs what the sandbox wrote into it: trust_result=True allows "
    "that, for functions whose every line you trust."
)


class Carrier:
    """Makes messages of the arguments of a function, and results of the messages that come back.

    It knows nothing of how messages travel. A message that it makes has views of the arguments' memory; they must
    not change before it was written.

    Attributes:
        classes: Those that values may have beyond the common ones.
    """

    def __init__(
        self,
        function: Any,
        classes: tuple[Any, ...],
        serialization: Serialization = Serialization.JSON,
        *,
        trust_result: bool = False,
        left_out: tuple[str, ...] = (),
    ) -> None:
        self._name = getattr(function, "__qualname__", repr(function))
        self.classes = classes
        self._pickles = Serialization(serialization) is Serialization.PICKLE
        self._trusts = trust_result
        names = ", ".join(unresolved(function))
        unread = f" Annotations that cannot be evaluated, as their names are not global: {names}." if names else ""
        self._left_out = "".join(f" {reason}." for reason in left_out) + unread
        self._signature = _own_signature(function)
        self._hints: dict[str, Any] = {}
        if not hasattr(function, "__wrapped__"):  # under a decorator the annotations are those of another function
            self._hints = hints(function)
            self._parameters = _Parameters(function.__code__)
        self._result = result_type(self._hints)
        self._item = item_type(self._hints)

    @property
    def result_hint(self) -> str:
        """What to do when a result could not be carried."""
        needs_trust = self._pickles and not self._trusts
        return _HINT + self._left_out + (_TRUST_HINT if needs_trust else "")

    def pack_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[bytes | memoryview]:
        """Return the message of a call, in pieces to be written one after another.

        Raises:
            TypeError: The function cannot be called with these arguments.
            FunctionSerializationError: An argument does not fit its annotation, or cannot be carried; the message has
                its path.
        """
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"a call of {self._name}: {error}; it takes {_shown(self._signature)}") from None
        args, kwargs = self._fitted(args, kwargs)
        try:
            if self._pickles:
                return write_pickled_call(args, kwargs, self.classes, self._trusts)
            return write_call(args, kwargs, self.classes)
        except NotCarried as error:
            hint = _HINT + self._left_out + ("" if self._pickles else _PICKLE_HINT)
            raise FunctionSerializationError(f"a call of {self._name}: {error}", hint=hint) from error

    def unpack_result(self, message: bytes | Gathered) -> Any:
        """Return the result of a call, as the function's annotation says it.

        Raises:
            BadValue: The message is no result, or it does not fit the annotation. It is a ValueError.
        """
        return self._value(message, self._result, "result")

    def unpack_item(self, message: bytes | Gathered) -> Any:
        """Return an item of a generator, as the function's annotation says it.

        Raises:
            BadValue: The message is no item, or it does not fit the annotation. It is a ValueError.
        """
        return self._value(message, self._item, "item")

    def _value(self, message: bytes | Gathered, kind: Any, path: str) -> Any:
        try:
            value = read_result(message, self.classes, self._trusts)
        except NotHere as error:
            raise NotHere(f"{path} cannot be made on this side: {error}") from error
        return _fit(value, kind, path, BadValue)

    def _fitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._hints:
            return args, kwargs
        kinds, names = self._hints, self._parameters
        made = tuple(
            _fit(value, kinds.get(names.at(index), Any), f"args[{index}]", self._refuse)
            for index, value in enumerate(args)
        )
        return made, {
            name: _fit(value, kinds.get(names.called(name), Any), f"kwargs.{name}", self._refuse)
            for name, value in kwargs.items()
        }

    def _refuse(self, text: str) -> FunctionSerializationError:
        hint = "Pass what the annotation says, or change the annotation."
        return FunctionSerializationError(f"a call of {self._name}: {text}", hint=hint)


def _own_signature(function: Any) -> inspect.Signature | None:
    """Return what the function itself takes; None where that is not known, or only claimed."""
    if not isinstance(function, FunctionType) or "__signature__" in vars(function):
        return None
    return inspect.signature(function, follow_wrapped=False)  # a decorator may give arguments of its own


class _Left:
    def __repr__(self) -> str:
        return "..."


def _shown(signature: inspect.Signature) -> inspect.Signature:
    """Return the names of a signature, without annotations and values, which may be long."""
    parameters = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else _Left(),
        )
        for parameter in signature.parameters.values()
    ]
    return inspect.Signature(parameters)


class _Parameters:
    """Which parameter an argument is for; an empty name stands for none."""

    def __init__(self, code: CodeType) -> None:
        names, count = code.co_varnames, code.co_argcount + code.co_kwonlyargcount
        self._by_place = names[: code.co_argcount]
        self._by_name = frozenset(names[code.co_posonlyargcount : count])
        rest = bool(code.co_flags & inspect.CO_VARARGS)
        self._rest = names[count] if rest else ""
        self._more = names[count + rest] if code.co_flags & inspect.CO_VARKEYWORDS else ""

    def at(self, index: int) -> str:
        """Return the parameter of a positional argument."""
        return self._by_place[index] if index < len(self._by_place) else self._rest

    def called(self, name: str) -> str:
        """Return the parameter of an argument that was given by name."""
        return name if name in self._by_name else self._more


def _fit(value: Any, kind: Any, path: str, refused: Callable[[str], Exception]) -> Any:
    if kind is Any or (type(value) is kind and kind in _EXACT):
        return value
    from aviato.aio.shipping.fitting import MismatchError  # noqa: PLC0415 - cattrs is for those who annotate
    from aviato.aio.shipping.typed import fit  # noqa: PLC0415 - likewise

    try:
        return fit(value, kind, path)
    except MismatchError as error:
        raise refused(str(error)) from error
