"""What the checks of the contract stand on: engines, sandboxes and channels that are cleared away afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import attrs

from aviato.agent.channel import Channel
from aviato.agent.frames import ExitStatus, Which
from aviato.agent.remote import RemoteProcess
from aviato.aio._ids import new_sandbox_id
from aviato.engines.base import Engine, SandboxQuery, SandboxSpec
from aviato.exceptions import AviatoError, SandboxNotFoundError
from aviato.models import SandboxInfo

CHECK_SECONDS = 60.0
OPEN_SECONDS = 20.0

MakeEngine = Callable[[], Engine]
Abandon = Callable[[Engine], Awaitable[object] | None]


class ContractError(AssertionError):
    """An engine does not do what the contract says."""


class NotApplicable(Exception):  # noqa: N818 - no error
    """A check has nothing to say about this engine; the text says why."""


def expect(condition: object, text: str) -> None:
    """Demand something.

    Raises:
        ContractError: It is not so.
    """
    if not condition:
        raise ContractError(text)


@contextlib.contextmanager
def expect_error(kind: type[BaseException], what: str) -> Iterator[list[Any]]:
    """Demand an error; the list yielded holds it afterwards.

    Raises:
        ContractError: There was none, or another.
    """
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    except Exception as error:
        raise ContractError(f"{what} should raise {kind.__name__}, not {type(error).__name__}: {error}") from error
    else:
        raise ContractError(f"{what} should raise {kind.__name__}, and raised nothing")


@attrs.frozen
class Ended:
    """How a command ended."""

    code: int
    signal: int
    flags: int
    stdout: bytes
    stderr: bytes


class Watcher:
    """Takes a command's output and reads it at once."""

    def __init__(self) -> None:
        self.output = {Which.STDOUT: bytearray(), Which.STDERR: bytearray()}
        self.remote: RemoteProcess | None = None
        self.started = asyncio.Event()
        self.news = asyncio.Event()
        self.input_closed = False
        self._end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    def process_started(self, pid: int) -> None:
        """Note it."""
        del pid
        self.started.set()

    def process_output(self, which: Which, data: bytes) -> None:
        """Keep it."""
        self.output[which] += data
        if self.remote is not None:
            self.remote.consumed(which, len(self.output[which]))
        self.news.set()

    def process_gap(self, which: Which, missing: int) -> None:
        """Refuse it: a reader that never waits has no gaps."""
        self.process_lost(AviatoError(f"{missing} bytes of {which.name} are missing"))

    def process_stdin_accepted(self) -> None:
        """Wake a writer."""
        self.news.set()

    def process_stdin_closed(self) -> None:
        """Note it."""
        self.input_closed = True
        self.news.set()

    def process_exited(self, status: ExitStatus) -> None:
        """Note the end."""
        if not self._end.done():
            self._end.set_result(status)
        self.news.set()

    def process_lost(self, error: AviatoError) -> None:
        """Note the loss."""
        if not self._end.done():
            self._end.set_exception(error)
            self._end.exception()  # whoever waits sees it
        self.news.set()

    async def seen(self, text: bytes) -> None:
        """Wait until `text` was written to standard output.

        Raises:
            ContractError: The command ended without.
        """
        while text not in self.output[Which.STDOUT]:
            expect(not self._end.done(), f"{text!r} was never written, only {bytes(self.output[Which.STDOUT])!r}")
            self.news.clear()
            await self.news.wait()

    async def send(self, data: bytes) -> None:
        """Send input as the window allows, then end it."""
        assert self.remote is not None  # noqa: S101 - set by `Ground.start`
        position = 0
        while position < len(data) and not self.input_closed and not self._end.done():
            room = self.remote.stdin_free
            if not room:
                self.news.clear()
                await self.news.wait()
                continue
            self.remote.send_stdin(data[position : position + room])
            position += room
        self.remote.close_stdin()

    async def ended(self) -> Ended:
        """Wait for the end.

        Raises:
            AviatoError: The command was lost.
        """
        status = await self._end
        out, err = (bytes(self.output[which]) for which in (Which.STDOUT, Which.STDERR))
        if self.remote is not None:
            self.remote.release()
        return Ended(status.returncode, status.signal, status.flags, out, err)


class Ground:
    """Makes what one check needs, and clears it away."""

    def __init__(
        self, make_engine: MakeEngine, *, image: str | None, missing_image: str | None, abandon: Abandon | None
    ) -> None:
        self.image = image
        self.missing_image = missing_image
        self.abandon = abandon
        self._make = make_engine
        self._engines: list[Engine] = []
        self._ids: list[str] = []
        self._channels: list[Channel] = []
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The check's first engine."""
        if self._engine is None:
            self._engine = self.another_engine()
        return self._engine

    def another_engine(self) -> Engine:
        """Open a further engine on the same substrate."""
        engine = self._make()
        self._engines.append(engine)
        return engine

    def new_id(self) -> str:
        """Make an id that nobody has; what gets it is deleted afterwards."""
        name = new_sandbox_id()
        self._ids.append(name)
        return name

    def spec(self, *command: str, **changes: Any) -> SandboxSpec:
        """Make a specification."""
        name = changes.pop("sandbox_id", None) or self.new_id()
        values: dict[str, Any] = {"image": self.image, "command": command or None, "max_lifetime_seconds": 300.0}
        return SandboxSpec(sandbox_id=name, **{**values, **changes})

    async def sandbox(self, *command: str, **changes: Any) -> SandboxInfo:
        """Create a sandbox."""
        return await self.engine.create(self.spec(*command, **changes))

    async def channel(self, sandbox_id: str, engine: Engine | None = None) -> Channel:
        """Open a channel to a sandbox's agent."""
        used = engine or self.engine
        channel = Channel(lambda protocol: used.connect(sandbox_id, protocol), sandbox_id=sandbox_id)
        self._channels.append(channel)
        await channel.open(OPEN_SECONDS)
        return channel

    def start(self, channel: Channel, *command: str, **options: Any) -> Watcher:
        """Start a command."""
        watcher = Watcher()
        watcher.remote = channel.exec(command, watcher, **options)
        return watcher

    async def run(self, channel: Channel, *command: str, stdin: bytes | None = None, **options: Any) -> Ended:
        """Run a command to its end."""
        watcher = self.start(channel, *command, stdin=stdin is not None, **options)
        if stdin is not None:
            await watcher.send(stdin)
        return await watcher.ended()

    async def end_of(self, sandbox_id: str, engine: Engine | None = None) -> SandboxInfo:
        """Wait until a sandbox has ended, by following its log; give its final state."""
        used = engine or self.engine
        async for _ in used.logs(sandbox_id, follow=True):
            pass
        info = await used.get(sandbox_id)
        expect(info.status.is_terminal, f"logs(follow=True) ended while the sandbox was {info.status}")
        return info

    async def is_known(self, sandbox_id: str) -> bool:
        """Tell whether the engine knows a sandbox."""
        try:
            await self.engine.get(sandbox_id)
        except SandboxNotFoundError:
            return False
        return True

    async def ids(self, query: SandboxQuery, engine: Engine | None = None) -> set[str]:
        """List ids."""
        return {info.sandbox_id async for info in (engine or self.engine).list(query)}

    @contextlib.asynccontextmanager
    async def watching(self, engine: Engine | None = None) -> AsyncIterator[asyncio.Queue[SandboxInfo]]:
        """Collect what `watch` pushes."""
        changes = (engine or self.engine).watch()
        queue: asyncio.Queue[SandboxInfo] = asyncio.Queue()

        async def collect() -> None:
            async for info in changes:
                queue.put_nowait(info)

        task = asyncio.create_task(collect())
        await asyncio.sleep(0)  # let it begin to watch
        try:
            yield queue
        finally:
            task.cancel()
            await asyncio.wait([task])
            aclose = getattr(changes, "aclose", None)
            if aclose is not None:
                await aclose()

    async def clear(self) -> None:
        """Close and delete everything."""
        for channel in self._channels:
            await channel.close()
        engine = self._make()
        try:
            for name in self._ids:
                await engine.delete(name, missing_ok=True)
        finally:
            for opened in (*self._engines, engine):
                await opened.close()
