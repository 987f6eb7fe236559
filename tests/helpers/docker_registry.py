"""A registry of Debian's package docker-registry, on a free port of this machine, and how to push to it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.helpers.registry import OCI_MANIFEST, Image, digest_of

CONFIG = """
version: 0.1
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: 127.0.0.1:0
"""


@contextlib.contextmanager
def docker_registry(folder: Path, extra: str = "") -> Iterator[str]:
    """Run a registry and give its name and port; the test is skipped where it is not installed.

    Args:
        folder: Where it keeps everything.
        extra: More of its configuration.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed: apt-get install docker-registry")
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(root=folder / "data") + extra)
    process = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        reader = threading.Thread(target=process.stderr.read)  # or it would stop when the pipe is full
        try:
            yield _address(process.stderr, reader)
        finally:
            process.kill()
            if reader.ident is not None:
                reader.join()


def _address(log: IO[bytes], reader: threading.Thread) -> str:
    said = []
    for line in log:
        said.append(line)
        if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
            reader.start()
            return found[1].decode()
    pytest.fail(f"docker-registry ended: {b''.join(said[-5:])!r}")


def htpasswd(user: str, password: str) -> str:
    """Make the line of a file of passwords, with the one hash that the registry reads; skipped without a libcrypt."""
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError:
        pytest.skip("libcrypt.so.1 is not installed: apt-get install libcrypt1")
    library.crypt.restype = ctypes.c_char_p
    hashed = library.crypt(password.encode(), b"$2b$05$" + b"abcdefghijklmnopqrstuu")
    if not (hashed or b"*").startswith(b"$2b$"):
        pytest.skip("libcrypt.so.1 has no bcrypt")
    return f"{user}:{hashed.decode()}\n"


async def push(
    host: str, image: Image, name: str, tag: str = "latest", headers: Mapping[str, str] | None = None
) -> str:
    """Push an image and return its name."""
    async with aiohttp.ClientSession(f"http://{host}", headers=headers, raise_for_status=True) as session:
        for digest, data in image.blobs.items():
            async with session.post(f"/v2/{name}/blobs/uploads/") as begun:
                place = urlsplit(begun.headers["Location"])
            query = f"{place.query}&digest={digest}" if place.query else f"digest={digest}"
            async with session.put(f"{place.path}?{query}", data=io.BytesIO(data)):
                pass
    return await push_document(host, image.manifest, OCI_MANIFEST, name, tag, headers)


async def push_document(
    host: str, data: bytes, media_type: str, name: str, tag: str = "", headers: Mapping[str, str] | None = None
) -> str:
    """Push a manifest or an index and return its name; without a tag, by its digest."""
    version = tag or digest_of(data)
    async with (
        aiohttp.ClientSession(f"http://{host}", headers=headers, raise_for_status=True) as session,
        session.put(f"/v2/{name}/manifests/{version}", data=data, headers={"Content-Type": media_type}),
    ):
        return f"{host}/{name}{':' if tag else '@'}{version}"
