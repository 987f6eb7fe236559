# Generated from aviato/aio by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""The facade's classes."""

from aviato_sync._generated.function import RemoteFunction
from aviato_sync._generated.pool import Lease, Pool
from aviato_sync._generated.process import Process
from aviato_sync._generated.sandbox import Sandbox
from aviato_sync._generated.session import Session
from aviato_sync._generated.streams import StreamReader, StreamWriter

__all__ = [
    "Lease",
    "Pool",
    "Process",
    "RemoteFunction",
    "Sandbox",
    "Session",
    "StreamReader",
    "StreamWriter",
]
