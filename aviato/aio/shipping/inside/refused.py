"""Why a value does not travel; both sides use this module. Python 3.8 and later."""

from __future__ import annotations


class NotCarried(TypeError):
    """A value that cannot be sent; the text names its path."""


class BadValue(ValueError):
    """Bytes that are no value; the text says what is wrong with them."""


class NotHere(BadValue):
    """A value that this side cannot make, because it lacks a package or a class; the text names it."""


def said(error: BaseException) -> str:
    """Return the type and text of an error, of which the text is made by code of anybody."""
    try:
        return "%s: %.500s" % (type(error).__name__, error)
    except Exception:
        return type(error).__name__
