"""Telling that an event loop is being shut down, when a task that is begun would never end."""

from __future__ import annotations

import asyncio


def loop_ends() -> bool:
    """Tell whether the running loop shuts its asynchronous generators down, as `asyncio.run` does before it closes it.

    There is no public way to ask; asyncio and uvloop have the same attribute. Another loop is taken not to end.
    """
    return bool(getattr(asyncio.get_running_loop(), "_asyncgens_shutdown_called", False))
