"""Switches that make a fake engine fail in the ways real ones do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from aviato.exceptions import EngineConnectionError, Outcome

if TYPE_CHECKING:
    from aviato.testing._machine import FakeMachine

OPERATIONS = ("create", "get", "list", "watch", "stop", "delete", "connect", "logs", "extend")


class Faults:
    """What goes wrong next on a `FakeEngine`; every switch counts in `fired` when it does.

    Attributes:
        fired: How often each fault happened: `lose_reply:create`, `stall:stop`, `fail:get`, `crash`, `slow_start`,
            `drop_connection`. A test of a fault asserts that it is not zero.
    """

    def __init__(self, machine: FakeMachine) -> None:
        self.fired: Counter[str] = Counter()
        self._machine = machine
        self._lost: Counter[str] = Counter()
        self._stalls: dict[str, asyncio.Event] = {}
        self._failures: dict[str, list[Callable[[], BaseException]]] = {}
        self._slow = 0.0

    def lose_reply(self, operation: str, *, times: int = 1) -> None:
        """Let the next calls of `operation` take effect and then raise `EngineConnectionError`, outcome unknown."""
        self._lost[_known(operation)] += times

    def stall(self, operation: str, *, until: asyncio.Event) -> None:
        """Let calls of `operation` wait, before they have any effect, until the event is set."""
        self._stalls[_known(operation)] = until

    def fail(self, operation: str, error: BaseException | type[BaseException], *, times: int = 1) -> None:
        """Let the next calls of `operation` raise `error` without effect."""
        make = error if isinstance(error, type) else lambda: error
        self._failures.setdefault(_known(operation), []).extend([make] * times)

    def slow_start(self, seconds: float) -> None:
        """Let sandboxes take so long to start, until it is set to 0 again.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds!r}")
        self._slow = seconds

    def crash(self, sandbox_id: str) -> None:
        """Let the machine under a sandbox vanish: its exit reason is `lost`.

        Raises:
            SandboxNotFoundError: There is none of this id.
        """
        self._machine.on_loop(self._machine.find(sandbox_id).crash)
        self.fired["crash"] += 1

    def drop_connection(self, sandbox_id: str) -> int:
        """Break every connection to a sandbox's agent, which lives on; give their number.

        Raises:
            SandboxNotFoundError: There is none of this id.
        """
        count = self._machine.on_loop(self._machine.find(sandbox_id).agent.drop_connections)
        self.fired["drop_connection"] += count
        return count

    async def before(self, operation: str) -> None:
        """Stall or fail, as told; called by the engine."""
        event = self._stalls.get(operation)
        if event is not None and not event.is_set():
            self.fired[f"stall:{operation}"] += 1
            await event.wait()
        waiting = self._failures.get(operation)
        if waiting:
            self.fired[f"fail:{operation}"] += 1
            make = waiting.pop(0)
            raise make()
        if operation == "create" and self._slow:
            self.fired["slow_start"] += 1
            await asyncio.sleep(self._slow)

    def after(self, operation: str) -> None:
        """Lose the reply, as told; called by the engine."""
        if self._lost[operation]:
            self._lost[operation] -= 1
            self.fired[f"lose_reply:{operation}"] += 1
            raise EngineConnectionError(f"the reply to {operation} was lost", retryable=True, outcome=Outcome.UNKNOWN)


def _known(operation: str) -> str:
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    return operation
