"""Pulling what only a login may read: what is sent to whom, and what never is."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aviato.engines.local.images import ImageStore
from aviato.exceptions import (
    AviatoAuthenticationError,
    EngineProtocolError,
)
from tests.helpers.registry import (
    FakeRegistry,
    Image,
)
from tests.local.pulling import login, once, pulled
from tests.local.test_images import LAYERS

pytestmark = pytest.mark.usefixtures("docker_config")


async def basic(request: web.Request) -> web.Response | None:
    """Want a name and a password."""
    if request.path == "/v2/":
        return None
    if request.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:secret").decode():
        return None
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="private"'})


async def test_redirects_do_not_carry_the_login(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """Layers may lie on another server, which does not see the Authorization of the registry."""
    login(docker_config, registry.host)
    image = Image(LAYERS)
    name = registry.put(image)
    registry.faults.append(basic)
    async with FakeRegistry() as elsewhere:
        elsewhere.put(image)

        async def away(request: web.Request) -> web.Response:
            place = f"http://{elsewhere.host}{request.path}?signature=a%2Fb%2Bc%3d"
            return web.Response(status=307, headers={"Location": place})

        registry.faults.append(once(99, away))
        await pulled(store, name)
        assert len(elsewhere.requests) == 3
        assert not any("Authorization" in headers for _, headers in elsewhere.requests)
        assert all(target.endswith("?signature=a%2Fb%2Bc%3d") for target in elsewhere.raw)
    assert all("Authorization" in headers for headers in registry.asked("/blobs/"))


async def test_a_login_with_a_password(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """The login that docker stored is sent once the registry asks for it; without one, or a wrong one, it is denied."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(basic)
    with pytest.raises(AviatoAuthenticationError, match="there is none") as caught:
        await pulled(store, name)
    assert f"docker login {registry.host}" in (caught.value.hint or "")
    login(docker_config, registry.host, password="wrong")
    with pytest.raises(AviatoAuthenticationError, match="as me: it does not accept"):
        await pulled(store, name)
    login(docker_config, registry.host)
    await pulled(store, name)
    assert "Authorization" not in registry.asked("/manifests/")[0]


def tokens(registry: FakeRegistry, accept: Callable[[web.Request, Any], bool]) -> Any:
    """Want a Bearer token from `/token`, which gives one to those accepted."""
    given: list[str] = []

    async def fault(request: web.Request) -> web.Response | None:
        if request.path == "/v2/":
            return None
        if request.path == "/token":
            form = await request.post()
            if not accept(request, form):
                return web.json_response({"details": "no"}, status=401)
            given.append(f"t{len(given)}")
            return web.json_response({"token": given[-1], "expires_in": 60})
        if given and request.headers.get("Authorization") == f"Bearer {given[-1]}":
            return None
        realm = f'Bearer realm="http://{registry.host}/token",service="the, service",scope="repository:app:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    return fault


async def test_tokens_for_anybody(store: ImageStore, registry: FakeRegistry) -> None:
    """Without a login a token is asked for all the same, as for public images of Docker Hub."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(tokens(registry, lambda request, form: request.query["service"] == "the, service"))
    await pulled(store, name)
    (asked,) = [request for request, _ in registry.requests if "/token" in request]
    assert asked == "GET /token?scope=repository%3Aapp%3Apull&service=the%2C+service"


async def test_tokens_for_a_login(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """A password goes to the token service alone, and the registry sees the token only."""
    login(docker_config, registry.host)
    name = registry.put(Image(LAYERS))
    password = "Basic " + base64.b64encode(b"me:secret").decode()
    registry.faults.append(tokens(registry, lambda request, form: request.headers.get("Authorization") == password))
    await pulled(store, name)
    for part in ("/manifests/", "/blobs/"):
        assert {headers.get("Authorization") for headers in registry.asked(part)} <= {None, "Bearer t0"}
    login(docker_config, registry.host, password="wrong")
    store.remove(name)
    with pytest.raises(AviatoAuthenticationError, match="token service"):
        await pulled(store, name)


async def test_identity_tokens(store: ImageStore, registry: FakeRegistry, docker_config: Path) -> None:
    """What a helper or docker stored in place of a password is exchanged by POST."""
    login(docker_config, registry.host, "", "", identitytoken="refresh-me")
    name = registry.put(Image(LAYERS))
    wanted = {"grant_type": "refresh_token", "refresh_token": "refresh-me"}
    registry.faults.append(tokens(registry, lambda request, form: wanted.items() <= dict(form).items()))
    await pulled(store, name)
    assert [request for request, _ in registry.requests if "/token" in request] == ["POST /token"]


async def test_a_token_that_expires(store: ImageStore, registry: FakeRegistry) -> None:
    """A token that is no longer accepted in the middle of a pull is replaced."""
    name = registry.put(Image(LAYERS))
    registry.faults.append(tokens(registry, lambda request, form: True))
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'}

    async def expired(request: web.Request) -> web.Response:
        return web.Response(status=401, headers=challenge)

    registry.faults.insert(0, once(1, expired))
    await pulled(store, name)


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "file:///etc/passwd", "", "https://me@x.invalid/"])
async def test_token_services_that_are_not_used(
    store: ImageStore, registry: FakeRegistry, docker_config: Path, realm: str
) -> None:
    """A login is not sent where others could read it, whatever the registry says."""
    login(docker_config, registry.host)
    name = registry.put(Image(LAYERS))

    async def challenge(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    registry.faults.append(once(9, challenge, "/manifests/"))
    with pytest.raises(EngineProtocolError, match="token service"):
        await pulled(store, name)


@pytest.mark.parametrize("offer", ["", "Negotiate", '=,=,"', "Bearer", 'Basic realm="x' * 500])
async def test_challenges_that_cannot_be_met(store: ImageStore, registry: FakeRegistry, offer: str) -> None:
    """Odd ways to ask for a login end in an error, not in a loop."""
    name = registry.put(Image(LAYERS))

    async def challenge(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": offer} if offer else {})

    registry.faults.append(once(9, challenge, "/manifests/"))
    with pytest.raises((EngineProtocolError, AviatoAuthenticationError)):
        await pulled(store, name)


async def test_denied(store: ImageStore, registry: FakeRegistry) -> None:
    """403 is AviatoAuthenticationError with the registry's words."""
    name = registry.put(Image(LAYERS))

    async def forbid(request: web.Request) -> web.Response:
        return web.json_response({"errors": [{"code": "DENIED", "message": "not yours"}]}, status=403)

    registry.faults.append(once(9, forbid, "/manifests/"))
    with pytest.raises(AviatoAuthenticationError, match="not yours"):
        await pulled(store, name)
