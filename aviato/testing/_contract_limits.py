"""Checks of the limits of a sandbox's time; these wait for real time to pass."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable

from aviato.exceptions import SandboxNotFoundError
from aviato.models import ExitReason, SandboxInfo, SandboxStatus
from aviato.testing._ground import Ground, NotApplicable, expect

Check = Callable[[Ground], Awaitable[None]]


def _expect_end(info: SandboxInfo, reason: ExitReason) -> None:
    found = (info.status, info.exit_reason)
    expect(found == (SandboxStatus.TERMINATED, reason), f"it ended as {found}")


async def a_lifetime_ends_it(ground: Ground) -> None:
    """max_lifetime_seconds ends a busy sandbox, attached or detached."""
    names = [
        (await ground.sandbox(max_lifetime_seconds=0.5, detached=detached)).sandbox_id for detached in (False, True)
    ]
    for name in names:
        _expect_end(await ground.end_of(name), ExitReason.LIFETIME)


async def a_lifetime_can_be_extended(ground: Ground) -> None:
    """An extension adds to the lifetime: the sandbox outlives one that was made at the same time."""
    name = (await ground.sandbox(max_lifetime_seconds=1.0)).sandbox_id
    info = await ground.engine.extend(name, 120.0)
    expect(info.status is SandboxStatus.RUNNING, f"extend gave {info.status}")
    other = (await ground.sandbox(max_lifetime_seconds=1.5)).sandbox_id
    _expect_end(await ground.end_of(other), ExitReason.LIFETIME)
    expect((await ground.engine.get(name)).status is SandboxStatus.RUNNING, "the extended one has ended")


async def an_idle_one_ends(ground: Ground) -> None:
    """idle_timeout_seconds ends a sandbox in which no command runs, and not before."""
    name = (await ground.sandbox(idle_timeout_seconds=0.5)).sandbox_id
    channel = await ground.channel(name)
    busy = await ground.run(channel, "sh", "-c", "sleep 1; echo done")
    expect(busy.stdout == b"done\n", f"a command longer than the idle time gave {busy}")
    _expect_end(await ground.end_of(name), ExitReason.IDLE)


async def an_orphan_ends(ground: Ground) -> None:
    """Without a client it ends after orphan_timeout_seconds; a detached one stays."""
    if ground.abandon is None:
        raise NotApplicable("abandon was not given")
    maker, other = ground.another_engine(), ground.another_engine()
    attached = await maker.create(ground.spec(orphan_timeout_seconds=0.5))
    detached = await maker.create(ground.spec(orphan_timeout_seconds=0.5, detached=True))
    result = ground.abandon(maker)
    if inspect.isawaitable(result):
        await result
    with contextlib.suppress(SandboxNotFoundError):  # an engine may forget it: nobody has a claim to it
        async with asyncio.timeout(20):
            while not (info := await other.get(attached.sandbox_id)).status.is_terminal:  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.05)  # to watch it, one would have to be its client
        _expect_end(info, ExitReason.TIMEOUT)
    expect((await other.get(detached.sandbox_id)).status is SandboxStatus.RUNNING, "the detached one ended too")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (a_lifetime_ends_it, a_lifetime_can_be_extended, an_idle_one_ends, an_orphan_ends)
}
