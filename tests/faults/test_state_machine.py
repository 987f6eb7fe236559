"""Random histories of sandboxes against a model of them: create, use, stop, lose, find again, delete, and faults."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from aviato import aio
from aviato.exceptions import (
    EngineConnectionError,
    SandboxFileError,
    SandboxLostError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SandboxTerminatedError,
)
from aviato.testing import FakeEngine

ENDED = (SandboxTerminatedError, SandboxLostError, SandboxNotRunningError)
NAMES = st.sampled_from(["a", "b", "sub/c"])
CONTENT = st.binary(max_size=200)


class Model:
    """What is known of one sandbox."""

    def __init__(self, handle: aio.Sandbox) -> None:
        self.handle = handle
        self.files: dict[str, bytes] = {}
        self.state = "running"


class Histories(RuleBasedStateMachine):
    """One engine in memory, one session, and what should be true of them."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.models: list[Model] = []

    def run(self, awaitable: Any) -> Any:
        """Run something to its end, bounded."""

        async def bounded() -> Any:
            async with asyncio.timeout(20):
                return await awaitable

        return self.runner.run(bounded())

    @initialize()
    def begin(self) -> None:
        """Open a session."""

        async def make() -> tuple[FakeEngine, aio.Session]:
            engine = FakeEngine()
            return engine, aio.Session({"tags": ["model"]}, engine=engine)

        self.engine, self.session = self.run(make())

    def teardown(self) -> None:
        """Everything ends with the session."""
        if hasattr(self, "session"):
            self.run(self.session.close())
            running = [one for one in self.engine.machine.sandboxes.values() if not one.info.status.is_terminal]
            assert running == []
        self.runner.close()

    @rule(target=known)
    def create(self) -> Model:
        """Start one more."""

        async def make() -> aio.Sandbox:
            sandbox: aio.Sandbox = self.session.sandbox()
            return await sandbox

        model = Model(self.run(make()))
        self.models.append(model)
        return model

    @rule(model=known, text=st.text(alphabet="abc ü", max_size=20))
    def command(self, model: Model, text: str) -> None:
        """Output comes back, or the end is told."""

        async def echo() -> str:
            return (await model.handle.exec(["printf", "%s", text])).stdout

        if model.state == "running":
            assert self.run(echo()) == text
        else:
            with pytest.raises(ENDED):
                self.run(echo())

    @rule(model=known, name=NAMES, data=CONTENT)
    def write(self, model: Model, name: str, data: bytes) -> None:
        """What is written stays."""
        if model.state == "running":
            self.run(model.handle.write_file(f"/tmp/{name}", data))
            model.files[name] = data
        else:
            with pytest.raises(ENDED):
                self.run(model.handle.write_file(f"/tmp/{name}", data))

    @rule(model=known, name=NAMES)
    def read(self, model: Model, name: str) -> None:
        """What was written last is read."""
        if model.state != "running":
            with pytest.raises(ENDED):
                self.run(model.handle.read_file(f"/tmp/{name}"))
        elif name in model.files:
            assert self.run(model.handle.read_file(f"/tmp/{name}")) == model.files[name]
        else:
            with pytest.raises(SandboxFileError):
                self.run(model.handle.read_file(f"/tmp/{name}"))

    @rule(model=known)
    def stop(self, model: Model) -> None:
        """Stopping what has ended is a success too."""
        with contextlib.suppress(SandboxNotFoundError):
            self.run(model.handle.stop(graceful_shutdown_seconds=0, missing_ok=True))
        if model.state == "running":
            model.state = "terminated"

    @rule(model=known)
    def crash(self, model: Model) -> None:
        """What runs it is gone."""
        if model.state == "running":

            async def crash() -> None:
                self.engine.faults.crash(model.handle.sandbox_id)
                await model.handle.wait_until_complete(raise_on_termination=False)

            with pytest.raises(SandboxLostError):
                self.run(crash())
            model.state = "lost"

    @rule(model=known)
    def drop_connection(self, model: Model) -> None:
        """Nobody notices a connection that broke."""
        if model.state == "running":

            async def drop() -> None:
                process = model.handle.exec(["sh", "-c", "echo one; read x; echo $x"], stdin=True)
                assert await anext(aiter(process.stdout)) == "one\n"
                assert self.engine.faults.drop_connection(model.handle.sandbox_id) == 1
                assert process.stdin is not None
                await process.stdin.writeline("two")
                assert (await process).stdout == "one\ntwo\n"

            self.run(drop())

    @rule(model=known)
    def lose_a_reply(self, model: Model) -> None:
        """An answer that is lost is said to be unknown, and asking again is right."""

        async def ask() -> Any:
            self.engine.faults.lose_reply("get")
            try:
                return await aio.Sandbox.from_id(model.handle.sandbox_id, engine=self.engine)
            except EngineConnectionError:
                return await aio.Sandbox.from_id(model.handle.sandbox_id, engine=self.engine)

        if model.state == "deleted":
            return
        assert self.run(ask()).sandbox_id == model.handle.sandbox_id

    @rule(target=known, model=known)
    def reconnect(self, model: Model) -> Model:
        """Another handle of the same sandbox shares its fate."""
        if model.state == "deleted":
            with pytest.raises(SandboxNotFoundError):
                self.run(aio.Sandbox.from_id(model.handle.sandbox_id, engine=self.engine))
        else:
            model.handle = self.run(self.session.from_id(model.handle.sandbox_id, adopt=model.state == "running"))
        return model

    @rule(model=known)
    def delete(self, model: Model) -> None:
        """After it nothing knows the sandbox."""
        self.run(aio.Sandbox.delete(model.handle.sandbox_id, missing_ok=True, engine=self.engine))
        model.state = "deleted"

    @invariant()
    def lists_agree(self) -> None:
        """A list shows what runs and nothing else; the session counts the same."""
        if not hasattr(self, "session"):
            return
        running = {model.handle.sandbox_id for model in self.models if model.state == "running"}
        assert {found.sandbox_id for found in self.run(self.session.list())} == running
        assert self.session.sandbox_count == len(running)


def test_histories() -> None:
    """Thousands of steps; a failure is printed as the shortest history that has it."""
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=(HealthCheck.too_slow,),
        ),
    )
