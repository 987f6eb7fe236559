"""What the end of a call means: its result, the exception it raised, or why there is neither."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any, NoReturn

from aviato.aio.shipping.inside.refused import BadValue, NotHere
from aviato.aio.shipping.inside.runner import ERROR, NOT_CARRIED, VALUE
from aviato.exceptions import CapabilityError, FunctionSerializationError, SandboxError, SandboxExecutionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aviato.aio.shipping.interpreter import Answer, Message
    from aviato.models import ProcessResult

_NOT_FOUND = 127
_HINTS = {
    126: "The sandbox's image has a python3 that cannot be run.",
    137: "SIGKILL from nowhere usually means that the sandbox's memory limit was reached; see resources=.",
}


def result_of(answer: Answer, unpack: Callable[[Message], Any], name: str, values_hint: str, sandbox_id: str) -> Any:
    """Return the result; all that the answer says is the word of an untrusted program.

    Raises:
        FunctionSerializationError: Arguments or result could not be carried.
        SandboxExecutionError: The function raised, or the answer is none.
    """
    if answer.kind == VALUE:
        printed = answer.printed
        return believed(
            unpack, answer.payload, lambda: printed, name=name, values_hint=values_hint, sandbox_id=sandbox_id
        )
    if answer.kind == NOT_CARRIED:
        reason = bytes(answer.payload)[:65536].decode("utf-8", "replace")
        refused = FunctionSerializationError(f"{name}: {reason}", hint=values_hint)
        refused.exec_result = answer.printed
        raise refused
    if answer.kind == ERROR:
        _raise(answer, name, sandbox_id)
    raise _improper(f"it is of kind {answer.kind!r}", answer.printed, name, sandbox_id)


def believed(
    unpack: Callable[[Message], Any],
    payload: Message,
    printed: Callable[[], ProcessResult],
    *,
    name: str,
    values_hint: str,
    sandbox_id: str,
) -> Any:
    """Return what a message says.

    Raises:
        FunctionSerializationError: It needs something that is not installed here.
        SandboxExecutionError: It says nothing that makes sense, or not what the annotation promises.
    """
    try:
        return unpack(payload)
    except NotHere as error:
        lacking = FunctionSerializationError(f"{name} ran, but its {error}", hint=values_hint)
        lacking.exec_result = printed()
        raise lacking from error
    except BadValue as error:
        raise _improper(error, printed(), name, sandbox_id) from error


def _improper(why: object, printed: ProcessResult, name: str, sandbox_id: str) -> SandboxExecutionError:
    return SandboxExecutionError(
        f"the sandbox gave no proper result of {name}: {why}", exec_result=printed, sandbox_id=sandbox_id
    )


def _raise(answer: Answer, name: str, sandbox_id: str) -> NoReturn:
    try:
        told = json.loads(bytes(answer.payload))
    except (ValueError, RecursionError) as error:
        raise _improper(error, answer.printed, name, sandbox_id) from error
    if not isinstance(told, dict):
        told = {}
    kind, message = str(told.get("type", "Exception")), str(told.get("message", ""))
    defined = told.get("stage") != "define"
    failure = SandboxExecutionError(
        f"{name} {'raised' if defined else 'could not be set up in the sandbox:'} {kind}: {message}",
        exec_result=answer.printed,
        exception_type=kind,
        exception_message=message,
        exception_class=_builtin(kind) if told.get("module") == "builtins" else None,
        sandbox_id=sandbox_id,
        hint=None if defined else "What it imports must be in the sandbox's image, at a version that has the names.",
    )
    failure.add_note(f"In the sandbox:\n{told.get('traceback', '')}".rstrip())
    raise failure


def _builtin(name: str) -> type[BaseException] | None:
    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def ended(printed: ProcessResult, name: str, sandbox_id: str) -> SandboxError | CapabilityError:
    """Say that the interpreter ended without an answer, and how; or that there is none."""
    if printed.returncode == _NOT_FOUND and printed.stderr.startswith("aviato: python3:"):
        return CapabilityError(
            f"{name} cannot be called: the sandbox's image has no python3, which remote functions need",
            hint="Choose an image with Python 3.8 or later by container_image=.",
        )
    how = f"signal {printed.signal}" if printed.signal else f"return code {printed.returncode}"
    lines = printed.stderr.strip().splitlines()
    last = f"; its last words: {lines[-1][:300]}" if lines else ""
    return SandboxExecutionError(
        f"the interpreter of {name} ended with {how} before the function returned{last}",
        exec_result=printed,
        sandbox_id=sandbox_id,
        hint=_HINTS.get(printed.returncode),
    )
