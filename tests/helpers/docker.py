"""A Docker daemon for the tests: the one that the docker command would use, with images made of Debian's packages."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aviato.engines.docker.api import Api
from aviato.engines.docker.endpoint import find_endpoint
from aviato.engines.docker.images import DEFAULT_IMAGE, find_image
from aviato.engines.docker.records import RECORD_LABEL, SANDBOX_LABEL
from aviato.exceptions import AviatoError

Value = TypeVar("Value")
GUIDE_IMAGE = "python:3.11"
BARE_IMAGE = "aviato-test-without-python:1"
BASH_IMAGE = "aviato-test-without-python-bash:1"
"""As the bare one, with bash for `sh`, as Fedora and Arch have it."""
BUSYBOX_IMAGE = "aviato-test-busybox:1"
"""Busybox alone, and nothing else."""
GUIDE_BUSYBOX_IMAGE = "busybox:1.36"
SHELLLESS_IMAGE = "aviato-test-without-shell:1"
"""A few programs and no shell, as images that hold one application are."""
_SHELLLESS = ("cat", "echo", "false", "head", "sleep", "true", "pwd")
_PACKAGES = ("coreutils", "dash", "bash", "grep", "sed", "findutils", "util-linux", "procps", "python3", "base-passwd")
_BARE_PACKAGES = ("coreutils", "dash")
_MERGED = ("bin", "sbin", "lib", "lib64")
_DIRECTORIES = {
    "usr": 0o755, "etc": 0o755, "tmp": 0o1777, "root": 0o700, "var": 0o755, "var/tmp": 0o1777,
    **{f"usr/{name}": 0o755 for name in _MERGED},
}  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_NAME = re.compile(r"\s*([a-z0-9][a-z0-9.+-]+)")
_LEFT_OUT = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info")
_INTERPRETER = 3  # the kind of a program header that names a dynamic linker
_tagged: list[str] = []


def ask(method: str, path: str, **more: Any) -> Any:
    """Ask the daemon for something."""

    async def once() -> Any:
        api = Api(find_endpoint())
        try:
            await api.open()
            return await api.request(method, path, what="do what a test needs", **more)
        finally:
            await api.close()

    return _run(once())


def _run(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine on a loop of its own, also below a test that has one."""
    import threading

    result: list[Value] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="aviato-test-docker")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


@functools.cache
def why_not_docker() -> str | None:
    """Say why there is no daemon to test with, None when there is one."""
    try:
        ask("GET", "/info")
        _make_images()
    except (AviatoError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None


def require_docker() -> None:
    """Skip where there is no daemon, with the reason; in CI that is a failure."""
    reason = why_not_docker()
    if reason is not None:
        if os.environ.get("CI") == "true" and os.getuid() == 0:
            pytest.fail(f"Docker must run in CI: {reason}")
        pytest.skip(f"there is no Docker daemon to test with: {reason}")


def _make_images() -> None:
    """Give the daemon what it lacks of the images that tests ask for."""
    for names, packages, shell in (
        ((DEFAULT_IMAGE, GUIDE_IMAGE), _PACKAGES, "dash"),
        ((BARE_IMAGE,), _BARE_PACKAGES, "dash"),
        ((BASH_IMAGE,), ("coreutils", "bash"), "bash"),
    ):
        missing = [name for name in names if not _has(name)]
        if not missing:
            continue
        _import(missing[0], _root_of(packages, shell))
        for name in missing[1:]:
            repository, _, tag = name.rpartition(":")
            ask("POST", f"/images/{missing[0]}/tag", params={"repo": repository, "tag": tag})
        _tagged.extend(missing)
    for name, programs in ((BUSYBOX_IMAGE, None), (GUIDE_BUSYBOX_IMAGE, None), (SHELLLESS_IMAGE, _SHELLLESS)):
        if why_not_busybox() is None and not _has(name):
            _import(name, _busybox_root(programs))
            _tagged.append(name)


def why_not_busybox() -> str | None:
    """Say why there are no images of busybox, None when there are."""
    program = shutil.which("busybox")
    if program is None:
        return "there is no busybox: apt-get install busybox-static"
    with Path(program).open("rb") as file:
        head = file.read(4096)
    table, size, count = int.from_bytes(head[32:40], "little"), *struct.unpack_from("<HH", head, 54)
    kinds = {int.from_bytes(head[at : at + 4], "little") for at in range(table, table + size * count, size)}
    return "busybox is not linked statically: apt-get install busybox-static" if _INTERPRETER in kinds else None


def need_busybox(name: str) -> str:
    """Skip where the image cannot be made."""
    if reason := why_not_busybox():
        pytest.skip(reason)
    return name


def _busybox_root(programs: tuple[str, ...] | None) -> bytes:
    """Pack busybox under the names of programs; None: of all that it has, and its own."""
    busybox = shutil.which("busybox") or "busybox"
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    own = "bin/busybox" if programs is None else "lib/programs"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (
            ("bin", 0o755),
            ("lib", 0o755),
            ("etc", 0o755),
            ("root", 0o700),
        ):  # no /tmp: it is to be made
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(busybox, own)
        for name in programs or listed:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, f"/{own}"
                tar.addfile(link)
        for name, text in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _has(name: str) -> bool:
    async def once() -> bool:
        api = Api(find_endpoint())
        try:
            await api.open()
            return await find_image(api, name) is not None
        finally:
            await api.close()

    return _run(once())


def _import(name: str, content: bytes) -> None:
    repository, _, tag = name.rpartition(":")
    ask(
        "POST", "/images/create", params={"fromSrc": "-", "repo": repository, "tag": tag}, data=content,
        headers={"Content-Type": "application/x-tar"}, seconds=300,
    )  # fmt: skip


def root_with_python() -> bytes:
    """Pack a root file system in which sandboxes run."""
    return _root_of(_PACKAGES, "dash")


@functools.cache
def _root_of(packages: tuple[str, ...], shell: str) -> bytes:
    """Pack the files of installed Debian packages, and of those they need."""
    if shutil.which("dpkg-query") is None:
        raise OSError("images are made of Debian's packages, and there is no dpkg here")
    names: set[str] = set()
    wanted = list(packages)
    while wanted:
        name = wanted.pop()
        if name in names:
            continue
        said = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Depends}, ${Pre-Depends}", name], capture_output=True, text=True, check=False
        )
        if said.returncode == 0:
            names.add(name)
            wanted += [found[1] for item in said.stdout.split(",") if (found := _NAME.match(item))]
    said = subprocess.run(["dpkg-query", "-L", *sorted(names)], capture_output=True, text=True, check=False)
    listed = [line for line in said.stdout.splitlines() if line.startswith("/")]  # virtual packages have no files
    paths = {line for line in listed if not line.startswith(_LEFT_OUT)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in _DIRECTORIES.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        links = {f"{name}": f"usr/{name}" for name in _MERGED} | {"usr/bin/python": "python3", "usr/bin/sh": shell}
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, text in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
        added = {*_DIRECTORIES, *links, *_FILES}
        for path in sorted(paths):
            name = re.sub(r"^(bin|sbin|lib|lib64)(?=/|$)", r"usr/\1", path.strip("/"))  # as merged systems have it
            if name in added or name == "." or not os.path.lexists(f"/{name}"):
                continue
            added.add(name)
            tar.add(f"/{name}", name, recursive=False)
    return buffer.getvalue()


def containers(*, running: bool) -> list[str]:
    """List the sandboxes on the daemon."""
    if why_not_docker() is not None:
        return []
    found = ask("GET", "/containers/json", params={"all": "0" if running else "1"})
    return sorted(item["Labels"][SANDBOX_LABEL] for item in found if SANDBOX_LABEL in item["Labels"])


def remove_tagged(tag: str) -> None:
    """Remove the containers of sandboxes with a tag: detached ones stay when they have ended."""
    for item in ask("GET", "/containers/json", params={"all": "1"}):
        if tag in json.loads(item["Labels"].get(RECORD_LABEL, "{}")).get("tags", ()):
            ask("DELETE", f"/containers/{item['Id']}", params={"force": "1"})


def remove_images() -> None:
    """Take the names away that were given."""
    for name in _tagged:
        ask("DELETE", f"/images/{name}", params={"force": "1"})
    _tagged.clear()
