"""An engine in memory, for tests of code that uses aviato, and of aviato itself."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from typing import Self

from aviato.agent.memory import connect_in_memory
from aviato.engines.base import Capabilities, Engine, LogRecord, SandboxQuery, SandboxSpec
from aviato.exceptions import (
    CapabilityError,
    EngineError,
    ImageNotFoundError,
    SandboxFailedError,
    SandboxLostError,
    SandboxNotFoundError,
    SandboxNotRunningError,
)
from aviato.models import ExitReason, SandboxInfo, SandboxStatus
from aviato.testing._clock import Clock
from aviato.testing._faults import Faults
from aviato.testing._machine import DEFAULT_IMAGE, FakeMachine, FakeSandbox
from aviato.testing._processes import Main

__all__ = ["FakeEngine"]


class FakeEngine(Engine):
    """Sandboxes in memory, with the behaviour of real ones and switches for what goes wrong.

    **It isolates nothing.** Programs run in this process; `python` runs code on a thread of it. Use it to test your own
    code, never to run code of others.

    Its agent speaks the real wire format, so everything above an engine is really exercised. Programs are coroutines:
    those built in (a small `sh`, `python`, and the usual `echo`, `cat`, `sleep`, `head`, ...) and those given
    as `programs`. The file system is a tree in memory.

    Attributes:
        faults: Switches for what goes wrong.
        machine: What the sandboxes live on; `another_client` gives a second engine on it.
    """

    name = "fake"

    def __init__(
        self,
        *,
        gpus: int = 8,
        programs: Mapping[str, Main] | None = None,
        missing_images: Collection[str] = (),
        clock: Clock | None = None,
        machine: FakeMachine | None = None,
    ) -> None:
        """Make an engine on a machine of its own, or on one that exists already.

        Args:
            gpus: GPUs that one sandbox may ask for at most.
            programs: Commands by name, over the built-in ones: `async def program(ctx: Program) -> int`.
            missing_images: Names of images that are not there; every other name is.
            clock: What time limits run by; `ManualClock` in tests of them.
            machine: Use this one, which has its own programs, images and clock.
        """
        from aviato.testing._builtins import BUILTINS  # noqa: PLC0415 - the shell and python are needed only here

        if machine is None:
            machine = FakeMachine(programs={**BUILTINS, **(programs or {})}, missing_images=missing_images, clock=clock)
        elif programs or missing_images or clock:
            raise ValueError("programs, missing_images and clock belong to the machine that was given")
        self.machine = machine
        self.faults = Faults(machine)
        self._gpus = gpus
        self._made: set[str] = set()
        self._creating: dict[str, asyncio.Event] = {}
        self._closed = False

    def another_client(self) -> Self:
        """Return a second engine on the same machine, as another process of the user would have."""
        return type(self)(gpus=self._gpus, machine=self.machine)

    def made(self, sandbox_id: str) -> bool:
        """Tell whether this object made the sandbox."""
        return sandbox_id in self._made

    @property
    def capabilities(self) -> Capabilities:
        """What a fake engine offers."""
        return Capabilities(
            images=True,
            gpu=self._gpus > 0,
            egress=False,
            ports=False,
            volumes=False,
            secrets=False,
            users=True,
        )

    def _check(self, spec: SandboxSpec) -> None:
        if spec.resources.gpu_count > self._gpus:
            raise CapabilityError(f"gpu: {spec.resources.gpu_count} asked for, the fake engine has {self._gpus}")
        network = spec.network
        for name, asked in (
            ("volumes", spec.volumes),
            ("secrets", spec.secrets),
            ("network.exposed_ports", network.exposed_ports),
            ("network.allow_hosts", network.allow_hosts),
            ("network.egress_mode", network.egress_mode != "none"),
            ("network.ingress_mode", network.ingress_mode != "none"),
            ("runtime", spec.runtime),
            ("read_only", spec.read_only),
        ):
            if asked:
                raise CapabilityError(f"the fake engine has no {name}", hint=f"Leave {name} out.")
        image = spec.image or DEFAULT_IMAGE
        if image in self.machine.missing_images:
            raise ImageNotFoundError(
                f"image {image!r} is registered as missing", image=image, sandbox_id=spec.sandbox_id
            )

    def _use(self) -> FakeMachine:
        if self._closed:
            raise EngineError("the fake engine is closed")
        self.machine.bind()
        return self.machine

    async def create(self, spec: SandboxSpec) -> SandboxInfo:
        """Create and start a sandbox; see `Engine.create`."""
        machine = self._use()
        name = spec.sandbox_id
        while name in self._creating:
            await self._creating[name].wait()
        self._creating[name] = asyncio.Event()
        try:
            await self.faults.before("create")
            known = machine.sandboxes.get(name)
            if known is not None:
                if known.spec != spec:
                    raise SandboxFailedError(f"sandbox {name} exists already with another body", sandbox_id=name)
                self._join(known)
                self.faults.after("create")
                return known.info
            self._check(spec)
            sandbox = machine.sandboxes[name] = FakeSandbox(machine, spec)
            self._made.add(name)
            sandbox.clients.add(self)
            sandbox.start()
            self.faults.after("create")
            return sandbox.info
        finally:
            self._creating.pop(name).set()

    def _join(self, sandbox: FakeSandbox) -> None:
        sandbox.clients.add(self)
        sandbox.touch()

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Look one sandbox up; see `Engine.get`."""
        machine = self._use()
        await self.faults.before("get")
        info = machine.find(sandbox_id).info
        self.faults.after("get")
        return info

    async def list(self, query: SandboxQuery) -> AsyncIterator[SandboxInfo]:
        """Iterate over the sandboxes that match; see `Engine.list`."""
        machine = self._use()
        await self.faults.before("list")
        for sandbox in list(machine.sandboxes.values()):
            if query.matches(sandbox.info):
                yield sandbox.info

    def watch(self) -> AsyncIterator[SandboxInfo]:
        """Iterate over changes, from this call on; see `Engine.watch`."""
        machine = self._use()
        queue: asyncio.Queue[SandboxInfo] = asyncio.Queue()
        entry = (self, queue)
        machine.watchers.append(entry)

        async def changes() -> AsyncGenerator[SandboxInfo, None]:
            try:
                await self.faults.before("watch")
                while True:
                    yield await queue.get()
            finally:
                if entry in machine.watchers:
                    machine.watchers.remove(entry)

        return changes()

    async def stop(self, sandbox_id: str, *, grace_seconds: float, missing_ok: bool = False) -> SandboxInfo | None:
        """End a sandbox; see `Engine.stop`."""
        machine = self._use()
        await self.faults.before("stop")
        try:
            sandbox = machine.find(sandbox_id)
        except SandboxNotFoundError:
            if missing_ok:
                return None
            raise
        await sandbox.end(grace_seconds)
        self.faults.after("stop")
        return sandbox.info

    async def delete(self, sandbox_id: str, *, missing_ok: bool = False) -> None:
        """Stop a sandbox and forget it; see `Engine.delete`."""
        machine = self._use()
        await self.faults.before("delete")
        try:
            sandbox = machine.find(sandbox_id)
        except SandboxNotFoundError:
            if missing_ok:
                return
            raise
        await sandbox.end(0.0)
        machine.sandboxes.pop(sandbox_id, None)
        self._made.discard(sandbox_id)
        self.faults.after("delete")

    async def connect(self, sandbox_id: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open a stream to the agent; see `Engine.connect`."""
        from aviato.agent.served import AgentConnection  # noqa: PLC0415 - beside its use

        machine = self._use()
        await self.faults.before("connect")
        sandbox = machine.find(sandbox_id)
        info = sandbox.info
        if info.exit_reason is ExitReason.LOST:
            raise SandboxLostError(f"sandbox {sandbox_id} was lost: {info.message}", sandbox_id=sandbox_id)
        if info.status.is_terminal:
            raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
        self._join(sandbox)
        self.faults.after("connect")
        return connect_in_memory(protocol, AgentConnection(sandbox.agent))

    async def logs(
        self, sandbox_id: str, *, follow: bool = False, tail_lines: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogRecord]:
        """Iterate over the main command's output; see `Engine.logs`."""
        machine = self._use()
        await self.faults.before("logs")
        sandbox = machine.find(sandbox_id)
        records = [record for record in sandbox.log if since is None or record.timestamp >= since]
        if tail_lines is not None:
            records = _tail(records, tail_lines)
        last = sandbox.log[-1] if sandbox.log else None
        for record in records:
            yield record
        while follow:
            changed = sandbox.log_changed
            ended = sandbox.info.status.is_terminal
            fresh = builtins.list(sandbox.log)
            for place in range(len(fresh) - 1, -1, -1):
                if fresh[place] is last:
                    fresh = fresh[place + 1 :]
                    break
            for record in fresh:
                last = record
                yield record
            if ended:
                return
            if not fresh:
                await changed.wait()

    async def extend(self, sandbox_id: str, seconds: float) -> SandboxInfo:
        """Let a sandbox live longer; see `Engine.extend`."""
        machine = self._use()
        await self.faults.before("extend")
        sandbox = machine.find(sandbox_id)
        if sandbox.info.status is not SandboxStatus.RUNNING:
            raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
        sandbox.extend(seconds)
        self.faults.after("extend")
        return sandbox.info

    def _own(self) -> builtins.list[FakeSandbox]:
        sandboxes = self.machine.sandboxes
        return [
            sandboxes[name]
            for name in self._made
            if name in sandboxes and not sandboxes[name].spec.detached and not sandboxes[name].info.status.is_terminal
        ]

    async def close(self) -> None:
        """End attached sandboxes of this engine and let the others go; see `Engine.close`."""
        if self._closed:
            return
        self.machine.bind()
        self._closed = True
        await asyncio.gather(*(sandbox.end(0.0) for sandbox in self._own()))
        self._leave()

    def abandon(self) -> None:
        """Vanish like a client that was killed: connections break, and nothing is ended by it; orphan limits run."""
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        for sandbox in self.machine.sandboxes.values():
            if self in sandbox.clients:
                sandbox.clients.discard(self)
                sandbox.touch()
        self.machine.watchers[:] = [entry for entry in self.machine.watchers if entry[0] is not self]

    def stop_all_at_exit(self, seconds: float) -> tuple[str, ...]:
        """End attached sandboxes without a loop; see `Engine.stop_all_at_exit`."""
        del seconds
        for sandbox in self._own():
            sandbox.end_without_loop()
        return ()

    def forget_after_fork(self) -> None:
        """Begin anew in a forked child, on a machine of its own."""
        old = self.machine
        self.machine = FakeMachine(programs=old.programs, missing_images=old.missing_images, clock=old.clock)
        self.faults = Faults(self.machine)
        self._made = set()
        self._creating = {}


def _tail(records: builtins.list[LogRecord], lines: int) -> builtins.list[LogRecord]:
    """Keep the last lines of each stream's output together."""
    if lines <= 0:
        return []
    count = 0
    for place in range(len(records) - 1, -1, -1):
        if records[place].data.endswith(b"\n") or place == len(records) - 1:
            count += 1
            if count > lines:
                return records[place + 1 :]
    return records
