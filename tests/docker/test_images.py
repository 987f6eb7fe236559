"""`aviato image --engine docker`: what it does to a daemon's images, and what it says when that fails."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from aviato import aio
from aviato.engines.docker.imagestore import DaemonImages
from aviato.exceptions import (
    AviatoError,
    CapabilityError,
    EngineError,
    SandboxFailedError,
    SandboxResourceExhaustedError,
)
from tests.docker.conftest import Serve
from tests.helpers.docker import ask, containers, require_docker, why_not_busybox
from tests.helpers.registry import FakeRegistry, Image, digest_of
from tests.local.test_images import LAYERS, docker_archive, oci_archive, pack

ROOT = Path(__file__).parents[2]
real = pytest.mark.docker


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nothing has; its tags are taken away afterwards."""
    require_docker()
    repository = f"aviato-test-{uuid.uuid4().hex[:12]}"
    yield repository
    found = ask("GET", "/images/json", params={"filters": json.dumps({"reference": [repository]})})
    for tag in {tag for image in found for tag in image["RepoTags"] if tag.startswith(repository)}:
        ask("DELETE", f"/images/{tag}", params={"force": "1"})


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run `aviato image`; return its exit code, stdout and stderr."""
    command = [sys.executable, "-m", "aviato.cli", "image", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.returncode, done.stdout, done.stderr


async def files_of(image: str) -> dict[str, tarfile.TarInfo]:
    """List what is in an image."""
    made = await asyncio.to_thread(ask, "POST", "/containers/create", body={"Image": image, "Cmd": ["/x"]})
    try:
        content = await asyncio.to_thread(ask, "GET", f"/containers/{made['Id']}/export")
    finally:
        await asyncio.to_thread(ask, "DELETE", f"/containers/{made['Id']}")
    path = Path(os.environ["AVIATO_HOME"]) / f"export-{made['Id']}.tar"
    path.write_bytes(content)
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


@real
async def test_a_directory(name: str, tmp_path: Path) -> None:
    """Files, links and modes arrive; what cannot be in an image is counted; the name moves with a second import."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/file").write_bytes(b"x" * 3_000_000)
    (tmp_path / "srv/file").chmod(0o751)
    (tmp_path / "srv/again").hardlink_to(tmp_path / "srv/file")
    (tmp_path / "link").symlink_to("srv")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    code, out, err = await run("import", "--engine", "docker", f"{name}:1", str(tmp_path))
    assert (code, err) == (0, "left out: 2 x device, pipe or socket\n")
    assert out.startswith(f"{name}:1 sha256:")
    assert out.endswith(" 2.9 MiB\n")
    files = await files_of(f"{name}:1")
    assert files["srv/file"].mode & 0o7777 == 0o751
    assert {files["srv/file"].size, files["srv/again"].size} == {0, 3_000_000}
    assert files["link"].linkname == "srv"
    assert not {"pipe", "socket"} & files.keys()
    (tmp_path / "srv/file").write_bytes(b"y")
    assert (await run("import", "--engine", "docker", f"{name}:1", str(tmp_path)))[1].endswith(" 4 B\n")


@real
@pytest.mark.parametrize("kind", ["rootfs", "gzip", "docker save"])
async def test_an_archive(name: str, tmp_path: Path, kind: str) -> None:
    """A root file system, compressed or not, and what `docker save` writes."""
    plain = pack({"srv": None, "srv/file": b"12345"})
    source = tmp_path / "it"
    source.write_bytes({"rootfs": plain, "gzip": gzip.compress(plain), "docker save": docker_archive()}[kind])
    try:
        code, out, err = await run("import", "--engine", "docker", name, str(source))
        assert (code, err) == (0, "")
        assert out.startswith(f"{name}:latest sha256:")
        files = await files_of(name)
        assert ("srv/file" in files) is (kind != "docker save")
    finally:
        if kind == "docker save":
            assert (await run("rm", "--engine", "docker", "x:y"))[0] == 0  # the archive's own name


@real
async def test_names(name: str, tmp_path: Path) -> None:
    """They are listed, given and taken away; the image of two names stays with the second."""
    (tmp_path / "file").write_text("x")
    assert (await run("import", "--engine", "docker", f"{name}:1", str(tmp_path)))[0] == 0
    assert await run("tag", "--engine", "docker", f"{name}:1", f"{name}:2") == (0, f"{name}:2\n", "")
    code, out, _ = await run("ls", "--engine", "docker", "-o", "json")
    mine = [item for item in json.loads(out) if item["name"].startswith(name)]
    assert code == 0
    assert [item["name"] for item in mine] == [f"{name}:1", f"{name}:2"]
    assert mine[0]["digest"] == mine[1]["digest"]
    assert mine[0]["kind"] == "image"
    assert mine[0]["size_bytes"] == 1
    assert mine[0]["created"] > 1.6e9
    local = set(json.loads((await run("ls", "--engine", "local", "-o", "json"))[1] or "[]") or ())
    assert not local
    code, out, err = await run("rm", "--engine", "docker", f"{name}:1", f"{name}:none", f"{name}:2")
    assert (code, out) == (125, f"{name}:1\n{name}:2\n")
    assert err == (
        f"error: image '{name}:none' is not on the Docker daemon\nhint: aviato image pull --engine docker {name}:none\n"
    )
    assert name not in (await run("ls", "--engine", "docker"))[1]


@real
async def test_an_image_that_is_used(name: str, tmp_path: Path) -> None:
    """It cannot be removed, and stays."""
    (tmp_path / "file").write_text("x")
    await run("import", "--engine", "docker", name, str(tmp_path))
    made = await asyncio.to_thread(ask, "POST", "/containers/create", body={"Image": name, "Cmd": ["/x"]})
    try:
        code, out, err = await run("rm", "--engine", "docker", name)
        assert (code, out) == (125, "")
        assert err.startswith(f"error: image '{name}:latest' is in use: ")
        assert "aviato prune --engine docker" in err
    finally:
        await asyncio.to_thread(ask, "DELETE", f"/containers/{made['Id']}")


@real
@pytest.mark.parametrize(
    ("processor", "kind", "text", "hint"),
    [
        (None, SandboxFailedError, r"ended with code 127: python3: applet not found", "Python 3.8 or later"),
        (
            b"\xb7\x00",
            CapabilityError,
            r"not made for the Docker daemon's processor, .*exec format error",
            "--platform",
        ),
    ],
    ids=["that is none", "for another processor"],
)
async def test_an_image_whose_python_ends(
    name: str, tmp_path: Path, processor: bytes | None, kind: type[AviatoError], text: str, hint: str
) -> None:
    """What it said is the reason, and nothing is left."""
    if reason := why_not_busybox():
        pytest.skip(reason)
    program = bytearray(await asyncio.to_thread(Path(shutil.which("busybox") or "").read_bytes))
    if processor is not None:
        program[18:20] = processor
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_bytes(program)
    (tmp_path / "bin/python3").chmod(0o755)
    async with DaemonImages() as images:
        await images.import_(f"{name}:1", str(tmp_path))
    before = containers(running=False)
    with pytest.raises(kind, match=text) as caught:
        await aio.Sandbox.run(engine="docker", container_image=f"{name}:1")
    assert hint in str(caught.value.hint)
    assert set(containers(running=False)) <= set(before)


@real
async def test_a_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines as from the local store, and the same policies."""
    require_docker()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("AVIATO_ENGINE", "docker")  # the engine that is configured, without an option
    async with FakeRegistry() as registry:
        image = Image([*LAYERS, pack({"random": os.urandom(99)})])
        where = registry.put(image)
        code, out, err = await run("pull", where)
        assert code == 0
        assert out.startswith(f"{where} {digest_of(image.config)} ")
        last = digest_of(image.layers[-1]).removeprefix("sha256:")[:12]
        assert [line.split()[1] for line in err.splitlines() if line.startswith(last)][-1] == "unpacked"
        assert await run("pull", "--policy", "never", where) == (0, out, "")
        assert await run("rm", where) == (0, f"{where}\n", "")
        code, out, err = await run("pull", "--policy", "never", where)
        assert (code, out) == (125, "")
        assert "pull_policy is 'never'" in err
        host = where.partition("/")[0]
        code, out, err = await run("pull", f"{host}/nosuch:1")
        assert (code, out) == (125, "")
        assert "neither on the Docker daemon nor in its registry" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("tag", "host", "x"), 125, "the local engine alone has"),
        (("import", "host", "."), 125, "the local engine alone has"),
        (("tag", "x", f"x@sha256:{'0' * 64}"), 2, "a digest cannot be given"),
        (("pull", "Bad Name"), 2, "image must be a name"),
        (("import", "x", "/no/such/file"), 2, "does not exist"),
    ],
)
async def test_what_makes_no_sense(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    """Is refused with the exit code that the same mistake has on the local engine, or as what cannot be done."""
    endpoint = await serve({})
    monkeypatch.setenv("DOCKER_HOST", f"unix://{endpoint.address}")
    found, out, err = await run(words[0], "--engine", "docker", *words[1:])
    assert (found, out) == (code, "")
    assert said in err


async def test_names_that_are_none_of_ours(serve: Serve) -> None:
    """A name that others gave, and that we would refuse, is listed as it is."""
    image = {
        "Id": "sha256:1",
        "Size": 1,
        "Created": 1,
        "RepoTags": ["host:1", "docker.io/library/x:1", "<none>:<none>"],
    }
    async with DaemonImages(await serve({"/images/json": [image]})) as images:
        assert [info.name for info in await images.list()] == ["host:1", "x:1"]


async def test_a_daemon_that_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line and a hint."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    code, out, err = await run("ls", "--engine", "docker")
    assert (code, out) == (125, "")
    assert "cannot be reached" in err.splitlines()[0]
    assert err.splitlines()[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ApplyLayer exit status 1: write /x: no space left on device", SandboxResourceExhaustedError),
        ("archive/tar: invalid tar header", EngineError),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_why_an_import_fails(
    serve: Serve, tmp_path: Path, said: str, kind: type[AviatoError], *, late: bool
) -> None:
    """As the answer, or in the middle of it."""
    (tmp_path / "folder").mkdir()

    async def failing(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": said} if late else {"message": said}, status=200 if late else 500)

    async with DaemonImages(await serve({"/images/create": failing})) as images:
        with pytest.raises(AviatoError, match="could not be imported") as caught:
            await images.import_("x", str(tmp_path / "folder"))
    assert type(caught.value) is kind
    assert said in str(caught.value)


async def test_a_directory_that_cannot_be_read(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a directory is never taken for the whole one."""
    for number in range(3):
        (tmp_path / f"file{number}").write_text("x")
    whole = []

    async def importing(request: web.Request) -> web.StreamResponse:
        await request.read()
        whole.append(True)
        return web.json_response({"status": "sha256:1"})

    add = tarfile.TarFile.add

    def fail(self: tarfile.TarFile, path: str, *rest: object, **more: object) -> None:
        if path.endswith("file1"):
            raise PermissionError(13, "Permission denied", path)
        add(self, path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tarfile.TarFile, "add", fail)
    async with DaemonImages(await serve({"/images/create": importing})) as images:
        with pytest.raises((PermissionError, EngineError)):
            await images.import_("x", str(tmp_path))
    assert not whole


async def test_several_images_in_an_archive(serve: Serve, tmp_path: Path) -> None:
    """Cannot have one name."""
    source = tmp_path / "it"
    source.write_bytes(oci_archive())

    async def loading(request: web.Request) -> web.StreamResponse:
        await request.read()
        said = [{"stream": f"Loaded image: {name}\n"} for name in ("a:1", "b:1")]
        return web.Response(body=b"\n".join(json.dumps(item).encode() for item in said) + b"\n")

    async with DaemonImages(await serve({"/images/load": loading})) as images:
        with pytest.raises(EngineError, match="holds a:1, b:1"):
            await images.import_("x", str(source))
        with pytest.raises(CapabilityError):
            await images.remove("host")


async def test_what_is_no_archive(serve: Serve, tmp_path: Path) -> None:
    """Is not sent."""
    source = tmp_path / "it"
    source.write_bytes(b"no tar at all" * 100)
    async with DaemonImages(await serve({})) as images:
        with pytest.raises(EngineError, match="no tar that can be read"):
            await images.import_("x", str(source))
        with pytest.raises(EngineError, match="no such file"):
            await images.import_("x", str(tmp_path / "nowhere"))
