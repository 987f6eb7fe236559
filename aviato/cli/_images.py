"""The images of the engine that a command is about, as one blocking interface."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from aviato import settings
from aviato.engines import check_name
from aviato.exceptions import CapabilityError

if TYPE_CHECKING:
    from aviato._defaults import PullPolicy
    from aviato.engines.docker.imagestore import DaemonImages
    from aviato.engines.images import ImageInfo
    from aviato.models import PullProgress

Value = TypeVar("Value")


class Images(Protocol):
    """What `aviato image` does with images."""

    def import_(self, name: str, source: str) -> ImageInfo:
        """Store a root file system under a name."""
        ...

    def pull(self, name: str, *, policy: PullPolicy, progress: Callable[[PullProgress], None]) -> ImageInfo:
        """Bring an image from its registry."""
        ...

    def tag(self, src: str, dst: str) -> ImageInfo:
        """Give an image another name."""
        ...

    def list(self) -> builtins.list[ImageInfo]:
        """Return every name."""
        ...

    def remove(self, name: str) -> None:
        """Take a name away."""
        ...


def images_of(engine: str | None) -> Images:
    """Return the images of an engine by its name; None is the configured one.

    Raises:
        ConfigurationError: No engine has this name.
        CapabilityError: This one has no images to manage.
    """
    found = settings.load_settings(engine=engine)
    name = found.base_url or found.engine
    if name == "local":
        from aviato.engines.local.images import ImageStore  # noqa: PLC0415 - only who uses it pays for it

        return ImageStore(found.home)
    if name == "docker":
        return _OfDaemon()
    check_name(name)
    raise CapabilityError(f"the engine {name!r} has no images to manage here", hint="Use --engine local or docker.")


class _OfDaemon:
    """Those of a Docker daemon; each request has an event loop of its own."""

    def _ask(self, body: Callable[[DaemonImages], Awaitable[Value]]) -> Value:
        from aviato.engines.docker.imagestore import DaemonImages  # noqa: PLC0415 - only who uses it pays for it

        async def run() -> Value:
            async with DaemonImages() as images:
                return await body(images)

        return asyncio.run(run())

    def import_(self, name: str, source: str) -> ImageInfo:
        return self._ask(lambda images: images.import_(name, source))

    def pull(self, name: str, *, policy: PullPolicy, progress: Callable[[PullProgress], None]) -> ImageInfo:
        return self._ask(lambda images: images.pull(name, policy=policy, progress=progress))

    def tag(self, src: str, dst: str) -> ImageInfo:
        return self._ask(lambda images: images.tag(src, dst))

    def list(self) -> builtins.list[ImageInfo]:
        return self._ask(lambda images: images.list())

    def remove(self, name: str) -> None:
        self._ask(lambda images: images.remove(name))
