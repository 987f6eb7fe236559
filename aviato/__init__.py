"""Run untrusted code in sandboxes through one typed API.

Everything here is handed on lazily (PEP 562): importing the package starts no thread, opens nothing
and imports no engine. The handles are those of the facade `aviato_sync`; the asyncio core is `aviato.aio`.
"""

TYPE_CHECKING = False  # what `typing` has for this purpose, without the cost of importing it
if TYPE_CHECKING:
    from aviato import aio, exceptions, models
    from aviato.exceptions import (
        AgentProtocolError,
        AsyncFunctionError,
        AviatoAuthenticationError,
        AviatoError,
        CapabilityError,
        ConfigurationError,
        EngineConnectionError,
        EngineError,
        EngineProtocolError,
        EngineResponseError,
        ForkError,
        FunctionError,
        FunctionSerializationError,
        ImageDigestError,
        ImageNotFoundError,
        ImagePlatformError,
        IsolationUnavailableError,
        Outcome,
        OutputLostError,
        SandboxError,
        SandboxExecutionError,
        SandboxFailedError,
        SandboxFileError,
        SandboxLostError,
        SandboxNotFoundError,
        SandboxNotRunningError,
        SandboxResourceExhaustedError,
        SandboxTerminatedError,
        SandboxTimeoutError,
    )
    from aviato.models import (
        ExitReason,
        Isolation,
        Limits,
        MountedFile,
        NetworkOptions,
        PoolStats,
        ProcessResult,
        Protection,
        PullProgress,
        PullState,
        Resources,
        SandboxDefaults,
        SandboxInfo,
        SandboxStatus,
        Serialization,
    )
    from aviato_sync import (
        BlockingIterator,
        Lease,
        OperationRef,
        Pool,
        Process,
        RemoteFunction,
        Sandbox,
        Session,
        StreamReader,
        StreamWriter,
        as_completed,
        disable_signal_handlers,
        results,
        wait,
    )

__all__ = [
    "AgentProtocolError",
    "AsyncFunctionError",
    "AviatoAuthenticationError",
    "AviatoError",
    "BlockingIterator",
    "CapabilityError",
    "ConfigurationError",
    "EngineConnectionError",
    "EngineError",
    "EngineProtocolError",
    "EngineResponseError",
    "ExitReason",
    "ForkError",
    "FunctionError",
    "FunctionSerializationError",
    "ImageDigestError",
    "ImageNotFoundError",
    "ImagePlatformError",
    "Isolation",
    "IsolationUnavailableError",
    "Lease",
    "Limits",
    "MountedFile",
    "NetworkOptions",
    "OperationRef",
    "Outcome",
    "OutputLostError",
    "Pool",
    "PoolStats",
    "Process",
    "ProcessResult",
    "Protection",
    "PullProgress",
    "PullState",
    "RemoteFunction",
    "Resources",
    "Sandbox",
    "SandboxDefaults",
    "SandboxError",
    "SandboxExecutionError",
    "SandboxFailedError",
    "SandboxFileError",
    "SandboxInfo",
    "SandboxLostError",
    "SandboxNotFoundError",
    "SandboxNotRunningError",
    "SandboxResourceExhaustedError",
    "SandboxStatus",
    "SandboxTerminatedError",
    "SandboxTimeoutError",
    "Serialization",
    "Session",
    "StreamReader",
    "StreamWriter",
    "aio",
    "as_completed",
    "disable_signal_handlers",
    "exceptions",
    "models",
    "results",
    "wait",
]

_MODULES = frozenset({"aio", "exceptions", "models"})
_VALUES = frozenset(
    {
        "ExitReason",
        "Isolation",
        "Limits",
        "MountedFile",
        "NetworkOptions",
        "PoolStats",
        "ProcessResult",
        "Protection",
        "PullProgress",
        "PullState",
        "Resources",
        "SandboxDefaults",
        "SandboxInfo",
        "SandboxStatus",
        "Serialization",
    }
)


def __getattr__(name: str) -> object:
    """Find a public name at its first use, and keep it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - importing the package loads nothing

    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name.endswith("Error") or name == "Outcome":
        home = "aviato.exceptions"
    else:
        home = "aviato.models" if name in _VALUES else "aviato_sync"
    found: object = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names besides those of the module itself."""
    return sorted({*globals(), *__all__})
