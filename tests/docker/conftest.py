"""For tests of the Docker engine: an engine on the daemon, and a daemon that answers what it is told to."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aviato.engines.docker.endpoint import Endpoint
from aviato.engines.docker.engine import DockerEngine
from tests.helpers.docker import require_docker

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[dict[str, Any]], Awaitable[Endpoint]]
ID = "sbx-0123456789abcdef"
VERSION = {"ApiVersion": "1.47", "MinAPIVersion": "1.24", "Version": "27.0"}


@pytest.fixture
async def docker_engine() -> AsyncIterator[DockerEngine]:
    """An engine of the test's own."""
    require_docker()
    async with DockerEngine() as engine:
        yield engine


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a daemon that answers from a table of paths, without their version."""
    runners = []

    async def start(table: dict[str, Any]) -> Endpoint:
        async def answer(request: web.Request) -> web.StreamResponse:
            path = request.path
            if path.startswith("/v1."):
                path = "/" + path.split("/", 2)[2]
            found = {"/version": VERSION, "/info": {}, **table}.get(path)
            if inspect.iscoroutinefunction(found):
                response: web.StreamResponse = await found(request)
                return response
            if found is None:
                return web.json_response({"message": f"no such thing: {path}"}, status=404)
            if isinstance(found, tuple):
                return web.json_response({"message": found[1]}, status=found[0])
            return web.json_response(found)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        address = str(tmp_path / "docker.sock")
        await web.UnixSite(runner, address).start()
        return Endpoint("unix", address)

    yield start
    for runner in runners:
        await runner.cleanup()
