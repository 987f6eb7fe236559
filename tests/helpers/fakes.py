"""What tests of the fake engine have to wait for."""

from __future__ import annotations

import asyncio


async def interpreters_ended() -> None:
    """Wait for fake interpreters: each is a thread, and notices at its next call that its sandbox is gone."""
    ending = [task for task in asyncio.all_tasks() if task.get_name().startswith("aviato-fake-")]
    if ending:
        await asyncio.wait(ending, timeout=10)
