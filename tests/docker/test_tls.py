"""A daemon behind TLS: found by its variables, spoken to with a certificate of the client's own, for all requests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aviato
from aviato import aio
from aviato.engines.docker import exits
from aviato.engines.docker.endpoint import Endpoint, find_endpoint
from aviato.engines.docker.engine import DockerEngine
from tests.helpers.docker import BARE_IMAGE, containers

pytestmark = pytest.mark.docker


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True)


def make_certificates(folder: Path) -> None:
    """Make an authority, and a certificate that serves both sides, under the names that Docker wants."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-keyout", folder / "ca-key.pem", "-out", folder / "ca.pem")
    _openssl("req", "-x509", *key, *authority, "-days", "2", "-subj", "/CN=ca")
    _openssl("req", *key, "-keyout", folder / "key.pem", "-out", folder / "request.pem", "-subj", "/CN=both")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    _openssl(
        "x509", "-req", "-in", folder / "request.pem", "-CA", folder / "ca.pem", "-CAkey", folder / "ca-key.pem",
        "-CAcreateserial", "-out", folder / "cert.pem", "-days", "2", "-extfile", extensions,
    )  # fmt: skip


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    """The daemon, behind a server that wants a certificate of each client."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    await asyncio.to_thread(make_certificates, tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    behind = find_endpoint().address
    serving: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                target.write(piece)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            there = await asyncio.open_unix_connection(behind)
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
        serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    host = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield find_endpoint({"DOCKER_HOST": host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)})
    server.close()
    for task in list(serving):
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def test_everything_goes_by_it(endpoint: Endpoint) -> None:
    """Requests, the agent's stream, files, and images without Python."""
    async with DockerEngine(endpoint) as engine, aio.Session(engine=engine) as session:
        sandbox = session.sandbox()
        done = await sandbox.exec(["sh", "-c", "wc -c; seq 50000"], stdin=b"x" * 1_000_000)
        assert done.stdout.splitlines()[:2] == ["1000000", "1"]
        await sandbox.write_file("/tmp/x", b"there")
        assert await sandbox.read_file("/tmp/x") == b"there"
        bare = session.sandbox(container_image=BARE_IMAGE)
        assert (await bare.exec(["echo", "too"])).stdout == "too\n"


async def test_what_a_program_leaves_is_removed_by_it(endpoint: Endpoint) -> None:
    """Also when the interpreter ends."""
    async with DockerEngine(endpoint) as engine:
        sandbox = aio.Sandbox.run(engine=engine)
        await sandbox
        left = await asyncio.to_thread(exits.remove_all, endpoint, "/v1.41", (sandbox.sandbox_id,), 20.0)
        assert left == ()
        assert sandbox.sandbox_id not in await asyncio.to_thread(containers, running=False)
        await sandbox.stop(missing_ok=True)


async def test_a_client_without_a_certificate(endpoint: Endpoint, tmp_path: Path) -> None:
    """Is turned away, with what to look at."""
    (tmp_path / "cert.pem").unlink()
    async with DockerEngine(endpoint) as engine:
        with pytest.raises(aviato.EngineConnectionError) as caught:
            await engine.prune()
    assert "DOCKER_CERT_PATH" in str(caught.value.hint)
