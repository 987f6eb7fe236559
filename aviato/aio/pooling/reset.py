"""Making a sandbox fit for its next user, and telling when it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aviato.aio.pooling import inside
from aviato.aio.shipping.interpreter import Interpreter
from aviato.exceptions import CapabilityError, EngineProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aviato.aio._keeper import Kept
    from aviato.aio.process import Process

RESET_SECONDS = 30.0
"""How long a reset may take before the sandbox is replaced instead."""
INTERPRETERS_KEPT = 4
"""Warm interpreters of functions, each with some processes and 40 MB, that one sandbox keeps between two users."""
_ANSWER_BYTES = 1 << 16
_NOT_THERE = (126, 127)
_log = logging.getLogger("aviato")


@functools.cache
def _program() -> str:
    return (Path(inside.__file__).parent / "janitor.py").read_text(encoding="utf-8")


class Janitor:
    """The process in one sandbox that looks after it between two users."""

    def __init__(self, process: Process, lines: AsyncIterator[str]) -> None:
        self._process = process
        self._lines = lines

    @classmethod
    async def start(cls, kept: Kept, empty: Sequence[str], ignored: Sequence[str]) -> Janitor:
        """Start it and have it remember what is there now.

        Raises:
            CapabilityError: The image has no Python.
            AviatoError: The sandbox or the connection failed.
        """
        command = ["python3", "-I", "-B", "-S", "-X", "utf8", "-c", _program()]
        process = kept.sandbox.exec(command, stdin=True, max_output_bytes=_ANSWER_BYTES)
        process._completion.observed = True  # noqa: SLF001 - its end is told by the reset that misses it
        janitor = cls(process, aiter(process.stdout))
        first = await janitor._ask({"empty": list(empty), "ignored": list(ignored)})
        _log.debug("sandbox %s: %s files are watched", kept.sandbox.sandbox_id, first.get("known"))
        return janitor

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - it was started with one
        text = ""
        async with asyncio.timeout(RESET_SECONDS):
            await self._process.stdin.write(json.dumps(order).encode() + b"\n")
            while not text.endswith("\n"):
                piece = await anext(self._lines, None)
                if piece is None or len(text) > _ANSWER_BYTES:
                    raise await self._its_end()
                text += piece
        answer: Any = None
        with contextlib.suppress(ValueError, RecursionError):  # what runs in the sandbox may have said anything
            answer = json.loads(text)
        if not isinstance(answer, dict):
            raise EngineProtocolError(f"the reset of a sandbox gave no proper answer: {text[:200]!r}")
        return answer

    async def _its_end(self) -> CapabilityError | EngineProtocolError:
        """Wait for the end of the process, and say what it means."""
        result = await self._process.result()
        if result.returncode in _NOT_THERE:
            return CapabilityError(
                'reset="clean" needs a python3 (3.8 or later) in the sandbox, and its image has none',
                hint='Choose another image, or reset="replace" for a fresh sandbox each time.',
            )
        return EngineProtocolError(
            f"what resets a sandbox ended with return code {result.returncode}: {result.stderr.strip()[-300:]}"
        )

    async def reset(self, pids: Sequence[int], paths: Sequence[str]) -> str | None:
        """Kill and remove what the last user left; return what stands in the way of a next one, or None.

        Raises:
            AviatoError: The sandbox, the connection or the janitor itself failed.
            TimeoutError: It took too long.
        """
        answer = await self._ask({"pids": list(pids), "paths": list(paths)})
        alive, changed = answer.get("alive"), answer.get("changed")
        if alive == 0 and changed == 0:
            return None
        if alive:
            return f"{alive} of its processes could not be killed"
        first = answer.get("first")
        shown = ", ".join(str(path) for path in first) if isinstance(first, list) else ""
        return f"{changed} things outside the working and temporary directory were changed: {shown}"


def surplus(kept: Kept) -> list[tuple[object, Interpreter]]:
    """Return the interpreters of a sandbox but for those that were used last, with what they are attached under."""
    found = [(user, thing) for user, thing in kept.attached.items() if isinstance(thing, Interpreter)]
    return found[:-INTERPRETERS_KEPT]


async def end_surplus(kept: Kept) -> None:
    """End those, and return when they are dead.

    Raises:
        EngineConnectionError: One was not reported dead in time.
    """
    for user, interpreter in surplus(kept):
        del kept.attached[user]
        kept.spared_pids.discard(interpreter.pid)
        await interpreter.kill()
