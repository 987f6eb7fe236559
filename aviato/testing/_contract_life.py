"""Checks of how sandboxes come, are found, and end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import attrs

from aviato.engines.base import Engine, SandboxQuery
from aviato.exceptions import (
    CapabilityError,
    ImageNotFoundError,
    SandboxFailedError,
    SandboxNotFoundError,
    SandboxNotRunningError,
)
from aviato.models import ExitReason, NetworkOptions, Resources, SandboxStatus
from aviato.testing._ground import Ground, NotApplicable, expect, expect_error

Check = Callable[[Ground], Awaitable[None]]
STUBBORN = ("sh", "-c", "trap '' TERM; while true; do sleep 600; done")
_MARGIN = 2.0


async def create_starts_a_sandbox(ground: Ground) -> None:
    """What create returns is running and has what was asked for."""
    spec = ground.spec(tags=("a", "b"), annotations={"team": "x"}, resources=Resources.coerce({"memory": "256Mi"}))
    info = await ground.engine.create(spec)
    expect(info.status is SandboxStatus.RUNNING, f"created, but {info.status}")
    expect(info.sandbox_id == spec.sandbox_id, f"asked for {spec.sandbox_id}, got {info.sandbox_id}")
    expect(set(info.tags) == {"a", "b"}, f"tags are {info.tags}")
    expect(info.annotations.get("team") == "x", f"annotations are {dict(info.annotations)}")
    expect(info.container_image, "container_image is empty")
    expect(info.resources.memory_bytes == 256 << 20, f"resources are {info.resources}")
    expect(info.created_at.utcoffset() == timedelta(0), f"created_at is not in UTC: {info.created_at!r}")
    expect(info.started_at is not None and info.started_at >= info.created_at, f"started_at is {info.started_at}")
    expect(info.ended_at is None and info.returncode is None and info.exit_reason is None, f"it has an end: {info}")
    known = await ground.engine.get(spec.sandbox_id)
    expect(known.status is SandboxStatus.RUNNING, f"get says {known.status}")
    expect(known.created_at == info.created_at, "get gives another created_at than create")


async def create_is_idempotent(ground: Ground) -> None:
    """The same id and body is the same sandbox, one after the other and at once."""
    spec = ground.spec(tags=(ground.new_id(),))
    first, second = await asyncio.gather(ground.engine.create(spec), ground.engine.create(spec))
    third = await ground.engine.create(spec)
    expect(first.created_at == second.created_at == third.created_at, "repeating create made another sandbox")
    expect(await ground.ids(SandboxQuery(tags=spec.tags)) == {spec.sandbox_id}, "list does not show exactly one")


async def another_body_is_refused(ground: Ground) -> None:
    """An id that is used with another body is an error, and the first sandbox goes on."""
    spec = ground.spec(environment={"A": "1"})
    await ground.engine.create(spec)
    with expect_error(SandboxFailedError, "create with a used id and another body") as caught:
        await ground.engine.create(attrs.evolve(spec, environment={"A": "2"}))
    expect(caught[0].sandbox_id == spec.sandbox_id, "the error does not name the sandbox")
    expect((await ground.engine.get(spec.sandbox_id)).status is SandboxStatus.RUNNING, "the first one was disturbed")


async def unknown_ids_are_not_found(ground: Ground) -> None:
    """Every method says SandboxNotFoundError with the id; missing_ok is success."""
    engine, name = ground.engine, ground.new_id()

    async def logs() -> None:
        async for _ in engine.logs(name):
            pass

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: engine.get(name),
        "stop": lambda: engine.stop(name, grace_seconds=0.0),
        "delete": lambda: engine.delete(name),
        "connect": lambda: engine.connect(name, asyncio.Protocol()),
        "logs": logs,
        "extend": lambda: engine.extend(name, 1.0),
    }
    for method, call in calls.items():
        with expect_error(SandboxNotFoundError, f"{method} of an unknown id") as caught:
            await call()
        expect(caught[0].sandbox_id == name, f"the error of {method} does not name the sandbox")
    expect(await engine.stop(name, grace_seconds=0.0, missing_ok=True) is None, "stop(missing_ok) gave a state")
    await engine.delete(name, missing_ok=True)


async def list_finds_by_tags_and_status(ground: Ground) -> None:
    """All tags must match; ended ones only when asked for."""
    tag = ground.new_id()
    one = (await ground.sandbox(tags=(tag, "x"))).sandbox_id
    two = (await ground.sandbox(tags=(tag, "y"))).sandbox_id
    expect(await ground.ids(SandboxQuery(tags=(tag,))) == {one, two}, "list by one tag")
    expect(await ground.ids(SandboxQuery(tags=(tag, "x"))) == {one}, "list by two tags")
    expect(await ground.ids(SandboxQuery(tags=(tag, "x", "y"))) == set(), "list by tags that none has all of")
    await ground.engine.stop(two, grace_seconds=0.0)
    expect(await ground.ids(SandboxQuery(tags=(tag,))) == {one}, "list shows an ended one")
    expect(await ground.ids(SandboxQuery(tags=(tag,), include_stopped=True)) == {one, two}, "list(include_stopped)")
    ended = SandboxQuery(tags=(tag,), statuses=frozenset({SandboxStatus.TERMINATED}))
    expect(await ground.ids(ended) == {two}, "list by status")


async def another_client_finds_and_uses_it(ground: Ground) -> None:
    """A second engine on the same substrate gets, lists, uses and ends what the first one made."""
    tag = ground.new_id()
    name = (await ground.sandbox(tags=(tag,))).sandbox_id
    other = ground.another_engine()
    expect((await other.get(name)).status is SandboxStatus.RUNNING, "get of another client")
    expect(await ground.ids(SandboxQuery(tags=(tag,)), other) == {name}, "list of another client")
    channel = await ground.channel(name, other)
    expect((await ground.run(channel, "echo", "hi")).stdout == b"hi\n", "a command of another client")
    await channel.close()
    info = await other.stop(name, grace_seconds=0.0)
    expect(info is not None and info.status is SandboxStatus.TERMINATED, f"stop of another client gave {info}")
    expect((await ground.engine.get(name)).status is SandboxStatus.TERMINATED, "the maker does not see the end")


async def watch_pushes_changes(ground: Ground) -> None:
    """A stop and an end by itself are pushed."""
    name = (await ground.sandbox()).sandbox_id
    async with ground.watching() as changes:
        await ground.engine.stop(name, grace_seconds=0.0)
        ended = (await ground.sandbox("sh", "-c", "exit 4")).sandbox_id
        waiting = {name: SandboxStatus.TERMINATED, ended: SandboxStatus.FAILED}
        while waiting:
            info = await changes.get()
            if info.status.is_terminal and info.sandbox_id in waiting:
                expect(info.status is waiting.pop(info.sandbox_id), f"pushed {info.status} with {info.exit_reason}")


async def a_main_command_ends_the_sandbox(ground: Ground) -> None:
    """Return code 0 is completed, another failed, a signal 128 and its number."""
    for script, status, code, reason in (
        ("exit 0", SandboxStatus.COMPLETED, 0, ExitReason.EXITED),
        ("exit 3", SandboxStatus.FAILED, 3, ExitReason.EXITED),
        ("kill -KILL $$", SandboxStatus.FAILED, 137, ExitReason.SIGNALLED),
    ):
        info = await ground.end_of((await ground.sandbox("sh", "-c", script)).sandbox_id)
        found = (info.status, info.returncode, info.exit_reason)
        expect(found == (status, code, reason), f"{script!r} gave {found}")
        expect(info.ended_at is not None, "ended_at is missing")
    info = await ground.end_of((await ground.sandbox("no-such-program-anywhere")).sandbox_id)
    expect((info.status, info.returncode) == (SandboxStatus.FAILED, 127), f"a missing main command gave {info}")


async def terminal_states_are_final(ground: Ground) -> None:
    """What has ended stays as it ended, whatever is asked of it, and cannot be used."""
    name = (await ground.sandbox("sh", "-c", "exit 3")).sandbox_id
    ended = await ground.end_of(name)
    stopped = await ground.engine.stop(name, grace_seconds=0.0)
    expect(stopped is not None, "stop of an ended one gave None")
    for info in (stopped, await ground.engine.get(name)):
        if info is not None:
            found = (info.status, info.returncode, info.exit_reason, info.ended_at)
            expect(found == (SandboxStatus.FAILED, 3, ExitReason.EXITED, ended.ended_at), f"it became {found}")
    with expect_error(SandboxNotRunningError, "connect to an ended one"):
        await ground.engine.connect(name, asyncio.Protocol())
    with expect_error(SandboxNotRunningError, "extend of an ended one"):
        await ground.engine.extend(name, 1.0)


async def stop_is_idempotent_and_shared(ground: Ground) -> None:
    """Several callers of two clients, and a later one, all get the same end."""
    name = (await ground.sandbox()).sandbox_id
    other = ground.another_engine()
    engines = (ground.engine, other, ground.engine, other)
    states = await asyncio.gather(*(engine.stop(name, grace_seconds=1.0) for engine in engines))
    states.append(await ground.engine.stop(name, grace_seconds=1.0))
    for info in states:
        found = info and (info.status, info.exit_reason)
        expect(found == (SandboxStatus.TERMINATED, ExitReason.STOPPED), f"stop gave {found}")


async def stop_ends_what_will_not(ground: Ground) -> None:
    """A main command and another that ignore SIGTERM are gone within the grace and two seconds."""
    grace = 0.3
    name = (await ground.sandbox(*STUBBORN)).sandbox_id
    channel = await ground.channel(name)
    watcher = ground.start(channel, "sh", "-c", "trap '' TERM; echo on; while true; do sleep 600; done")
    await watcher.seen(b"on\n")
    began = time.monotonic()
    info = await ground.engine.stop(name, grace_seconds=grace)
    took = time.monotonic() - began
    expect(took < grace + _MARGIN, f"stop took {took:.2f} s with a grace of {grace} s")
    expect(info is not None and info.status is SandboxStatus.TERMINATED, f"stop gave {info}")


async def stop_gives_time_to_end(ground: Ground) -> None:
    """SIGTERM comes first, and what the main command writes then is in the log."""
    script = "trap 'echo bye; exit 0' TERM; echo on; while true; do sleep 0.05; done"
    name = (await ground.sandbox("sh", "-c", script)).sandbox_id
    async for record in ground.engine.logs(name, follow=True):
        if b"on" in record.data:
            break
    await ground.engine.stop(name, grace_seconds=10.0)
    text = b"".join([record.data async for record in ground.engine.logs(name) if record.stream == "stdout"])
    expect(text == b"on\nbye\n", f"the log is {text!r}")


async def delete_leaves_nothing(ground: Ground) -> None:
    """A deleted sandbox, running or ended, is unknown, and its id can be used again."""
    spec = ground.spec(tags=(ground.new_id(),))
    await ground.engine.create(spec)
    await ground.engine.delete(spec.sandbox_id)
    expect(not await ground.is_known(spec.sandbox_id), "get still knows it")
    expect(await ground.ids(SandboxQuery(tags=spec.tags, include_stopped=True)) == set(), "list still knows it")
    with expect_error(SandboxNotFoundError, "a second delete"):
        await ground.engine.delete(spec.sandbox_id)
    again = await ground.engine.create(spec)
    expect(again.status is SandboxStatus.RUNNING, f"created again, but {again.status}")
    await ground.engine.stop(spec.sandbox_id, grace_seconds=0.0)
    await ground.engine.delete(spec.sandbox_id)
    expect(not await ground.is_known(spec.sandbox_id), "get still knows an ended one")


async def cancelled_create_leaves_nothing(ground: Ground) -> None:
    """Cancelled after any number of turns of the loop, create has made nothing or was already done."""
    tag = ground.new_id()
    for turns in (0, 1, 2, 3, 5, 8, 20, 100):
        spec = ground.spec(tags=(tag,))
        task = asyncio.ensure_future(ground.engine.create(spec))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await ground.engine.delete(spec.sandbox_id)
        expect(not await ground.is_known(spec.sandbox_id), f"cancelled after {turns} turns, it is still there")
    expect(await ground.ids(SandboxQuery(tags=(tag,), include_stopped=True)) == set(), "list shows a cancelled one")


async def what_it_cannot_give_is_refused(ground: Ground) -> None:
    """Whatever `capabilities` deny is a CapabilityError at create, and nothing is left."""
    capabilities = ground.engine.capabilities
    network = NetworkOptions
    refused = {
        "gpu": ground.spec(resources=Resources.coerce({"gpu": 100_000})),
        "egress": ground.spec(network=network(egress_mode="internet")),
        "ports": ground.spec(network=network(exposed_ports=(80,))),
        "volumes": ground.spec(volumes=({"name": "data", "path": "/data"},)),
        "read_only": ground.spec(read_only=True),
        "secrets": ground.spec(secrets={"token": "x"}),
        "runtime": ground.spec(runtime="no-such-runtime"),
    }
    for name, spec in refused.items():
        if name not in ("runtime", "gpu") and getattr(capabilities, name):
            continue
        with expect_error(CapabilityError, f"create with {name}, which this engine does not offer"):
            await ground.engine.create(spec)
        expect(not await ground.is_known(spec.sandbox_id), f"a sandbox refused for {name} is still there")


async def a_missing_image_is_named(ground: Ground) -> None:
    """An unknown image is ImageNotFoundError with its name, and nothing is left."""
    if ground.missing_image is None:
        raise NotApplicable("missing_image was not given")
    spec = ground.spec(image=ground.missing_image)
    with expect_error(ImageNotFoundError, "create with an unknown image") as caught:
        await ground.engine.create(spec)
    expect(caught[0].image == ground.missing_image, f"the error names {caught[0].image!r}")
    expect(not await ground.is_known(spec.sandbox_id), "it is still there")


async def close_ends_what_is_attached(ground: Ground) -> None:
    """Closing ends this engine's sandboxes and leaves the detached ones; it can be repeated."""
    maker, other = ground.another_engine(), ground.another_engine()
    attached, detached = ground.spec(), ground.spec(detached=True)
    for spec in (attached, detached):
        await maker.create(spec)
    await _close_twice(maker)
    with contextlib.suppress(SandboxNotFoundError):  # it may be forgotten as soon as it has ended
        info = await other.get(attached.sandbox_id)
        expect(info.status.is_terminal, f"the attached one is {info.status} after close")
    left = await other.get(detached.sandbox_id)
    expect(left.status is SandboxStatus.RUNNING, f"the detached one is {left.status} after close")
    channel = await ground.channel(detached.sandbox_id, other)
    expect((await ground.run(channel, "echo", "left")).stdout == b"left\n", "a command in the detached one")


async def _close_twice(engine: Engine) -> None:
    await engine.close()
    await engine.close()


def _named(*checks: Check) -> dict[str, Check]:
    return {getattr(check, "__name__", ""): check for check in checks}


CHECKS = _named(
    create_starts_a_sandbox,
    create_is_idempotent,
    another_body_is_refused,
    unknown_ids_are_not_found,
    list_finds_by_tags_and_status,
    another_client_finds_and_uses_it,
    watch_pushes_changes,
    a_main_command_ends_the_sandbox,
    terminal_states_are_final,
    stop_is_idempotent_and_shared,
    stop_ends_what_will_not,
    stop_gives_time_to_end,
    delete_leaves_nothing,
    cancelled_create_leaves_nothing,
    what_it_cannot_give_is_refused,
    a_missing_image_is_named,
    close_ends_what_is_attached,
)
