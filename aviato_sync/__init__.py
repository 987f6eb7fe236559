"""The facade: the asyncio core, run on one background thread and used from anywhere.

Same names, values and errors as `aviato.aio`; what is a coroutine there returns an `OperationRef` here. `import aviato`
hands all of this on.
"""

from __future__ import annotations

from aviato.aio import disable_signal_handlers
from aviato_sync._generated import (
    Lease,
    Pool,
    Process,
    RemoteFunction,
    Sandbox,
    Session,
    StreamReader,
    StreamWriter,
)
from aviato_sync._iterators import BlockingIterator
from aviato_sync._operation import OperationRef
from aviato_sync._waiting import as_completed, results, wait

__all__ = [
    "BlockingIterator",
    "Lease",
    "OperationRef",
    "Pool",
    "Process",
    "RemoteFunction",
    "Sandbox",
    "Session",
    "StreamReader",
    "StreamWriter",
    "as_completed",
    "disable_signal_handlers",
    "results",
    "wait",
]
