"""Images of the daemon: looked up, and pulled when they are missing."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aviato.engines.docker.api import ApiError
from aviato.exceptions import (
    AviatoAuthenticationError,
    CapabilityError,
    EngineConnectionError,
    EngineError,
    ImageNotFoundError,
    SandboxResourceExhaustedError,
)
from aviato.registry import credentials
from aviato.registry.names import Reference

if TYPE_CHECKING:
    from aviato.engines.docker.api import Api

DEFAULT_IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
_NOT_FOUND = 404

Progress = Callable[[dict[str, Any]], object]
"""Is called with each message of a pull as the daemon sends it: `status`, `id` of the layer, `progressDetail`."""


async def find_image(api: Api, name: str) -> dict[str, Any] | None:
    """Look an image up, None when the daemon does not have it."""
    try:
        found: dict[str, Any] = await api.request("GET", f"/images/{name}/json", what=f"look up the image {name}")
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return found


async def ensure_image(api: Api, name: str, progress: Progress | None = None) -> dict[str, Any]:
    """Look an image up, pulling it when it is missing.

    Raises:
        ImageNotFoundError: No registry has it.
        AviatoAuthenticationError: Its registry does not let this user have it.
        CapabilityError: There is none for the daemon's kind of machine.
        SandboxResourceExhaustedError: The daemon's disk is full.
        EngineError: The daemon failed, or reaches no registry.
    """
    found = await find_image(api, name)
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
    pending = b""
    try:
        async for piece in api.stream(
            "POST", "/images/create", what=f"pull the image {name}", params=params, headers=headers
        ):
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                if not line.strip():
                    continue
                message = json.loads(line)
                if "error" in message:
                    raise _explain(name, str(message["error"]))
                if progress is not None:
                    progress(message)
    except ApiError as error:
        raise _explain(name, error.said) from error


def _login(name: str) -> str:
    """Return the user's login at an image's registry, as the daemon wants it; an empty one where there is none."""
    try:
        registry = Reference.parse(name).registry
    except ValueError as error:
        raise ImageNotFoundError(f"image {name!r} cannot be pulled: {error}", image=name) from error
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
    if "unauthorized" in text or "authentication required" in text or "denied: " in text.replace("access denied", ""):
        return AviatoAuthenticationError(f"image {name!r} may not be pulled: {said}", hint="docker login REGISTRY")
    if any(
        word in text
        for word in ("not found", "manifest unknown", "does not exist", "access denied", "invalid reference")
    ):
        return ImageNotFoundError(
            f"image {name!r} is neither on the Docker daemon nor in its registry: {said}",
            image=name,
            hint="See `docker image ls`; for a private registry: docker login REGISTRY.",
        )
    if any(word in text for word in ("dial tcp", "no such host", "timeout", "connection refused", "lookup ")):
        return EngineConnectionError(
            f"image {name!r} is not on the Docker daemon, and its registry cannot be reached: {said}",
            hint=f"On a machine with network: docker pull {name}; docker save {name}. Here: docker load.",
            retryable=True,
        )
    return EngineError(f"image {name!r} could not be pulled: {said}")
