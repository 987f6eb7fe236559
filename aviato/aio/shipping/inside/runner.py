"""The program that runs one call of a function inside a sandbox; stdlib only, Python 3.8 and later.

It is sent as text, once for each sandbox, together with a bundle (what `collect` makes), and started once for each
call::

    python3 runner.py BUNDLE < CALL

CALL is one line of JSON, `{"result": PATH, "forget": [PATH, ...]}`, followed by the message that `read_call` reads. The
outcome is written to `result` under a temporary name and renamed, so that it is complete or absent, and is apart from
everything the function prints. It is one line of JSON, and after `{"value": true}` the message that `write_result`
made.
"""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB - what Python 3.8 has, and as few imports as can be

from __future__ import annotations

import json
import os
import sys
import traceback

from aviato.aio.shipping.inside.definitions import Bundle
from aviato.aio.shipping.inside.messages import read_call, write_result
from aviato.aio.shipping.inside.refused import BadValue, NotCarried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_LIMIT = 64 * 1024
TRACEBACK_LIMIT = 256 * 1024


def short(text: str, limit: int) -> str:
    """Keep both ends of a long text."""
    return text if len(text) <= limit else text[: limit // 2] + "\n[...]\n" + text[-limit // 2 :]


def describe(error: BaseException) -> dict[str, str]:
    """Return what the client is told of an exception."""
    try:
        message = str(error)
    except Exception as inner:  # the class is the function's own and may do anything
        message = "<its text cannot be had: %s>" % type(inner).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception as inner:  # likewise
        text = "<the traceback cannot be shown: %s>" % type(inner).__name__
    return {
        "type": type(error).__qualname__,
        "module": str(type(error).__module__),
        "message": short(message, MESSAGE_LIMIT),
        "traceback": short(text, TRACEBACK_LIMIT),
    }


def outcome_line(outcome: Any) -> bytes:
    """Return the line that an outcome begins with."""
    return json.dumps(outcome).encode("ascii") + b"\n"


def call(bundle: str, arguments: memoryview) -> list[Any]:
    """Make the function, call it and return the outcome in pieces."""
    stage = "define"
    try:
        with open(bundle, "rb") as file:
            document = json.loads(file.read().decode("ascii"))
        made = Bundle(document)
        function = made.value(document["entry"])
        try:
            args, kwargs, trusted = read_call(arguments, made.classes)
        except BadValue as error:
            return [outcome_line({"not_carried": "its arguments cannot be made in the sandbox: %s" % error})]
        stage = "call"
        value = function(*args, **kwargs)
        if hasattr(value, "__await__"):
            import asyncio

            async def wait() -> Any:
                return await value

            value = asyncio.run(wait())
    except BaseException as error:  # sys.exit and KeyboardInterrupt are the function's as well
        return [outcome_line({"error": describe(error), "stage": stage})]
    try:
        return [outcome_line({"value": True}), *write_result(value, "result", made.classes, trusted)]
    except NotCarried as error:
        return [outcome_line({"not_carried": "it ran, but %s" % error})]


def main() -> None:
    """Run one call."""
    me = os.getpid()
    source = os.fdopen(os.dup(0), "rb")
    header = json.loads(source.readline().decode("ascii"))
    arguments = source.read()
    source.close()
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    for path in header["forget"]:
        try:
            os.unlink(path)
        except OSError:
            pass
    bundle = sys.argv[1]
    sys.argv = [""]
    sys.path[0] = os.getcwd()
    outcome = call(bundle, memoryview(arguments))
    if os.getpid() != me:  # a child that the function forked came back through here
        sys.stdout.flush()
        os._exit(0)
    temporary = header["result"] + ".new"
    with open(temporary, "wb") as file:
        for piece in outcome:
            file.write(piece)
    os.rename(temporary, header["result"])


if __name__ == "__main__":
    _own = sys.modules["__main__"]  # kept alive: the function's own module may take the name
    main()
