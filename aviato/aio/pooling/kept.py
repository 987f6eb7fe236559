"""One sandbox that is kept for repeated use, and what its users left to be found again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aviato.aio.sandbox import Sandbox


class _Attached(OrderedDict[object, Any]):
    """What is attached, in the order in which it was last asked for."""

    def get(self, key: object, default: Any = None) -> Any:
        """Return what is attached under a key, which is the last one then."""
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]


class Kept:
    """A sandbox of a keeper.

    Attributes:
        sandbox: The sandbox.
        made_at: When it was made, by the loop's clock.
        release: Called once when it is gone: there may be another one then.
        attached: What its users keep with it, such as a warm interpreter, in the order of the last `get`; emptied when
            the sandbox goes.
        spared_pids: Processes of what is attached, as numbered in the sandbox, that a reset leaves alive.
        spared_paths: Files and directories of what is attached that a reset leaves as they are.
        uses: How often it was taken.
    """

    __slots__ = ("__weakref__", "attached", "made_at", "release", "sandbox", "spared_paths", "spared_pids", "uses")

    def __init__(self, sandbox: Sandbox, made_at: float, release: Callable[[], object]) -> None:
        self.sandbox = sandbox
        self.release = release
        self.attached: dict[object, Any] = _Attached()
        self.spared_pids: set[int] = set()
        self.spared_paths: set[str] = set()
        self.uses = 0
        self.made_at = made_at

    @property
    def ended(self) -> bool:
        """True when the engine said that the sandbox no longer runs."""
        return self.sandbox.status.is_terminal

    def forget_attached(self) -> None:
        """Forget what is attached, because the sandbox goes."""
        self.attached.clear()
        self.spared_pids.clear()
        self.spared_paths.clear()
