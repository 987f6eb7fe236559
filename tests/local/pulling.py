"""What the tests of pulling share: how they pull, what they look at, and how a registry is told to misbehave."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from aviato.engines.images import ImageInfo
from aviato.engines.local.images import ImageStore
from aviato.registry.platforms import here
from aviato.registry.retries import Retries
from tests.helpers.registry import (
    OCI_LAYER,
    Image,
)
from tests.local.test_images import left, pack

ROOT = Path(__file__).parents[2]


QUICK = Retries(base=0.0)


HERE = {"os": "linux", "architecture": here().architecture}


BIG = os.urandom(3 << 20)


async def pulled(store: ImageStore, name: str, **options: Any) -> ImageInfo:
    """Pull as an asynchronous program does."""
    return await asyncio.to_thread(store.pull, name, **{"retries": QUICK, **options})


def kept(tmp_path: Path) -> list[str]:
    """List the layers that the store keeps, whole ones and beginnings."""
    folder = tmp_path / "home/images/blobs"
    return sorted(path.name for path in folder.iterdir() if path.name != "lock") if folder.exists() else []


def images_left(tmp_path: Path) -> list[str]:
    """List everything in the store but its layers."""
    return [name for name in left(tmp_path) if name != "blobs"]


def once(times: int, answer: Callable[[web.Request], Any], part: str = "/blobs/") -> Any:
    """Make a fault that happens a number of times."""
    left_over = [times]

    async def fault(request: web.Request) -> Any:
        if part in request.path and left_over[0]:
            left_over[0] -= 1
            return await answer(request)
        return None

    return fault


def big_image() -> Image:
    """Make an image whose layer is too large for one packet."""
    return Image([pack({"big": BIG})], bytes, OCI_LAYER)


def login(config: Path, host: str, user: str = "me", password: str = "secret", **fields: str) -> None:
    """Store a login as docker does."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {host: {"auth": auth, **fields}}}))


async def answered_with(number: int) -> web.Response:
    """Answer with a status and nothing else."""
    return web.Response(status=number)
