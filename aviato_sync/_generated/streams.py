# Generated from aviato/aio/streams.py by aviato_sync/_codegen.py: edit that, then run
# python -P aviato_sync/_codegen.py
"""Readers and writers of a process's streams."""

from __future__ import annotations

from typing import TypeVar, cast

from aviato import aio
from aviato_sync._bridge import ContextHandle, Handle, facade_of
from aviato_sync._iterators import BatchReader
from aviato_sync._operation import OperationRef

__all__ = [
    "StreamReader",
    "StreamWriter",
]

T = TypeVar("T", str, bytes)


@facade_of(aio.StreamReader)
class StreamReader(ContextHandle, BatchReader[T]):
    """Output of a command, in order, each byte once.

    A reader of `str` gives complete lines with their newline; the last one may lack it. A line that stays incomplete
    for 100 ms, or grows over 1 Mi characters, is handed on as it is, never splitting a character. Text is UTF-8 with
    replacement characters for what is not. A reader of `bytes` gives the pieces as they arrived, at most 64 KiB each.

    The place is the reader's: a second loop goes on where the first ended. Reading never takes anything
    from the process's result. Leaving a loop early neither blocks nor ends the process.
    """

    _core: aio.StreamReader[T]

    @property
    def buffer(self) -> StreamReader[bytes]:
        """The same output as bytes, read from its start, independently of this reader.

        Raises:
            TypeError: This reader gives bytes already, or there are no bytes below it.
        """
        __tracebackhide__ = True
        return cast("StreamReader[bytes]", self._get("buffer"))

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._core.closed

    def read(self) -> OperationRef[T]:
        """Read everything until the stream ends and return it joined.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            OutputLostError: Output beyond `max_output_bytes` passed before the reading began.
        """
        __tracebackhide__ = True
        return self._start(self._core.read)

    def close(self) -> OperationRef[None]:
        """Stop reading: iteration ends and nothing waits for this reader any more.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        The process and its result are not touched. Idempotent; raises nothing of its own.
        """
        __tracebackhide__ = True
        return self._start(self._core.close)


@facade_of(aio.StreamWriter)
class StreamWriter(Handle):
    """Input of a command.

    Writes are accepted in the order of the calls, with back-pressure: at most 256 KiB are on their way at a time.
    """

    _core: aio.StreamWriter

    @property
    def closed(self) -> bool:
        """True after `close`, and when the process ended or closed its input."""
        return self._core.closed

    def write(
        self,
        data: bytes,
    ) -> OperationRef[None]:
        """Send bytes; returns when all of them were accepted on their way.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        If cancelled, the bytes not yet accepted are not sent.

        Raises:
            TypeError: `data` is not bytes.
            SandboxExecutionError: The writer is closed, or the process ended or closed its input.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.write,
            data,
        )

    def writeline(
        self,
        text: str,
        encoding: str = "utf-8",
    ) -> OperationRef[None]:
        r"""Send text and a newline (`\n`), encoded.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Raises:
            TypeError: `text` is not a string.
            UnicodeEncodeError: It cannot be encoded.
            SandboxExecutionError: As `write`.
        """
        __tracebackhide__ = True
        return self._start(
            self._core.writeline,
            text,
            encoding,
        )

    def close(self) -> OperationRef[None]:
        """Send end-of-file after everything written before; returns when that was accepted.

        Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop.

        Idempotent, and no error when the process has already ended.
        """
        __tracebackhide__ = True
        return self._start(self._core.close)
