"""The asyncio core: sandboxes, natively on the caller's own event loop."""

from __future__ import annotations

from aviato.aio._cleanup import disable_signal_handlers, stop_all_at_exit
from aviato.aio.function import RemoteFunction
from aviato.aio.operations import as_completed, results, wait
from aviato.aio.pool import Lease, Pool
from aviato.aio.process import Process
from aviato.aio.sandbox import Sandbox
from aviato.aio.session import Session
from aviato.aio.streams import StreamReader, StreamWriter

__all__ = [
    "Lease",
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
    "stop_all_at_exit",
    "wait",
]
