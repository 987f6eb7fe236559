"""The shape of each request, and what becomes of the codes that a daemon answers with."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from aviato.engines.base import SandboxSpec
from aviato.engines.docker.api import ApiError
from aviato.engines.docker.endpoint import Endpoint
from aviato.engines.docker.engine import DockerEngine
from aviato.engines.docker.records import RECORD_LABEL, SANDBOX_LABEL, USER_LABEL, user_name
from aviato.exceptions import (
    AviatoError,
    CapabilityError,
    EngineConnectionError,
    ImageNotFoundError,
    Outcome,
    SandboxFailedError,
    SandboxNotFoundError,
    SandboxResourceExhaustedError,
)
from aviato.models import NetworkOptions, Resources
from tests.docker.conftest import ID
from tests.helpers.responses import DAEMON, answered, daemon, sent

IMAGE = {"Id": "sha256:1", "Config": {"Env": ["A=image"], "WorkingDir": "/srv"}}
ANY_NAME = re.compile(rf"{re.escape(DAEMON)}/containers/{ID}(\.stopping)?/json.*")


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[DockerEngine]:
    """An engine whose daemon is a table."""
    async with DockerEngine(Endpoint("unix", str(tmp_path / "no.sock"))) as made:
        yield made


async def test_the_shim_is_still_needed() -> None:
    """If this fails, aioresponses knows the installed aiohttp: let `answered` be aioresponses itself."""
    with aioresponses() as table:
        table.get("http://docker/version", payload={})
        async with aiohttp.ClientSession() as session:
            with pytest.raises(TypeError, match="stream_writer"):
                await session.get("http://docker/version")


async def test_what_a_create_asks_for(asking: DockerEngine) -> None:
    """Name, image by its id, limits and labels; no platform: the daemon has its own, and the image is looked up."""
    spec = SandboxSpec(
        sandbox_id=ID,
        image="x:1",
        command=("sleep", "1"),
        environment={"SECRET": "in no body"},
        tags=("t",),
        resources=Resources(cpu="500m", memory="64Mi", processes=20),
        network=NetworkOptions(egress_mode="internet", ingress_mode="public", exposed_ports=(8080,)),
        runtime="runsc",
    )
    with answered() as table:
        daemon(table)
        table.get(f"{DAEMON}/images/x:1/json", payload=IMAGE)
        table.get(f"{DAEMON}/networks/bridge", payload={"Name": "bridge"})
        table.post(f"{DAEMON}/containers/create?name={ID}", status=500, payload={"message": "enough"})
        with pytest.raises(ApiError, match="enough"):
            await asking.create(spec)
        (request,) = sent(table, "POST", "/containers/create")
    assert request["params"] == {"name": ID}
    body = request["json"]
    assert "in no body" not in json.dumps(body)
    assert body["Image"] == "sha256:1"
    assert body["User"] == "0:0"
    assert body["WorkingDir"] == "/srv"
    assert body["ExposedPorts"] == {"8080/tcp": {}}
    assert body["NetworkDisabled"] is False
    assert body["Labels"][SANDBOX_LABEL] == ID
    assert body["Labels"][USER_LABEL] == user_name()
    assert json.loads(body["Labels"][RECORD_LABEL])["tags"] == ["t"]
    host = body["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["NanoCpus"] == 500_000_000
    assert host["Memory"] == host["MemorySwap"] == 64 << 20
    assert host["PidsLimit"] == 20
    assert host["NetworkMode"] == "bridge"
    assert host["PortBindings"] == {"8080/tcp": [{"HostPort": ""}]}
    assert host["Runtime"] == "runsc"
    assert host["ReadonlyRootfs"] is False
    assert host["Tmpfs"] == {}


async def test_a_daemon_without_a_network(asking: DockerEngine) -> None:
    """Is refused by name: it would start the container without one. Podman's own words are no reason."""
    spec = SandboxSpec(sandbox_id=ID, image="x:1", network=NetworkOptions(egress_mode="internet"))
    with answered() as table:
        daemon(table)
        table.get(f"{DAEMON}/images/x:1/json", payload=IMAGE, repeat=True)
        table.get(f"{DAEMON}/networks/bridge", status=404, payload={"message": "network bridge not found"})
        with pytest.raises(CapabilityError, match=r"network\.egress_mode"):
            await asking.create(spec)
        assert sent(table, "POST", "/containers/create") == []
        table.get(f"{DAEMON}/networks/bridge", status=404, payload={"message": "unable to find network"})
        table.post(f"{DAEMON}/containers/create?name={ID}", status=500, payload={"message": "enough"})
        with pytest.raises(ApiError, match="enough"):
            await asking.create(spec)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "invalid volume specification", CapabilityError),
        (404, "No such image: sha256:1", SandboxFailedError),
        (409, "Conflict. The container name is already in use", SandboxFailedError),
        (500, "no space left on device", SandboxResourceExhaustedError),
        (500, "anything", ApiError),
        (503, "the daemon is shutting down", ApiError),
    ],
)
async def test_the_codes_of_a_create(asking: DockerEngine, status: int, said: str, kind: type[AviatoError]) -> None:
    """Each is an error with the daemon's words, and nothing was made."""
    other = {"body": "another", "image": "", "created_at": 0, "tags": [], "annotations": {}}
    labels = {SANDBOX_LABEL: ID, USER_LABEL: user_name(), RECORD_LABEL: json.dumps(other)}
    with answered() as table:
        daemon(table)
        table.get(f"{DAEMON}/images/x:1/json", payload=IMAGE)
        table.post(f"{DAEMON}/containers/create?name={ID}", status=status, payload={"message": said})
        table.get(ANY_NAME, payload={"Config": {"Labels": labels}, "State": {"Status": "running"}}, repeat=True)
        with pytest.raises(AviatoError) as caught:
            await asking.create(SandboxSpec(sandbox_id=ID, image="x:1"))
        assert sent(table, "POST", f"/containers/{ID}/start") == []
    assert type(caught.value) is kind
    assert caught.value.outcome is Outcome.NOT_APPLIED
    if status != 409:
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, SandboxNotFoundError), (409, ApiError), (500, ApiError), (503, ApiError)]
)
@pytest.mark.parametrize("verb", ["get", "stop", "delete", "connect", "extend"])
async def test_the_codes_of_a_look_up(asking: DockerEngine, verb: str, status: int, kind: type[AviatoError]) -> None:
    """Only 404 means that there is none."""
    calls: dict[str, Any] = {
        "get": lambda: asking.get(ID),
        "stop": lambda: asking.stop(ID, grace_seconds=0),
        "delete": lambda: asking.delete(ID),
        "connect": lambda: asking.connect(ID, None),  # type: ignore[arg-type]  # it does not get so far
        "extend": lambda: asking.extend(ID, 1.0),
    }
    with answered() as table:
        daemon(table)
        table.get(ANY_NAME, status=status, payload={"message": "so it is"}, repeat=True)
        with pytest.raises(AviatoError) as caught:
            await calls[verb]()
    assert type(caught.value) is kind


async def test_what_a_pull_sends(asking: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login of the registry in question, and the name alone."""
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": {"auth": "bWU6c2VjcmV0"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    name = "registry.example/x:1"
    with answered() as table:
        daemon(table)
        table.get(f"{DAEMON}/images/{name}/json", status=404, payload={"message": "none"}, repeat=True)
        table.post(re.compile(rf"{re.escape(DAEMON)}/images/create.*"), body='{"status": "Pulling"}\n')
        with pytest.raises(ImageNotFoundError, match="was pulled, and is not there"):
            await asking.create(SandboxSpec(sandbox_id=ID, image=name))
        (request,) = sent(table, "POST", "/images/create")
    assert request["params"] == {"fromImage": name}
    login = json.loads(base64.urlsafe_b64decode(request["headers"]["X-Registry-Auth"]))
    assert login == {"username": "me", "password": "secret", "serveraddress": "registry.example"}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (aiohttp.ServerDisconnectedError(), Outcome.UNKNOWN),
        (aiohttp.ClientOSError(104, "reset"), Outcome.UNKNOWN),
        (TimeoutError(), Outcome.UNKNOWN),
        (FileNotFoundError(2, "no socket"), Outcome.NOT_APPLIED),
    ],
)
async def test_what_is_known_of_a_request_without_an_answer(
    asking: DockerEngine, error: Exception, outcome: Outcome
) -> None:
    """Whether it may have been done."""
    with answered() as table:
        daemon(table)
        table.get(ANY_NAME, exception=error)
        with pytest.raises(EngineConnectionError) as caught:
            await asking.get(ID)
    assert caught.value.outcome is outcome
    assert caught.value.retryable


async def test_what_prune_removes(asking: DockerEngine) -> None:
    """What has ended, and what was created long ago and never started; not what runs, or is being made."""
    now = int(time.time())
    states = [("1", "exited", now), ("2", "running", 0), ("3", "created", now - 3600), ("4", "created", now - 60)]
    found = [
        {"Id": name, "State": state, "Created": created, "Labels": {SANDBOX_LABEL: f"sbx-{name}"}}
        for name, state, created in states
    ]
    with answered() as table:
        daemon(table)
        table.get(re.compile(rf"{re.escape(DAEMON)}/containers/json.*"), payload=found, repeat=True)
        table.delete(re.compile(rf"{re.escape(DAEMON)}/containers/.*"), status=204, repeat=True)
        assert await asking.prune(dry_run=True) == ("sbx-1", "sbx-3")
        assert not [method for method, _ in table.requests if method == "DELETE"]
        assert await asking.prune() == ("sbx-1", "sbx-3")
        removed = [url.path for method, url in table.requests if method == "DELETE"]
    assert removed == ["/v1.41/containers/1", "/v1.41/containers/3"]
