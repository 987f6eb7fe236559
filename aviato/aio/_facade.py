"""Markers that the facade generator reads in the core's source; they do nothing at run time.

The facade is made from classes marked with `handle`. Their public members are carried over by these rules: a
coroutine becomes a method that returns an `OperationRef`, a plain method or property is delegated, and a handle
in an argument or a result is unwrapped or wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def handle(cls: type[_T]) -> type[_T]:
    """Mark a class of which the facade has a counterpart."""
    return cls


def direct(member: _T) -> _T:
    """Mark a plain method that the facade runs in the caller's thread: the user's code has no place on the loop."""
    return member


def prepared(member: _T) -> _T:
    """Mark a plain method that gives a process-like handle and has a part of its name after `_prepare_`.

    That part checks the arguments and makes the handle, in any thread; `_launch` of the handle begins on the loop.
    The facade calls the one where it is called and the other without waiting for it.
    """
    return member


def skip(reason: str) -> Callable[[_T], _T]:
    """Mark a public member that the facade leaves out; the reason is compulsory."""
    if not reason:
        raise ValueError("skip needs a reason")

    def mark(member: _T) -> _T:
        return member

    return mark
