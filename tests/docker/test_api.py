"""What a daemon may answer, without a daemon: shapes of requests, errors with their causes, and streams that break."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web

from aviato.engines.base import SandboxSpec
from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.container import make_plan
from aviato.engines.docker.endpoint import Endpoint
from aviato.engines.docker.engine import DockerEngine
from aviato.engines.docker.hijack import ExecStream
from aviato.engines.docker.records import describe
from aviato.engines.docker.refusals import explain_start
from aviato.exceptions import (
    AviatoAuthenticationError,
    AviatoError,
    CapabilityError,
    EngineConnectionError,
    EngineError,
    EngineProtocolError,
    ImageNotFoundError,
    SandboxFailedError,
    SandboxResourceExhaustedError,
)
from aviato.models import MountedFile, NetworkOptions, PullProgress, PullState, Resources
from tests.docker.conftest import ID, VERSION, Serve

IMAGE = {"Id": "sha256:1", "Config": {"Env": ["A=image", "B=image"], "User": "app", "WorkingDir": "/srv"}}


async def opened(endpoint: Endpoint) -> Api:
    """Connect to it."""
    api = Api(endpoint)
    await api.open()
    return api


async def test_the_newest_version_that_both_know_is_used(serve: Serve) -> None:
    """1.41, unless the daemon has given that up."""
    api = await opened(await serve({}))
    assert api.path("/x") == "/v1.41/x"
    await api.close()


async def test_a_daemon_that_is_too_new_or_too_old(serve: Serve) -> None:
    """A newer lowest version is taken; one that is too old is an error with its cure."""
    api = await opened(await serve({"/version": {"ApiVersion": "1.52", "MinAPIVersion": "1.44"}}))
    assert api.path("") == "/v1.44"
    await api.close()


async def test_a_daemon_that_is_too_old(serve: Serve) -> None:
    """The versions are named."""
    api = Api(await serve({"/version": {"ApiVersion": "1.38"}}))
    with pytest.raises(EngineError, match=r"speaks API 1\.38, and 1\.41 is needed"):
        await api.open()
    await api.close()


async def test_nobody_there(tmp_path: Path) -> None:
    """The address, where it was found, and what to do."""
    api = Api(Endpoint("unix", str(tmp_path / "none"), source="DOCKER_HOST"))
    with pytest.raises(EngineConnectionError, match=f"unix://{tmp_path}/none, found in DOCKER_HOST") as caught:
        await api.open()
    assert "Is it running" in str(caught.value.hint)
    assert caught.value.retryable
    await api.close()


@pytest.mark.parametrize(
    ("kind", "content", "shown"),
    [
        ("text/html", b"<html>log in</html>", "<html>log in</html>"),
        ("application/json", b"{oops", "{oops"),
        ("application/json", b"[]", "[]"),
        ("application/json", b"{}", "{}"),
        ("text/plain", b"", "None"),
        ("text/plain", b"x" * 1000, "xxx..."),
    ],
)
async def test_what_is_no_daemon(serve: Serve, kind: str, content: bytes, shown: str) -> None:
    """What answers and is something else is named, with what it said and where it was found."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind)

    endpoint = attrs.evolve(await serve({"/version": answer}), source="DOCKER_HOST")
    api = Api(endpoint)
    with pytest.raises(EngineProtocolError, match=r"found in DOCKER_HOST, is no Docker daemon") as caught:
        await api.open()
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 600
    await api.close()


async def test_a_daemon_that_wants_tls(serve: Serve) -> None:
    """What to set is said."""
    api = Api(await serve({"/version": (400, "Client sent an HTTP request to an HTTPS server.")}))
    with pytest.raises(EngineProtocolError, match="speaks TLS") as caught:
        await api.open()
    assert "DOCKER_TLS_VERIFY=1" in str(caught.value.hint)
    await api.close()


async def test_a_daemon_at_an_ipv6_address() -> None:
    """It is spoken to."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(VERSION)

    app = web.Application()
    app.router.add_get("/version", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, "::1", 0).start()
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        api = Api(Endpoint("tcp", "::1", runner.addresses[0][1]))
        await api.open()
        await api.close()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("endpoint", "error", "text", "hint"),
    [
        (Endpoint("tcp", "h", 1), ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "cannot be reached to",
         "listen on this port"),
        (Endpoint("unix", "/s"), ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "cannot be reached to",
         "systemctl start docker"),
        (Endpoint("unix", "/s"), PermissionError(errno.EACCES, "denied"), "", "the group `docker`"),
        (Endpoint("unix", "/s"), ConnectionResetError(errno.ECONNRESET, "reset"), "the connection broke",
         "journalctl -u docker"),
        (Endpoint("tcp", "h", 1), ssl.SSLError(1, "wrong version number"), "", "DOCKER_CERT_PATH"),
        (Endpoint("ssh", "me@h"), ConnectionResetError(errno.ECONNRESET, "reset"), "",
         "docker --host ssh://me@h version"),
        (Endpoint("unix", "/s"), TimeoutError(), "TimeoutError", "docker --host unix:///s version"),
    ],
)  # fmt: skip
async def test_every_failure_to_reach_it_says_what_to_do(
    endpoint: Endpoint, error: OSError, text: str, hint: str
) -> None:
    """By its kind, also where the daemon is not on this machine."""
    found = Api(endpoint)._unreachable(error, "answer")
    assert text in found.message
    assert hint in str(found.hint)


async def test_a_daemon_that_does_not_answer(serve: Serve) -> None:
    """The client's own deadline ends the request, and whether it was done is unknown."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await over.wait()
        return web.Response()

    api = await opened(await serve({"/x": silent}))
    with pytest.raises(EngineConnectionError, match=r"did not wait within 0\.2 s") as caught:
        await api.request("GET", "/x", what="wait", seconds=0.2)
    assert asked.is_set()
    assert caught.value.outcome == "unknown"
    over.set()
    await api.close()


async def test_an_answer_that_breaks_off(serve: Serve) -> None:
    """The connection was lost, which is not an answer."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"a": ')
        assert request.transport is not None
        request.transport.close()
        return response

    api = await opened(await serve({"/x": cut}))
    with pytest.raises(EngineConnectionError):
        await api.request("GET", "/x", what="answer")
    await api.close()


async def test_errors_carry_the_daemons_words(serve: Serve) -> None:
    """Status and text, and what was asked."""
    api = await opened(await serve({"/x": (500, "the disk is on fire")}))
    with pytest.raises(ApiError, match=r"could not do it: the disk is on fire \(HTTP 500\)") as caught:
        await api.request("POST", "/x", what="do it")
    assert caught.value.status == 500
    await api.close()


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (404, "manifest for x:1 not found: manifest unknown", ImageNotFoundError),
        (404, "pull access denied for x, repository does not exist or may require 'docker login'", ImageNotFoundError),
        (404, "pull access denied for x, repository does not exist or may require 'docker login': denied: no access",
         ImageNotFoundError),
        (500, "unauthorized: authentication required", AviatoAuthenticationError),
        (500, "denied", AviatoAuthenticationError),
        (500, 'Head "https://r/v2/x/manifests/1": denied: permission_denied', AviatoAuthenticationError),
        (500, 'Head "https://r/v2/x/manifests/1": no basic auth credentials', AviatoAuthenticationError),
        (500, "toomanyrequests: You have reached your unauthenticated pull rate limit.", EngineError),
        (500, 'Get "https://r/v2/": http: server gave HTTP response to HTTPS client', EngineConnectionError),
        (500, 'Get "https://r/v2/": x509: certificate signed by unknown authority', EngineConnectionError),
        (500, "no matching manifest for linux/arm64 in the manifest list entries", CapabilityError),
        (500, "write /var/lib/docker/tmp/x: no space left on device", SandboxResourceExhaustedError),
        (500, 'Get "https://r/v2/": dial tcp: lookup r: no such host', EngineConnectionError),
        (500, 'Get "https://r/v2/": EOF', EngineConnectionError),
        (500, "something new", EngineError),
    ],
)  # fmt: skip
@pytest.mark.parametrize("late", [False, True])
async def test_why_an_image_cannot_be_had(
    serve: Serve, status: int, said: str, kind: type[AviatoError], *, late: bool
) -> None:
    """Each cause is an error of its own, whether it is the answer or comes in the middle of a pull."""

    async def pulling(request: web.Request) -> web.StreamResponse:
        assert request.query == {"fromImage": "x:1"}
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status": "Pulling fs layer", "id": "abc"}\r\n')
        await response.write(json.dumps({"error": said}).encode() + b"\r\n")
        return response

    seen: list[PullProgress] = []
    endpoint = await serve({"/images/create": pulling if late else (status, said)})
    async with DockerEngine(endpoint) as engine:
        with pytest.raises(AviatoError) as caught:
            await engine.create(SandboxSpec(sandbox_id=ID, image="x:1", on_pull_progress=seen.append))
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert caught.value.hint or kind in {CapabilityError, EngineError}
    assert seen == ([PullProgress("abc", 0, 0, PullState.WAITING)] if late else [])


async def test_a_registry_that_limits_pulls(serve: Serve) -> None:
    """It may be asked again, and what raises the limit is said."""
    endpoint = await serve({"/images/create": (500, "toomanyrequests: You have reached your pull rate limit.")})
    async with DockerEngine(endpoint) as engine:
        with pytest.raises(EngineError, match="limits how often") as caught:
            await engine.create(SandboxSpec(sandbox_id=ID, image="x:1"))
    assert caught.value.retryable
    assert "docker login" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name",
    ["UPPER", "a b", "a?b", "a#b", "python:", "../x", "x/../../containers/json", "https://docker.io/python",
     "python@sha256:00"],
)  # fmt: skip
async def test_what_is_no_name_of_an_image(serve: Serve, name: str) -> None:
    """As on the local engine, and nothing is asked for: it would be a path of another request."""
    asked: list[str] = []

    async def seen(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response({})

    paths = {f"/images/{name}/json", "/images/a", "/containers/json", "/containers/json/json"}
    async with DockerEngine(await serve(dict.fromkeys(paths, seen))) as engine:
        for policy in ("missing", "always", "never"):
            with pytest.raises(ValueError, match="image") as caught:
                await engine.create(SandboxSpec(sandbox_id=ID, image=name, pull_policy=policy))
            assert repr(name) in str(caught.value)
        with pytest.raises(ImageNotFoundError, match="'host' is this machine's own root"):
            await engine.create(SandboxSpec(sandbox_id=ID, image="host"))
    assert asked == []


@pytest.mark.parametrize(
    "said",
    [b"{oops\n", b'{"Actor": 1}\n', b'{"Actor": {"Attributes": {}}, "Action": "die"}\n', b"x" * (2 << 20)],
)
async def test_events_that_are_none(serve: Serve, said: bytes) -> None:
    """Are an error of the engine, after which whoever watches begins again, and not the end of all watching."""

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # who has seen enough hangs up
            await response.write(said)
        return response

    async with DockerEngine(await serve({"/events": events})) as engine:
        with pytest.raises(EngineProtocolError):
            await anext(aiter(engine.watch()))


async def test_what_is_told_of_a_pull(serve: Serve) -> None:
    """Layers alone, with the size that was said once; what is no message ends the pull."""
    said = [
        {"status": "Pulling from library/x", "id": "1"},
        {"status": "Already exists", "progressDetail": {}, "id": "old"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "new"},
        {"status": "Downloading", "progressDetail": {"current": 3, "total": 10}, "id": "new"},
        {"status": "Download complete", "progressDetail": {}, "id": "new"},
        {"status": "Extracting", "progressDetail": {"current": 5, "total": 10}, "id": "new"},
        {"status": "Extracting", "progressDetail": {"current": "?", "total": -1}, "id": "new"},
        {"status": "Pull complete", "progressDetail": None, "id": "new"},
        {"status": "Digest: sha256:1"},
        ["no mapping"],
    ]
    text = b"".join(json.dumps(message).encode() + b"\r\n" for message in said)

    async def pulling(request: web.Request) -> web.StreamResponse:
        assert request.query == {"fromImage": "x", "tag": "latest"}
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 7):
            await response.write(text[start : start + 7])
        await response.write(b"<html>\n")
        return response

    seen: list[PullProgress] = []
    async with DockerEngine(await serve({"/images/create": pulling})) as engine:
        with pytest.raises(EngineProtocolError, match="<html>"):
            await engine.create(SandboxSpec(sandbox_id=ID, image="x", on_pull_progress=seen.append))
    assert [(item.digest, item.state, item.bytes_done, item.bytes_total) for item in seen] == [
        ("old", "present", 0, 0),
        ("new", "waiting", 0, 0),
        ("new", "downloading", 3, 10),
        ("new", "downloaded", 10, 10),
        ("new", "unpacking", 5, 10),
        ("new", "unpacking", 0, 10),
        ("new", "unpacked", 10, 10),
    ]


@pytest.mark.parametrize(("policy", "asks"), [("missing", 0), ("never", 0), ("always", 1)])
async def test_when_a_registry_is_asked(serve: Serve, policy: Any, asks: int) -> None:
    """For an image that is there only with `always`."""
    pulls = []

    async def pulling(request: web.Request) -> web.StreamResponse:
        pulls.append(request.query["fromImage"])
        return web.json_response({"status": "Status: Image is up to date"})

    table = {"/images/x:1/json": IMAGE, "/images/create": pulling, "/containers/create": (500, "enough")}
    async with DockerEngine(await serve(table)) as engine:
        with pytest.raises(ApiError, match="enough"):
            await engine.create(SandboxSpec(sandbox_id=ID, image="x:1", pull_policy=policy))
    assert pulls == ["x:1"] * asks


async def test_an_image_that_may_not_be_pulled(serve: Serve) -> None:
    """Is not found, without a question to anybody."""
    async with DockerEngine(await serve({})) as engine:
        with pytest.raises(ImageNotFoundError, match="'x:1', and pull_policy is 'never'") as caught:
            await engine.create(SandboxSpec(sandbox_id=ID, image="x:1", pull_policy="never"))
    assert caught.value.hint == "aviato image pull --engine docker x:1"


async def test_a_login_is_sent_with_a_pull(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own, as the docker command keeps it; a registry without one gets none."""
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": {"auth": "bWU6c2VjcmV0"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    seen: list[dict[str, str]] = []

    async def pulling(request: web.Request) -> web.StreamResponse:
        seen.append(json.loads(base64.urlsafe_b64decode(request.headers["X-Registry-Auth"])))
        return web.json_response({"message": "manifest unknown"}, status=404)

    async with DockerEngine(await serve({"/images/create": pulling})) as engine:
        for name in ("registry.example/x:1", "other.example/x:1"):
            with pytest.raises(ImageNotFoundError):
                await engine.create(SandboxSpec(sandbox_id=ID, image=name))
        with pytest.raises(ImageNotFoundError, match="host"):
            await engine.create(SandboxSpec(sandbox_id=ID, image="host"))
    assert seen == [{"username": "me", "password": "secret", "serveraddress": "registry.example"}, {}]


@pytest.mark.parametrize(
    ("status", "said", "spec", "kind", "text"),
    [
        (400, "Unknown runtime specified runsc: unknown or invalid runtime name", {"runtime": "runsc"},
         CapabilityError, "runsc"),
        (500, "--storage-opt is supported only for overlay over xfs", {}, CapabilityError, "resources.disk"),
        (500, 'could not select device driver "" with capabilities: [[gpu]]', {}, CapabilityError, "resources.gpu"),
        (400, "create x: volume name is too short", {}, CapabilityError, "volumes"),
        (500, "mkdir /var/lib/docker/x: no space left on device", {}, SandboxResourceExhaustedError, "no space"),
        (400, "something else is wrong", {}, SandboxFailedError, "something else"),
        (500, "an inner failure", {}, ApiError, "an inner failure"),
    ],
)  # fmt: skip
def test_why_a_container_cannot_start(
    status: int, said: str, spec: dict[str, Any], kind: type[AviatoError], text: str
) -> None:
    """What was asked for and cannot be had is named."""
    error = explain_start(ApiError(status, said, "start"), SandboxSpec(sandbox_id=ID, **spec))
    assert type(error) is kind
    assert text in str(error)


def test_a_container_is_secure_unless_told_otherwise() -> None:
    """No network, no rights but the agent's four, no new ones, and limits on memory, processes and log."""
    body = make_plan(SandboxSpec(sandbox_id=ID), IMAGE, "image", "t", {}).body
    host = body["HostConfig"]
    assert (host["NetworkMode"], body["NetworkDisabled"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert set(host["CapAdd"]) == {"KILL", "SETGID", "SETPCAP", "SETUID"}
    assert host["Memory"] == host["MemorySwap"] == 2 << 30
    assert host["PidsLimit"] == 512
    assert host["LogConfig"]["Config"]["max-size"]
    assert host["Mounts"] == []
    assert "Privileged" not in host
    assert "Binds" not in host
    assert body["Env"] == ["AVIATO_DOOR=t"]


def test_what_is_asked_for_reaches_the_daemon_and_the_agent() -> None:
    """Limits to the daemon; user, directory and environment to the agent, the image's own below what was asked for."""
    spec = SandboxSpec(
        sandbox_id=ID,
        environment={"B": "mine"},
        resources=Resources(cpu="500m", memory="256Mi", gpu=2, disk="1Gi", processes=20),
        network=NetworkOptions(egress_mode="internet", ingress_mode="public", exposed_ports=(8080,)),
        volumes=({"name": "data", "mount_path": "/data", "read_only": True},),
        runtime="runsc",
        max_lifetime_seconds=5,
        idle_timeout_seconds=2,
    )
    plan = make_plan(spec, IMAGE, "image", "t", {})
    host = plan.body["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 256 << 20, 20)
    assert host["StorageOpt"] == {"size": str(1 << 30)}
    assert host["DeviceRequests"] == [{"Count": 2, "Capabilities": [["gpu"]]}]
    assert host["PortBindings"] == {"8080/tcp": [{"HostPort": ""}]}
    assert host["Mounts"] == [{"Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": True}]
    assert (host["Runtime"], host["NetworkMode"]) == ("runsc", "bridge")
    assert plan.config["env"][b"A"] == b"image"
    assert plan.config["env"][b"B"] == b"mine"
    assert (plan.config["user"], plan.config["cwd"]) == (b"app", b"/srv")
    assert (plan.config["lifetime_ms"], plan.config["idle_ms"], plan.config["orphan_ms"]) == (5000, 2000, 30000)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"network": NetworkOptions(egress_mode="internet", allow_hosts=("example.org",))}, "allow_hosts"),
        ({"network": NetworkOptions(ingress_mode="public")}, "egress_mode"),
        ({"network": NetworkOptions(exposed_ports=(80,))}, "ingress_mode"),
        ({"resources": Resources(gpu={"count": 1, "type": "a100"})}, "gpu.type"),
        ({"resources": Resources(memory="1Mi")}, "memory"),
        ({"resources": Resources(processes=2)}, "processes"),
        ({"volumes": ("data:/data",)}, "mount_path"),
        ({"volumes": ({"name": "/etc", "mount_path": "/x"},)}, "volume's name"),
        *(({"mounted_files": (MountedFile(path, b""),)}, "belongs to the container itself")
          for path in ("/proc/x", "/sys/x", "//dev/shm/x", "/etc/../proc/x", "/etc/hostname")),
        ({"mounted_files": (MountedFile("/etc/hosts", b""),), "network": NetworkOptions(egress_mode="internet")},
         "/etc/hosts"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for(spec: dict[str, Any], text: str) -> None:
    """It is refused by name, and nothing is left out silently."""
    with pytest.raises(CapabilityError, match=text):
        make_plan(SandboxSpec(sandbox_id=ID, **spec), IMAGE, "image", "t", {})


@pytest.mark.parametrize(
    ("endpoint", "bound", "address"),
    [
        (Endpoint("unix", "/s"), "0.0.0.0", "127.0.0.1"),
        (Endpoint("unix", "/s"), "", "127.0.0.1"),
        (Endpoint("unix", "/s"), "10.1.1.1", "10.1.1.1"),
        (Endpoint("tcp", "far", 2376), "::", "far"),
        (Endpoint("ssh", "me@far"), "0.0.0.0", "far"),
    ],
)
def test_where_published_ports_are_reached(endpoint: Endpoint, bound: str, address: str) -> None:
    """On the daemon's machine, unless they are bound to one of its addresses; without ports there is no address."""
    labels = make_plan(SandboxSpec(sandbox_id=ID), IMAGE, "image", "t", {}).body["Labels"]
    container = {"Name": f"/{ID}", "State": {"Status": "running"}, "Config": {"Labels": labels}}
    published = {
        "80/tcp": [{"HostIp": bound, "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32769"}],
        "81/tcp": None,
    }
    network = {"NetworkSettings": {"Ports": published}}
    info = describe({**container, **network}, None, machine=endpoint.machine)
    assert (dict(info.exposed_ports), info.service_address) == ({80: 32768}, address)
    info = describe(container, None, machine=endpoint.machine)
    assert (dict(info.exposed_ports), info.service_address) == ({}, None)


HEAD = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def piece(kind: int, data: bytes) -> bytes:
    """Frame what a program writes."""
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class Taker(asyncio.Protocol):
    """Takes what comes."""

    def __init__(self) -> None:
        self.taken = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.taken += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.lost.set_result(exc)


class Tap:
    """A daemon whose one answer is a list of bytes, each sent by itself."""

    def __init__(self, folder: Path, *answer: bytes) -> None:
        self.address = str(folder / "tap.sock")
        self.answer = answer
        self.heard = b""

    async def __aenter__(self) -> Api:
        """Start it."""
        self.server = await asyncio.start_unix_server(self._serve, self.address)
        return Api(Endpoint("unix", self.address))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard = await reader.readuntil(b"}")
        for part in self.answer:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async def __aexit__(self, *_error: object) -> None:
        """End it."""
        self.server.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_a_stream_may_come_in_any_pieces(tmp_path: Path, size: int) -> None:
    """The program's output reaches the protocol whole; its errors are kept for a message."""
    answer = HEAD + piece(1, b"hello") + piece(2, b"oops") + piece(1, b"") + piece(1, bytes(3000)) + piece(1, b"end")
    tap = Tap(tmp_path, *(answer[at : at + size] for at in range(0, len(answer), size)))
    async with tap as api:
        stream = await ExecStream.open(api, "7")
        await stream.expect(b"hello")
        taker = Taker()
        stream.hand_over(taker)
        await taker.lost
    assert taker.taken == bytes(3000) + b"end"
    assert stream.complaint == b"oops"
    head = tap.heard.split(b"\r\n")
    assert head[:4] == [b"POST /exec/7/start HTTP/1.1", b"Host: docker", b"Connection: Upgrade", b"Upgrade: tcp"]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n" + b'{"message": "no such exec"}', ApiError, "no such exec"),
        (b"HTTP/1.1 409 Conflict\r\n\r\n", ApiError, "409"),
        (b"", EngineConnectionError, "hung up"),
        (b"no http at all\r\n\r\n", ApiError, "HTTP 0"),
        (b"x" * 70000, EngineProtocolError, "no end"),
        (HEAD + piece(1, b"cannot exec in a stopped state"), EngineConnectionError, "cannot exec in a stopped state"),
        (HEAD + piece(2, b"nobody listens"), EngineConnectionError, "nobody listens"),
        (HEAD + b"\x07abcdefghijk", EngineProtocolError, "no known stream"),
        (HEAD + b"\x01\0\0\0\xff\xff\xff\xff", EngineProtocolError, "no known stream"),
        (HEAD + b"\x01\0\0", EngineConnectionError, "hung up"),
    ],
)
async def test_a_stream_that_is_none(tmp_path: Path, answer: bytes, kind: type[Exception], text: str) -> None:
    """Nothing hangs, and nothing of it is taken for the agent's words."""
    async with Tap(tmp_path, answer) as api:
        with pytest.raises(kind, match=text):
            stream = await ExecStream.open(api, "7")
            await stream.expect(b"aviato\n")
