"""Arguments and results of one call as packed values, with pickles where they were asked for. Python 3.8 and later."""

from __future__ import annotations

import sys

from aviato.aio.shipping.inside.carried import pack, unpack
from aviato.aio.shipping.inside.gathered import read_header
from aviato.aio.shipping.inside.refused import BadValue, NotCarried, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RESULT_TEXT_LIMIT = 128 * 1024 * 1024
"""Bytes of JSON in a result: read, they take up to twenty times as much, and they come from a stranger."""
PICKLE_PROTOCOL = 5
"""What Python 3.8 has, and so every side."""
PATHS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")


def dump_pickle(value: Any, path: str, classes: Any) -> Any:
    """Return a pickle in which classes and functions of the table stand by their numbers.

    Raises:
        NotCarried: It cannot be pickled.
    """
    import io
    import pickle

    numbers: dict[int, Any] = {id(known): number for number, known in enumerate(classes) if type(known) is not str}
    if "pathlib" in sys.modules:  # whose classes stand in a module of another name in some Pythons
        numbers.update((id(getattr(sys.modules["pathlib"], name)), name) for name in PATHS)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return numbers.get(id(item))

    file = io.BytesIO()
    try:
        (Pickler if numbers else pickle.Pickler)(file, PICKLE_PROTOCOL).dump(value)
    except Exception as error:
        raise NotCarried("%s cannot be pickled: %s" % (path, said(error))) from error
    return file.getvalue()


def load_pickle(data: Any, classes: Any) -> Any:
    """Return what was pickled. This runs whatever the pickle says.

    Raises:
        BadValue: It is no pickle, or needs what is not here.
    """
    import io
    import pickle

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: Any) -> Any:
            if number in PATHS:
                return getattr(__import__("pathlib"), number)
            known = classes[number]
            if type(known) is str:
                raise BadValue(known)
            return known

    try:
        return Unpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise BadValue("cannot be unpickled: %s" % said(error)) from error


def write_call(args: Any, kwargs: Any, classes: Any) -> list[Any]:
    """Return the message of a call whose arguments are plain values.

    Raises:
        NotCarried: An argument cannot travel; the text begins with its path.
    """
    return pack({"args": list(args), "kwargs": kwargs}, "", classes)


def write_pickled_call(args: Any, kwargs: Any, classes: Any, trusted: bool) -> list[Any]:
    """Return the message of a call whose arguments are pickled; `trusted` asks for a pickled result.

    Raises:
        NotCarried: They cannot be pickled.
    """
    return pack({"pickle": dump_pickle((args, kwargs), "an argument", classes), "trusted": trusted}, "", ())


def read_call(message: Any, classes: Any) -> Any:
    """Return positional arguments, arguments by name, and whether the result is to be pickled.

    Raises:
        BadValue: They cannot be made here.
    """
    call = unpack(message, classes)
    if "pickle" in call:
        args, kwargs = load_pickle(call["pickle"], classes)
        return args, kwargs, call["trusted"]
    return call["args"], call["kwargs"], False


def write_result(value: Any, path: str, classes: Any, trusted: bool) -> list[Any]:
    """Return the message of a result, or of an item of a generator.

    Raises:
        NotCarried: It cannot travel; the text begins with the path of the part, and that with `path`.
    """
    pieces = pack(dump_pickle(value, path, classes), path, ()) if trusted else pack(value, path, classes)
    _, _, size = read_header(pieces[0])
    if size > RESULT_TEXT_LIMIT:
        what = "%s has %d bytes beside those of bytes, long text and arrays, and at most %d are carried"
        raise NotCarried(
            what % (path, size, RESULT_TEXT_LIMIT) + "; give it as bytes or an array, or in several pieces"
        )
    return pieces


def read_result(message: Any, classes: Any, trusted: bool) -> Any:
    """Return a result; one that is trusted may run anything here.

    Raises:
        BadValue: The message is no result.
    """
    value = unpack(message, () if trusted else classes, RESULT_TEXT_LIMIT)
    if not trusted:
        return value
    if type(value) is not bytes:
        raise BadValue("a pickle was expected, and there is a %s" % type(value).__name__)
    return load_pickle(value, classes)
