"""The Docker engine against what a user would otherwise write: the docker command, docker-py and aiodocker.

All on the same daemon and image, in turns in the same run. A baseline's exec is what each library's users do for one
command's output and exit code: create, start with the stream, inspect. The daemon is the one that the docker command
would use; the image is the engine's default, which has to be there.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from common import Options, Row, interleave, main, read_pipe, timed, timed_await

from aviato import aio
from aviato.engines.docker.endpoint import find_endpoint
from aviato.engines.docker.images import DEFAULT_IMAGE

docker: Any = importlib.import_module("docker")  # neither need be installed where types are checked
aiodocker: Any = importlib.import_module("aiodocker")
AT_ONCE = 40
FLEET = 100
GB = 10**9
SLEEPER = ["sleep", "1000"]
DOCKER = shutil.which("docker") or "docker"


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""
    os.environ["DOCKER_HOST"] = str(find_endpoint())
    with asyncio.Runner() as runner:
        return [
            *_execs(runner, options),
            *_starts(runner, options),
            *_fleets(runner, options),
            *_streams(runner, options),
        ]


def _run(*argv: str) -> str:
    return subprocess.run([DOCKER, *argv], capture_output=True, text=True, check=True).stdout.strip()


def _execs(runner: asyncio.Runner, options: Options) -> list[Row]:
    async def prepare() -> tuple[aio.Sandbox, Any, Any]:
        sandbox = aio.Sandbox.run(engine="docker")
        await sandbox.exec(["true"])
        client = aiodocker.Docker()
        return sandbox, client, await client.containers.get(name)

    name = _run("run", "-d", "--network", "none", DEFAULT_IMAGE, *SLEEPER)
    sandbox, client, container = runner.run(prepare())
    plain = docker.from_env().containers.get(name)

    async def with_aiodocker() -> None:
        execution = await container.exec(["true"])
        async with execution.start() as stream:
            while await stream.read_out() is not None:
                pass
        assert (await execution.inspect())["ExitCode"] == 0

    async def many(start: Callable[[], object], number: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(start() for _ in range(number)))  # type: ignore[call-overload]  # awaitables of all kinds
        return number / (time.perf_counter() - began)

    async def sequence(number: int) -> list[float]:
        return [await timed_await(sandbox.exec(["true"])) for _ in range(number)]

    async def sequence_aiodocker(number: int) -> list[float]:
        return [await timed_await(with_aiodocker()) for _ in range(number)]

    samples = interleave(
        {
            "ours": lambda: runner.run(sequence(20)),
            "docker-py": lambda: [timed(lambda: plain.exec_run(["true"])) for _ in range(5)],
            "aiodocker": lambda: runner.run(sequence_aiodocker(5)),
        },
        options.count(20),
    )
    at_once = interleave(
        {
            "ours": lambda: [runner.run(many(lambda: sandbox.exec(["true"]), AT_ONCE * 5))],
            "aiodocker": lambda: [runner.run(many(with_aiodocker, AT_ONCE))],
        },
        options.count(5),
    )

    async def close() -> None:
        await sandbox.stop(graceful_shutdown_seconds=0)
        await client.close()

    runner.run(close())
    _run("rm", "-f", name)
    faster = {
        f"times faster than {peer}": f"{_median(samples[peer]) / _median(samples['ours']):.0f}"
        for peer in ("docker-py", "aiodocker")
    }
    best = min(("docker-py", "aiodocker"), key=lambda peer: _median(samples[peer]))
    return [
        Row(
            "docker: exec of true, one after another", "ms", samples["ours"], samples[best],
            f"{best}: exec, stream, inspect", "<= 1/30 x", ratio_limit=1 / 30, facts=dict(faster),
        ),
        Row(
            f"docker: exec of true, {AT_ONCE} at once", "/s", at_once["ours"], at_once["aiodocker"],
            f"aiodocker, {AT_ONCE} at once", ">= 50 x", ratio_floor=50,
        ),
    ]  # fmt: skip


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def _starts(runner: asyncio.Runner, options: Options) -> list[Row]:
    async def ours() -> float:
        async with aio.Session(engine="docker") as session:
            began = time.perf_counter()
            await session.sandbox().exec(["true"])
            return (time.perf_counter() - began) * 1e3

    def command() -> float:
        began = time.perf_counter()
        name = _run("run", "-d", "--network", "none", DEFAULT_IMAGE, *SLEEPER)
        _run("exec", name, "true")
        taken = (time.perf_counter() - began) * 1e3
        _run("rm", "-f", name)
        return taken

    samples = interleave({"ours": lambda: [runner.run(ours())], "command": lambda: [command()]}, options.count(20))
    return [
        Row(
            "docker: create -> first result of true", "ms", samples["ours"], samples["command"],
            "docker run -d, docker exec", "<= 1.1 x", ratio_limit=1.1,
        )
    ]  # fmt: skip


def _fleets(runner: asyncio.Runner, options: Options) -> list[Row]:
    number = options.count(FLEET)
    failures: list[BaseException] = []

    async def ours() -> float:
        began = time.perf_counter()
        async with aio.Session(engine="docker") as session:
            processes = [session.sandbox().exec(["true"]) for _ in range(number)]
            ends = await asyncio.gather(*processes, return_exceptions=True)
            failures.extend(end for end in ends if isinstance(end, BaseException))
        for sandbox in await aio.Sandbox.list(engine="docker", include_stopped=True):
            await aio.Sandbox.delete(sandbox.sandbox_id, engine="docker", missing_ok=True)
        return time.perf_counter() - began

    async def with_aiodocker() -> float:
        began = time.perf_counter()
        gate = asyncio.Semaphore(16)
        async with aiodocker.Docker() as client:

            async def one() -> None:
                config = {"Image": DEFAULT_IMAGE, "Cmd": SLEEPER, "HostConfig": {"NetworkMode": "none"}}
                async with gate:
                    container = await client.containers.create(config)
                    await container.start()
                    execution = await container.exec(["true"])
                    async with execution.start() as stream:
                        while await stream.read_out() is not None:
                            pass
                    await execution.inspect()
                    await container.delete(force=True)

            await asyncio.gather(*(one() for _ in range(number)))
        return time.perf_counter() - began

    samples = interleave(
        {"ours": lambda: [runner.run(ours())], "aiodocker": lambda: [runner.run(with_aiodocker())]}, options.count(3)
    )
    return [
        Row(
            f"docker: {number} sandboxes created, one exec each, removed", "s", samples["ours"], samples["aiodocker"],
            "aiodocker doing the same, 16 at once", "<= 1.0 x, none fails", ratio_limit=1.0,
            facts={"failed": len(failures), **({"first failure": repr(failures[0])} if failures else {})},
        )
    ]  # fmt: skip


def _streams(runner: asyncio.Runner, options: Options) -> list[Row]:
    size = GB // 10 if options.quick else GB

    async def ours(sandbox: aio.Sandbox) -> float:
        began, total = time.perf_counter(), 0
        process = sandbox.exec(["head", "-c", str(size), "/dev/zero"], max_output_bytes=0)
        async for piece in process.stdout.buffer:
            total += len(piece)
        await process
        assert total == size
        return size / (time.perf_counter() - began) / 2**20

    def command(name: str) -> float:
        began = time.perf_counter()
        assert read_pipe([DOCKER, "exec", name, "head", "-c", str(size), "/dev/zero"]) == size
        return size / (time.perf_counter() - began) / 2**20

    async def start() -> aio.Sandbox:
        return await aio.Sandbox.run(engine="docker")

    name = _run("run", "-d", "--network", "none", DEFAULT_IMAGE, *SLEEPER)
    sandbox = runner.run(start())
    samples = interleave({"ours": lambda: [runner.run(ours(sandbox))], "command": lambda: [command(name)]}, 3)
    runner.run(sandbox.stop())
    _run("rm", "-f", name)
    return [
        Row(
            f"docker: stdout as bytes, {size / GB:g} GB", "MiB/s", samples["ours"], samples["command"],
            "docker exec through a pipe", ">= 0.8 x", ratio_floor=0.8,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
