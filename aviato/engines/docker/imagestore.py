"""The images of a daemon as `aviato image` manages them: listed, pulled, imported, named and removed."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.endpoint import Endpoint, find_endpoint
from aviato.engines.docker.images import ensure_image, find_image, messages
from aviato.engines.docker.imagesources import is_bundle, pieces, tree
from aviato.engines.images import ImageInfo
from aviato.exceptions import CapabilityError, EngineError, ImageNotFoundError, SandboxResourceExhaustedError
from aviato.models import PullProgress
from aviato.registry.names import HOST, normalize

if TYPE_CHECKING:
    from types import TracebackType

    from aviato._defaults import PullPolicy

_NOT_FOUND, _CONFLICT = 404, 409
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")


class DaemonImages:
    """The images of one Docker or Podman daemon, in a `with` block on one event loop.

    Names have one spelling, that of `aviato.registry.names`; `host` is none of a daemon's.
    """

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        """Find the daemon; it is asked nothing yet.

        Args:
            endpoint: Where it is; None: where the docker command would find it.

        Raises:
            ConfigurationError: A setting of Docker's has a bad value.
        """
        self._api = Api(endpoint or find_endpoint())

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            EngineError: The daemon cannot be reached, or is too old.
        """
        try:
            await self._api.open()
        except BaseException:
            await self._api.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the daemon go."""
        await self._api.close()

    async def list(self) -> builtins.list[ImageInfo]:
        """Return every name, sorted; images without one are left out.

        Raises:
            EngineError: The daemon failed.
        """
        found = await self._api.request("GET", "/images/json", what="list its images")
        return sorted(
            (
                ImageInfo(_spelled(name), "image", image["Id"], image["Size"], created=float(image["Created"]))
                for image in found
                for name in _names(image)
            ),
            key=lambda info: info.name,
        )

    async def pull(
        self,
        name: str,
        *,
        policy: PullPolicy = "always",
        progress: Callable[[PullProgress], object] | None = None,
    ) -> ImageInfo:
        """Let the daemon bring an image from its registry, with the user's docker login where one is wanted.

        Raises:
            ValueError: The name is not one for an image.
            CapabilityError: It is `host`, or has no variant for the daemon's machine.
            ImageNotFoundError: The registry does not have it; or the daemon does not, and `policy` is `"never"`.
            AviatoAuthenticationError: The registry does not let the user read it.
            SandboxResourceExhaustedError: The daemon's disk is full.
            EngineError: The daemon failed, or reaches no registry.
        """
        name = _checked(name)
        return _info(name, await ensure_image(self._api, name, policy, progress))

    async def tag(self, src: str, dst: str) -> ImageInfo:
        """Let `dst` mean what `src` means now. Idempotent.

        Raises:
            ValueError: A name is not one for an image, or `dst` has a digest.
            CapabilityError: One of them is `host`.
            ImageNotFoundError: `src` is unknown.
            EngineError: The daemon failed.
        """
        src, dst = _checked(src), _checked(dst, given=True)
        repository, _, tag = dst.rpartition(":")
        try:
            await self._api.request(
                "POST", f"/images/{src}/tag", params={"repo": repository, "tag": tag}, what=f"tag the image {src}"
            )
        except ApiError as error:
            raise (_unknown(src) if error.status == _NOT_FOUND else error) from error
        return await self._look_up(dst)

    async def remove(self, name: str) -> None:
        """Take a name away; the image goes with its last name.

        Raises:
            ValueError: The name is not one for an image.
            CapabilityError: It is `host`.
            ImageNotFoundError: It is unknown.
            EngineError: A container needs the image, or the daemon failed.
        """
        name = _checked(name)
        try:
            await self._api.request("DELETE", f"/images/{name}", what=f"remove the image {name}")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                raise _unknown(name) from error
            if error.status == _CONFLICT:
                raise EngineError(
                    f"image {name!r} is in use: {error.said}",
                    hint="Remove what ended sandboxes left: aviato prune --engine docker; see also `docker ps --all`.",
                ) from error
            raise

    async def import_(self, name: str, source: str) -> ImageInfo:
        """Store a root file system, or an image, under a name, which is taken away from what it meant before.

        Of a directory, devices, pipes and sockets are left out. From an archive of `docker save` the daemon takes the
        names in it over as well, as `docker load` does.

        Args:
            name: Such as `app` or `ghcr.io/owner/app:v1`.
            source: A directory; or a tar (also gzip, bzip2, xz) of a root file system, of `docker save`, or, with
                daemons that read it, of an OCI layout.

        Raises:
            ValueError: The name is not one for an image, or has a digest.
            CapabilityError: It is `host`.
            SandboxResourceExhaustedError: The daemon's disk is full.
            EngineError: The source is missing, damaged, or holds several images; or the daemon failed.
            OSError: A file of the source cannot be read.
        """
        name = _checked(name, given=True)
        repository, _, tag = name.rpartition(":")
        path = Path(source)
        if not await asyncio.to_thread(path.exists):
            raise EngineError(f"{source}: there is no such file or directory")
        skipped: Counter[str] = Counter()
        folder = await asyncio.to_thread(path.is_dir)
        if not folder and await asyncio.to_thread(is_bundle, path):
            loaded = await self._load(path)
            await self._api.request(
                "POST", f"/images/{loaded}/tag", params={"repo": repository, "tag": tag}, what=f"tag the image {name}"
            )
        else:
            content = tree(path, skipped) if folder else pieces(path)
            params = {"fromSrc": "-", "repo": repository, "tag": tag}
            await self._told("/images/create", source, content, params)
        return replace(await self._look_up(name), skipped=dict(skipped))

    async def _load(self, path: Path) -> str:
        loaded = []
        for message in await self._told("/images/load", str(path), pieces(path), {"quiet": "1"}):
            loaded += _LOADED.findall(str(message.get("stream", "")))
        if len(loaded) != 1:
            held = ", ".join(loaded) or "no image"
            raise EngineError(
                f"{path}: must hold one image to be named, and holds {held}", hint=f"docker load -i {path}"
            )
        return str(loaded[0])

    async def _told(
        self, path: str, source: str, content: AsyncIterator[bytes], params: Mapping[str, str]
    ) -> builtins.list[dict[str, Any]]:
        """Send something, and return what the daemon says about it."""
        what, headers = f"import {source}", {"Content-Type": "application/x-tar"}
        said: builtins.list[dict[str, Any]] = []
        try:
            async with contextlib.aclosing(
                messages(self._api, "POST", path, what=what, params=params, headers=headers, data=content)
            ) as told:
                async for message in told:
                    if "error" in message:
                        raise _failed(source, str(message["error"]))
                    said.append(message)
        except ApiError as error:
            raise _failed(source, error.said) from error
        return said

    async def _look_up(self, name: str) -> ImageInfo:
        found = await find_image(self._api, name)
        if found is None:
            raise _unknown(name)
        return _info(name, found)


def _checked(name: str, *, given: bool = False) -> str:
    name = normalize(name)
    if name == HOST:
        raise CapabilityError(
            "image 'host' is this machine's own root file system, which the local engine alone has",
            hint="Leave --engine docker out, or use another name.",
        )
    if given and "@" in name:
        raise ValueError(f"image {name!r}: a digest cannot be given to an image, write a name and a tag")
    return name


def _spelled(name: str) -> str:
    """Return the one spelling of a name that the daemon has, as it is where we have none for it."""
    try:
        return normalize(name)
    except ValueError:
        return name


def _names(image: Mapping[str, Any]) -> builtins.list[str]:
    tags = [tag for tag in image.get("RepoTags") or () if "<none>" not in tag]
    return tags or [name for name in image.get("RepoDigests") or () if "<none>" not in name]


def _info(name: str, image: Mapping[str, Any]) -> ImageInfo:
    created = 0.0
    with contextlib.suppress(ValueError, TypeError):
        text = re.sub(r"\.\d+", "", image["Created"])  # Python knows microseconds at most
        created = datetime.fromisoformat(text).timestamp()
    command = tuple((image.get("Config") or {}).get("Cmd") or ())
    return ImageInfo(name, "image", image["Id"], image.get("Size", 0), created=created, command=command)


def _unknown(name: str) -> ImageNotFoundError:
    return ImageNotFoundError(
        f"image {name!r} is not on the Docker daemon", image=name, hint=f"aviato image pull --engine docker {name}"
    )


def _failed(source: str, said: str) -> EngineError | SandboxResourceExhaustedError:
    if "no space left" in said.lower():
        return SandboxResourceExhaustedError(
            f"{source} could not be imported: the Docker daemon's disk is full: {said}",
            hint="docker system df; docker image prune",
        )
    return EngineError(f"{source} could not be imported: {said}")
