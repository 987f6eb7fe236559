"""Every error that aviato raises, in one tree.

::

    AviatoError
    ├── AviatoAuthenticationError
    ├── ConfigurationError (ValueError)
    ├── CapabilityError
    │   └── IsolationUnavailableError
    ├── EngineError
    │   ├── EngineConnectionError (ConnectionError)
    │   ├── EngineResponseError
    │   └── EngineProtocolError
    │       ├── AgentProtocolError
    │       └── ImageDigestError
    ├── SandboxError
    │   ├── SandboxNotRunningError
    │   ├── SandboxFailedError
    │   ├── SandboxTerminatedError
    │   ├── SandboxNotFoundError
    │   ├── SandboxLostError
    │   ├── SandboxTimeoutError (TimeoutError)
    │   ├── SandboxExecutionError
    │   ├── OutputLostError
    │   ├── SandboxFileError
    │   ├── ImageNotFoundError
    │   ├── ImagePlatformError
    │   └── SandboxResourceExhaustedError
    ├── FunctionError
    │   ├── AsyncFunctionError
    │   └── FunctionSerializationError (TypeError)
    └── ForkError (RuntimeError)

Errors which have a builtin counterpart inherit it too, so that ``except TimeoutError`` and
``except ConnectionError`` work as a reader of the standard library expects.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aviato.models import ProcessResult

__all__ = [
    "AgentProtocolError",
    "AsyncFunctionError",
    "AviatoAuthenticationError",
    "AviatoError",
    "CapabilityError",
    "ConfigurationError",
    "EngineConnectionError",
    "EngineError",
    "EngineProtocolError",
    "EngineResponseError",
    "ForkError",
    "FunctionError",
    "FunctionSerializationError",
    "ImageDigestError",
    "ImageNotFoundError",
    "ImagePlatformError",
    "IsolationUnavailableError",
    "Outcome",
    "OutputLostError",
    "SandboxError",
    "SandboxExecutionError",
    "SandboxFailedError",
    "SandboxFileError",
    "SandboxLostError",
    "SandboxNotFoundError",
    "SandboxNotRunningError",
    "SandboxResourceExhaustedError",
    "SandboxTerminatedError",
    "SandboxTimeoutError",
]


class Outcome(StrEnum):
    """Whether the operation that failed took effect."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"
    UNKNOWN = "unknown"


class AviatoError(Exception):
    """Base of all errors of aviato.

    Attributes:
        hint: What to do next, one or more sentences, or None.
        is_infrastructure: True when the machine or the connection failed and the task itself may be
            repeated elsewhere; False when the task, or the call, is at fault.
        outcome: Whether the failed operation took effect.
        exec_result: What a command had written until then, where a command was running, else None.
    """

    is_infrastructure: bool = False
    outcome: Outcome = Outcome.NOT_APPLIED
    exec_result: ProcessResult | None = None

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        is_infrastructure: bool | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if is_infrastructure is not None:
            self.is_infrastructure = is_infrastructure
        if outcome is not None:
            self.outcome = outcome

    def __str__(self) -> str:
        """Return the message, with the hint on a line of its own."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, because the constructors of subclasses take keywords."""
        return (_rebuild, (type(self), self.message, self.__dict__))


def _rebuild(cls: type[AviatoError], message: str, state: dict[str, Any]) -> AviatoError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class AviatoAuthenticationError(AviatoError):
    """The API key, or the login at a registry of images, is missing, wrong or not allowed to do this."""


class ConfigurationError(AviatoError, ValueError):
    """A setting has a bad value; the message names the setting and where the value came from."""


class CapabilityError(AviatoError):
    """The engine cannot do what was asked; nothing was weakened or left out silently."""


class IsolationUnavailableError(CapabilityError):
    """A protection could not be set up, so no sandbox was started.

    Attributes:
        step: Name of the step that was refused, as in `aviato doctor`.
        remedy: What an administrator can do about it.
    """

    is_infrastructure = True

    def __init__(self, message: str = "", *, step: str = "", remedy: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("hint", remedy or None)
        super().__init__(message, **kwargs)
        self.step = step
        self.remedy = remedy


class EngineError(AviatoError):
    """The engine failed.

    Attributes:
        retryable: True when repeating the call is safe and may succeed.
    """

    is_infrastructure = True

    def __init__(self, message: str = "", *, retryable: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retryable = retryable


class EngineConnectionError(EngineError, ConnectionError):
    """The engine, the agent in a sandbox, or a registry of images could not be reached."""

    outcome = Outcome.UNKNOWN


class EngineResponseError(EngineError):
    """The engine, or a registry of images, answered with an error of its own.

    Attributes:
        status: HTTP status, or None.
        code: The engine's machine-readable code, or None.
        request_id: The engine's id of the request, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.status = status
        self.code = code
        self.request_id = request_id


class EngineProtocolError(EngineError):
    """The engine, or a registry of images, sent something that its protocol does not allow."""

    outcome = Outcome.UNKNOWN


class AgentProtocolError(EngineProtocolError):
    """The agent in a sandbox broke the protocol; the sandbox must be considered hostile."""


class ImageDigestError(EngineProtocolError):
    """What a registry sent of an image is not what the image's digest promises; nothing of it was kept.

    Attributes:
        expected: The digest that it should have.
        actual: The digest that it has, or empty when its length was already wrong.
    """

    outcome = Outcome.NOT_APPLIED

    def __init__(self, message: str = "", *, expected: str = "", actual: str = "", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.expected = expected
        self.actual = actual


class SandboxError(AviatoError):
    """Something is wrong with one sandbox, or with several (see the chained group).

    Attributes:
        sandbox_id: Its id, or None when the error is about several or none.
    """

    def __init__(self, message: str = "", *, sandbox_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.sandbox_id = sandbox_id


class SandboxNotRunningError(SandboxError):
    """The operation needs a running sandbox, and this one has not started or is no longer running."""


class SandboxFailedError(SandboxError):
    """The sandbox failed: it could not start, or its main command ended with an error."""


class SandboxTerminatedError(SandboxError):
    """The sandbox was stopped, by a call or by one of its time limits, before the work was done."""


class SandboxNotFoundError(SandboxError):
    """No sandbox of this id exists (any more)."""


class SandboxLostError(SandboxError):
    """The machine or process under the sandbox is gone; what ran there cannot be known."""

    is_infrastructure = True
    outcome = Outcome.UNKNOWN


class SandboxTimeoutError(SandboxError, TimeoutError):
    """A time limit of an operation passed and the operation was ended.

    Attributes:
        exec_result: Output and state of the command until then, or None when no command was involved.
    """

    outcome = Outcome.APPLIED

    def __init__(self, message: str = "", *, exec_result: ProcessResult | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.exec_result = exec_result


class SandboxExecutionError(SandboxError):
    """A command or a remote function failed, or its input could not be delivered.

    Attributes:
        exec_result: The command's output and return code, or None.
        exception_type: Name of the remote exception's class, or None.
        exception_message: Text of the remote exception, or None.
        exception_class: The class itself when it is a builtin one, such as `ValueError`, else None.
    """

    outcome = Outcome.APPLIED

    def __init__(
        self,
        message: str = "",
        *,
        exec_result: ProcessResult | None = None,
        exception_type: str | None = None,
        exception_message: str | None = None,
        exception_class: type[BaseException] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.exec_result = exec_result
        self.exception_type = exception_type
        self.exception_message = exception_message
        self.exception_class = exception_class


class OutputLostError(SandboxError):
    """Part of a command's output is no longer available; nothing is silently left out.

    Attributes:
        stream: `"stdout"` or `"stderr"`.
        received: Bytes delivered before the gap.
        sent: Bytes the command had written when the gap was found, as far as known.
    """

    is_infrastructure = True
    outcome = Outcome.UNKNOWN

    def __init__(
        self, message: str = "", *, stream: str = "stdout", received: int = 0, sent: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.stream = stream
        self.received = received
        self.sent = sent


class SandboxFileError(SandboxError):
    """A file operation in a sandbox failed.

    Attributes:
        filepath: The path as it was given.
        errno: The error number of the system call inside the sandbox, or None.
    """

    def __init__(self, message: str = "", *, filepath: str = "", errno: int | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.filepath = filepath
        self.errno = errno


class ImageNotFoundError(SandboxError):
    """The container image is not known to the engine.

    Attributes:
        image: The name that was asked for.
    """

    def __init__(self, message: str = "", *, image: str = "", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.image = image


class ImagePlatformError(SandboxError):
    """The image exists, and none of its variants runs on this machine.

    Attributes:
        image: The name that was asked for.
        wanted: What this machine runs, such as `linux/amd64`.
        offered: What the image is built for, sorted.
    """

    def __init__(
        self,
        message: str = "",
        *,
        image: str = "",
        wanted: str = "",
        offered: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.image = image
        self.wanted = wanted
        self.offered = offered


class SandboxResourceExhaustedError(SandboxError):
    """The machine, or a limit of the sandbox, has no more of what was needed."""

    is_infrastructure = True


class FunctionError(AviatoError):
    """A function cannot be used as a remote function."""


class AsyncFunctionError(FunctionError):
    """Kept so that imports work: asynchronous functions are accepted, and this is never raised."""


class FunctionSerializationError(FunctionError, TypeError):
    """A function, an argument or a result cannot be carried to or from a sandbox."""


class ForkError(AviatoError, RuntimeError):
    """A handle was used in a forked child; it belongs to the parent process."""


def summarize_failures(verb: str, failures: Sequence[tuple[str, BaseException]], total: int) -> SandboxError:
    """Build the one error for an operation over several sandboxes, with the causes chained as a group."""
    ids = ", ".join(sandbox_id for sandbox_id, _ in failures)
    error = SandboxError(
        f"{len(failures)} of {total} sandboxes could not be {verb}: {ids}",
        outcome=Outcome.UNKNOWN,
        is_infrastructure=any(getattr(cause, "is_infrastructure", False) for _, cause in failures),
    )
    causes = [cause for _, cause in failures]
    error.__cause__ = BaseExceptionGroup(f"sandboxes not {verb}", causes)
    return error
