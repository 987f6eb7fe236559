"""aioresponses, made to work with the aiohttp that is installed: answers without a server, and requests to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiohttp
from aioresponses import aioresponses
from yarl import URL

VERSION = {"ApiVersion": "1.47", "MinAPIVersion": "1.24", "Version": "27.0"}
DAEMON = "http://docker/v1.41"


class _Response(aiohttp.ClientResponse):
    """Takes what aioresponses 0.7.9 gives: aiohttp 3.14 wants a `stream_writer` besides."""

    def __init__(self, method: str, url: URL, **given: Any) -> None:
        given.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(method, url, **given)


@contextlib.contextmanager
def answered() -> Iterator[aioresponses]:
    """Answer requests of aiohttp by a table; one that is not in it fails."""
    with mock.patch("aioresponses.core.ClientResponse", _Response), aioresponses() as table:
        yield table


def daemon(table: aioresponses) -> None:
    """Let a daemon introduce itself."""
    table.get("http://docker/version", payload=VERSION)
    table.get(f"{DAEMON}/info", payload={"ServerVersion": "27.0"})


def sent(table: aioresponses, method: str, path: str) -> list[dict[str, Any]]:
    """Return what was sent to a path, oldest first: `json`, `headers`, `params` and more."""
    return [
        {**request.kwargs, "params": {**dict(url.query), **(request.kwargs.get("params") or {})}}
        for (verb, url), requests in table.requests.items()
        if verb == method and str(url.with_query(None)) == f"{DAEMON}{path}"
        for request in requests
    ]
