"""One test text for both faces: the front door and the core have the same names, and both can be awaited."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator
from typing import Any

import aviato
from aviato import aio
from aviato.engines import open_engine
from aviato.engines.base import Capabilities


async def waited(awaitable: Any) -> Any:
    """Make a coroutine of anything that can be awaited, for those who demand one."""
    return await awaitable


def missing_image(engine: Any) -> str:
    """Name an image that the engine knows it does not have; of other names a Docker daemon has to ask a registry."""
    return "sha256:" + 64 * "0" if engine == "docker" else "no/such-image:9"


class Face:
    """The names of one face, bound to one engine.

    Typed loosely on purpose: the exact types of both faces are asserted in tests/typing.
    """

    def __init__(self, name: str, engine: Any) -> None:
        self.name = name
        self.engine = engine
        self.engine_name = engine if isinstance(engine, str) else engine.name
        self.missing_image = missing_image(engine)
        self.module: Any = aio if name == "aio" else aviato
        self.Sandbox: Any = self.module.Sandbox
        self.cancelled: type[BaseException] = (
            asyncio.CancelledError if name == "aio" else concurrent.futures.CancelledError
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the engine says that it can do."""
        engine = open_engine(self.engine) if isinstance(self.engine, str) else self.engine
        return engine.capabilities

    def session(self, **defaults: Any) -> Any:
        """Open a session on the engine."""
        return self.module.Session(defaults, engine=self.engine)

    def run(self, *command: str, **config: Any) -> Any:
        """Start a sandbox without a session."""
        return self.Sandbox.run(*command, engine=self.engine, **config)

    async def results(self, refs: Any) -> Any:
        """Wait for values."""
        if self.name == "aio":
            return await aio.results(refs)
        function: Any = self.module.results
        return await asyncio.to_thread(function, refs)

    async def result(self, process: Any, seconds: float | None = None) -> Any:
        """Wait for a result, as each face does: by a coroutine, or blocking."""
        if self.name == "aio":
            return await process.result(seconds)
        return await asyncio.to_thread(process.result, seconds)

    async def wait(self, waitables: Any, **options: Any) -> Any:
        """Wait for some of several."""
        if self.name == "aio":
            return await aio.wait(waitables, **options)
        function: Any = self.module.wait
        return await asyncio.to_thread(function, waitables, **options)

    async def as_completed(self, waitables: Any) -> AsyncIterator[Any]:
        """Iterate by completion."""
        if self.name == "aio":
            async for item in aio.as_completed(waitables):
                yield item
        else:
            for item in await asyncio.to_thread(lambda: list(aviato.as_completed(waitables))):
                yield item
