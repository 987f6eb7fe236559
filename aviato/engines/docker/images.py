"""Images of the daemon: looked up, and pulled when they are missing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aviato.engines.docker.api import ApiError
from aviato.engines.docker.events import parsed
from aviato.exceptions import (
    AviatoAuthenticationError,
    CapabilityError,
    EngineConnectionError,
    EngineError,
    ImageNotFoundError,
    SandboxResourceExhaustedError,
)
from aviato.models import PullProgress, PullState
from aviato.registry import credentials
from aviato.registry.names import HOST, Reference, normalize

if TYPE_CHECKING:
    from aviato._defaults import PullPolicy
    from aviato.engines.docker.api import Api

DEFAULT_IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
_NOT_FOUND = 404

Progress = Callable[[PullProgress], object]
_STATES = {
    "Pulling fs layer": PullState.WAITING,
    "Waiting": PullState.WAITING,
    "Downloading": PullState.DOWNLOADING,
    "Verifying Checksum": PullState.DOWNLOADED,
    "Download complete": PullState.DOWNLOADED,
    "Extracting": PullState.UNPACKING,
    "Pull complete": PullState.UNPACKED,
    "Already exists": PullState.PRESENT,
}
"""What a daemon says of a layer."""
_UNREACHED = ("dial tcp", "no such host", "timeout", "connection refused", "connection reset", "lookup ", "eof")
"""What a daemon says when it does not get to a registry."""
_WHOLE = {PullState.DOWNLOADED, PullState.UNPACKED, PullState.PRESENT}


async def find_image(api: Api, name: str) -> dict[str, Any] | None:
    """Look an image up, None when the daemon does not have it."""
    try:
        found: dict[str, Any] = await api.request("GET", f"/images/{name}/json", what=f"look up the image {name}")
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return found


async def ensure_image(
    api: Api, name: str, policy: PullPolicy = "missing", progress: Progress | None = None
) -> dict[str, Any]:
    """Look an image up, pulling it when the policy wants that.

    Raises:
        ValueError: The name is not one for an image; the daemon is not asked.
        ImageNotFoundError: No registry has it, or none is to be asked, or it is `host`.
        AviatoAuthenticationError: Its registry does not let this user have it.
        CapabilityError: There is none for the daemon's kind of machine.
        SandboxResourceExhaustedError: The daemon's disk is full.
        EngineError: The daemon failed, or reaches no registry.
    """
    if normalize(name) == HOST:  # and what is no name must not become a part of a request's path
        raise ImageNotFoundError(
            "image 'host' is this machine's own root file system, which the local engine alone has",
            image=name,
            hint="Use the local engine, or another name.",
        )
    found = None if policy == "always" else await find_image(api, name)
    if found is None and policy == "never":
        raise ImageNotFoundError(
            f"the Docker daemon has no image {name!r}, and pull_policy is 'never'",
            image=name,
            hint=f"aviato image pull --engine docker {name}",
        )
    if found is None:
        await pull_image(api, name, progress)
        found = await find_image(api, name)
    if found is None:
        raise ImageNotFoundError(f"image {name!r} was pulled, and is not there", image=name)
    return found


async def pull_image(api: Api, name: str, progress: Progress | None = None) -> None:
    """Let the daemon pull an image; raises as `ensure_image` does."""
    if name.startswith("sha256:"):
        raise ImageNotFoundError(f"the Docker daemon has no image {name}, and an id cannot be pulled", image=name)
    image, tag = name, ""
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        tag = "latest"
    params = {"fromImage": image, **({"tag": tag} if tag else {})}
    headers = {"X-Registry-Auth": await asyncio.to_thread(_login, name)}
    report = _Layers(progress)
    try:
        what = f"pull the image {name}"
        async with contextlib.aclosing(
            messages(api, "POST", "/images/create", what=what, params=params, headers=headers)
        ) as told:
            async for message in told:
                if "error" in message:
                    raise _explain(name, str(message["error"]))
                report.tell(message)
    except ApiError as error:
        raise _explain(name, error.said) from error


async def messages(api: Api, method: str, path: str, **more: Any) -> AsyncGenerator[dict[str, Any], None]:
    """Ask for something that the daemon tells about while it does it, and iterate over what it tells.

    Raises:
        EngineProtocolError: It sent something else.
        EngineError: As `Api.stream`.
    """
    async with contextlib.aclosing(parsed(api.stream(method, path, **more))) as told:
        async for message in told:
            yield message


class _Layers:
    """Turns what the daemon says of layers into what is told of every pull."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._sizes: dict[str, int] = {}

    def tell(self, message: Mapping[str, Any]) -> None:
        """Report a message, if it is about a layer."""
        layer, state = message.get("id"), _STATES.get(str(message.get("status")))
        if self._progress is None or state is None or not isinstance(layer, str):
            return
        detail = message.get("progressDetail")
        numbers = detail if isinstance(detail, dict) else {}
        total = numbers.get("total")
        if isinstance(total, int) and total > 0:
            self._sizes[layer] = total
        size, current = self._sizes.get(layer, 0), numbers.get("current")
        done = size if state in _WHOLE else current if isinstance(current, int) and current >= 0 else 0
        self._progress(PullProgress(layer, done, size, state))


def _login(name: str) -> str:
    """Return the user's login at an image's registry, as the daemon wants it; an empty one where there is none."""
    registry = Reference.parse(name).registry
    found = credentials.find(registry)
    login: dict[str, str] = {}
    if found is not None and found.identity_token:
        login = {"identitytoken": found.identity_token, "serveraddress": registry}
    elif found is not None:
        login = {"username": found.username, "password": found.password, "serveraddress": registry}
    return base64.urlsafe_b64encode(json.dumps(login).encode()).decode()


def _explain(name: str, said: str) -> Exception:
    text = said.lower()
    if "no space left" in text:
        return SandboxResourceExhaustedError(
            f"image {name!r} could not be pulled: the Docker daemon's disk is full: {said}",
            hint="docker system df; docker image prune",
        )
    if "no matching manifest" in text or "does not match the specified platform" in text:
        return CapabilityError(f"image {name!r} has no variant for the Docker daemon's machine: {said}")
    return _explain_registry(name, said, text)


def _explain_registry(name: str, said: str, text: str) -> Exception:
    if "toomanyrequests" in text or "rate limit" in text:
        return EngineError(
            f"image {name!r} could not be pulled now, for its registry limits how often one may: {said}",
            hint="Wait, or log in for a higher limit: docker login. Or pull from a mirror.",
            retryable=True,
        )
    unknown = "does not exist or may require" in text  # Docker Hub, which tells nobody what is private
    wanted = ("unauthorized", "authentication required", "no basic auth credentials", "denied: ")
    if not unknown and (text == "denied" or any(word in text.replace("access denied", "") for word in wanted)):
        return AviatoAuthenticationError(f"image {name!r} may not be pulled: {said}", hint="docker login REGISTRY")
    if unknown or any(word in text for word in ("not found", "manifest unknown", "does not exist", "access denied")):
        return ImageNotFoundError(
            f"image {name!r} is neither on the Docker daemon nor in its registry: {said}",
            image=name,
            hint="See `docker image ls`; for a private registry: docker login REGISTRY.",
        )
    if any(word in text for word in ("https client", "x509: ", "tls: ")):
        return EngineConnectionError(
            f"image {name!r} is not on the Docker daemon, and its registry cannot be trusted: {said}",
            hint="Give the daemon its certificate (/etc/docker/certs.d/REGISTRY/ca.crt), or name it in "
            "insecure-registries of /etc/docker/daemon.json.",
        )
    if any(word in text for word in _UNREACHED):
        return EngineConnectionError(
            f"image {name!r} is not on the Docker daemon, and its registry cannot be reached: {said}",
            hint=f"On a machine with network: docker pull {name}; docker save {name}. Here: docker load.",
            retryable=True,
        )
    return EngineError(f"image {name!r} could not be pulled: {said}")
