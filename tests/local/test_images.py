"""The image store: what comes in, what names mean, and what goes away when."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aviato.engines.local import images, tarstream
from aviato.engines.local.archive import Limits
from aviato.engines.local.images import ImageStore
from aviato.engines.local.tarstream import ArchiveError
from aviato.exceptions import CapabilityError, EngineError, ImageNotFoundError, SandboxResourceExhaustedError
from aviato.registry.names import normalize

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root file system."""
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "usr/bin/other").hardlink_to(root / "usr/bin/tool")
    (root / "bin").symlink_to("usr/bin")
    return root


def left(tmp_path: Path) -> list[str]:
    """List what is in the store's directory beside its lock and names."""
    folder = tmp_path / "home/images"
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in {"lock", "names"})


def pack(files: dict[str, bytes | str | None]) -> bytes:
    """Make a tar: bytes are files, text is a link's target, None a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """Hash."""
    return hashlib.sha256(data).hexdigest()


def configuration(layers: list[bytes], **changes: Any) -> bytes:
    """Make an image's configuration."""
    config = {
        "architecture": MACHINE,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin", "NAME=a=b"], "WorkingDir": "/srv", "Cmd": ["tool"], "Entrypoint": ["/in"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]},
    }
    return json.dumps(config | changes).encode()


LAYERS = [
    pack({"etc": None, "etc/a": b"one", "etc/b": b"two", "old": None, "old/file": b"x", "bin": "usr/bin"}),
    pack({"etc": None, "etc/.wh.a": b"", "etc/b": b"changed", ".wh.old": b""}),
]


def docker_archive(layers: list[bytes] = LAYERS, **changes: Any) -> bytes:
    """Make what `docker save` writes, the classic way: a link stands for a layer that is there twice."""
    config = configuration(layers, **changes)
    names = [f"{sha256(layer)}/layer.tar" for layer in layers]
    manifest = json.dumps([{"Config": f"{sha256(config)}.json", "RepoTags": ["x:y"], "Layers": names}]).encode()
    files: dict[str, bytes | str | None] = dict(zip(names, layers, strict=True))
    return pack({**files, f"{sha256(config)}.json": config, "manifest.json": manifest, "repositories": b"{}"})


def oci_archive(layers: list[bytes] = LAYERS, compress: Callable[[bytes], bytes] = lambda data: data) -> bytes:
    """Make an OCI layout with an index of an index."""
    stored = [compress(layer) for layer in layers]
    config = configuration(layers)
    manifest = json.dumps(
        {
            "config": {"digest": f"sha256:{sha256(config)}"},
            "layers": [{"digest": f"sha256:{sha256(blob)}"} for blob in stored],
        }
    ).encode()
    inner = json.dumps(
        {
            "manifests": [
                {"digest": f"sha256:{'0' * 64}", "platform": {"architecture": "s390x", "os": "linux"}},
                {"digest": f"sha256:{sha256(manifest)}", "platform": {"architecture": MACHINE, "os": "linux"}},
            ]
        }
    ).encode()
    index = json.dumps({"manifests": [{"digest": f"sha256:{sha256(inner)}"}]}).encode()
    blobs = {f"blobs/sha256/{sha256(blob)}": blob for blob in (*stored, config, manifest, inner)}
    return pack({**blobs, "index.json": index, "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'})


def test_a_directory_becomes_an_image(store: ImageStore, tree: Path) -> None:
    """Files, modes, links and hard links of a directory are in the image."""
    info = store.import_("app", str(tree))
    found = store.resolve("app")
    assert (found.name, found.kind, found.digest) == ("app:latest", "image", info.digest)
    root = Path(found.root or "")
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (root / "usr/bin/tool").samefile(root / "usr/bin/other")


@pytest.mark.parametrize("option", ["", "z", "j", "J"])
def test_tars_of_a_root_are_read(store: ImageStore, tree: Path, tmp_path: Path, option: str) -> None:
    """A tar of a root file system, plain or compressed, is an image with the same files."""
    archive = tmp_path / "root.tar"
    subprocess.run(["tar", f"-c{option}f", archive, "-C", tree, "."], check=True)
    info = store.import_("app", str(archive))
    assert info.source == "rootfs"
    assert (Path(store.resolve("app").root or "") / "usr/bin/tool").read_text() == "#!/bin/sh\n"


def test_zstd_is_refused_with_the_way_out(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compression that this Python cannot read is named, with the command that helps."""
    monkeypatch.setattr(tarstream, "zstd_module", lambda: None)
    archive = tmp_path / "root.tar.zst"
    archive.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 100)
    with pytest.raises(ArchiveError, match="zstd") as caught:
        store.import_("app", str(archive))
    assert isinstance(caught.value, CapabilityError)
    assert "aviato[zstd]" in (caught.value.hint or "")


def test_zstd_is_read_where_there_is_a_module(store: ImageStore, tmp_path: Path) -> None:
    """Python's own module, or its backport, reads archives; damaged ones are refused as others are."""
    zstd = tarstream.zstd_module()
    if zstd is None:
        pytest.skip("neither compression.zstd nor backports.zstd is installed")
    archive = tmp_path / "root.tar.zst"
    archive.write_bytes(zstd.compress(LAYERS[0]))
    store.import_("app", str(archive))
    assert (Path(store.resolve("app").root or "") / "etc/a").read_bytes() == b"one"
    archive.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 100)
    with pytest.raises(ArchiveError, match="cannot be read"):
        store.import_("app", str(archive))


@pytest.mark.parametrize("wrap", ["plain", "gzip"])
@pytest.mark.parametrize("make", [docker_archive, oci_archive])
def test_images_of_layers_are_read(store: ImageStore, tmp_path: Path, make: Callable[[], bytes], wrap: str) -> None:
    """Layers are applied in order with their whiteouts, and environment and directory come from the configuration."""
    import gzip

    data = make() if wrap == "plain" else gzip.compress(make())
    (tmp_path / "image.tar").write_bytes(data)
    info = store.import_("app:1", str(tmp_path / "image.tar"))
    assert info.command == ("/in", "tool")
    assert info.digest == f"sha256:{sha256(configuration(LAYERS))}"
    found = store.resolve("app:1")
    assert found.environment == {"PATH": "/usr/bin", "NAME": "a=b"}
    assert found.working_dir == "/srv"
    root = Path(found.root or "")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["bin", "etc", "etc/b"]
    assert (root / "etc/b").read_bytes() == b"changed"


def test_compressed_layers_are_read(store: ImageStore, tmp_path: Path) -> None:
    """Layers of an OCI layout may be compressed; they are checked by what is inside."""
    import gzip

    (tmp_path / "image.tar").write_bytes(oci_archive(compress=gzip.compress))
    store.import_("app", str(tmp_path / "image.tar"))
    assert (Path(store.resolve("app").root or "") / "etc/b").read_bytes() == b"changed"


def _damaged_layer() -> bytes:
    return docker_archive(rootfs={"diff_ids": [f"sha256:{'0' * 64}"] * 2})


BAD_BUNDLES: dict[str, Callable[[], bytes]] = {
    "a layer of another digest": _damaged_layer,
    "another machine": lambda: docker_archive(architecture="s390x"),
    "another system": lambda: docker_archive(os="windows"),
    "fewer digests than layers": lambda: docker_archive(rootfs={"diff_ids": []}),
    "a relative directory": lambda: docker_archive(config={"WorkingDir": "srv"}),
    "variables that are numbers": lambda: docker_archive(config={"Env": [1]}),
    "no configuration": lambda: pack({"manifest.json": b'[{"Config": "x.json", "Layers": []}]'}),
    "a configuration outside": lambda: pack({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}),
    "a link that leads out": lambda: pack(
        {"manifest.json": b'[{"Config": "x.json", "Layers": []}]', "x.json": "/etc/passwd"}
    ),
    "links in a circle": lambda: pack({"manifest.json": "a.json", "a.json": "manifest.json"}),
    "a manifest that is no JSON": lambda: pack({"manifest.json": b"{"}),
    "a manifest that nests": lambda: pack({"manifest.json": b"[" * 100_000}),
    "no image": lambda: pack({"manifest.json": b"[]"}),
    "two images": lambda: pack({"manifest.json": b"[{}, {}]"}),
    "a digest that is a path": lambda: pack(
        {"oci-layout": b"{}", "index.json": b'{"manifests": [{"digest": "sha256:../../x"}]}'}
    ),
    "nothing": lambda: pack({}),
    "a link out of a layer": lambda: docker_archive([pack({"x": "/etc", "x/y": b"z"})]),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_bad_bundles_are_refused_and_leave_nothing(store: ImageStore, tmp_path: Path, name: str) -> None:
    """Each damaged or hostile bundle is an ArchiveError, and the store is as it was."""
    (tmp_path / "image.tar").write_bytes(BAD_BUNDLES[name]())
    with pytest.raises(ArchiveError):
        store.import_("app", str(tmp_path / "image.tar"))
    assert left(tmp_path) == []
    assert store.list() == []


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
def test_cut_files_are_refused(store: ImageStore, tmp_path: Path, cut: float) -> None:
    """A download that broke off is an ArchiveError."""
    import gzip

    data = gzip.compress(pack({"f": os.urandom(100_000)}))
    (tmp_path / "cut.tar.gz").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ArchiveError):
        store.import_("app", str(tmp_path / "cut.tar.gz"))
    assert left(tmp_path) == []


def test_missing_sources_are_refused(store: ImageStore, tmp_path: Path) -> None:
    """A path that is not there, or is neither file nor directory, is named."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "pipe"):
        with pytest.raises(ArchiveError, match=name):
            store.import_("app", str(tmp_path / name))


def test_the_store_does_not_import_itself(store: ImageStore, tmp_path: Path) -> None:
    """A directory that holds the store is refused rather than copied into itself."""
    with pytest.raises(ArchiveError, match="image store itself"):
        store.import_("app", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("python", "python:latest"),
        ("python:3.11", "python:3.11"),
        ("docker.io/python", "python:latest"),
        ("docker.io/library/python:3.11", "python:3.11"),
        ("library/python", "python:latest"),
        ("pytorch/pytorch:latest", "pytorch/pytorch:latest"),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("docker.io/python:3.11@sha256:" + "0" * 64, "python@sha256:" + "0" * 64),
        ("host", "host"),
    ],
)
def test_names_have_one_spelling(name: str, meaning: str) -> None:
    """Every spelling of a name is the same name."""
    assert normalize(name) == meaning
    assert normalize(meaning) == meaning


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Python",
        "a b",
        "../x",
        "a//b",
        ":x",
        "a:",
        "a:b/",
        "/etc",
        "a\n",
        "host:1",
        "x@sha256:" + "0" * 63,
        "x@sha512:" + "0" * 128,
        "a" * 300,
    ],
)
def test_bad_names_are_refused(name: str) -> None:
    """What is no name is a ValueError."""
    with pytest.raises(ValueError, match="image"):
        normalize(name)


def test_unknown_names_say_what_helps(store: ImageStore) -> None:
    """The error names the image and the command that would help."""
    with pytest.raises(ImageNotFoundError, match="'app:1'") as caught:
        store.resolve("app:1")
    assert caught.value.image == "app:1"
    assert caught.value.hint == "aviato image pull app:1   (or from an archive: aviato image import app:1 TAR)"
    with pytest.raises(ImageNotFoundError) as caught:
        store.resolve("python:3.11")
    assert "aviato image tag host python:3.11" in (caught.value.hint or "")


def test_host_needs_no_store(store: ImageStore, tmp_path: Path) -> None:
    """`host` is there without anything on disk, and cannot be replaced or removed."""
    found = store.resolve("host")
    assert (found.kind, found.root, found.hold()) == ("host", None, None)
    assert not (tmp_path / "home").exists()
    with pytest.raises(ValueError, match="host"):
        store.remove("host")
    with pytest.raises(ValueError, match="host"):
        store.tag("host", "host")
    with pytest.raises(ValueError, match="host"):
        store.import_("host", str(tmp_path))


def test_host_answers_to_other_names(store: ImageStore) -> None:
    """A name given to the host means the host, for every spelling of it."""
    name = "python:{}.{}".format(*sys.version_info)
    store.tag("host", name)
    assert store.resolve(f"docker.io/library/{name}").kind == "host"
    store.tag(name, "second")
    assert store.resolve("second").kind == "host"
    assert [info.name for info in store.list()] == [name, "second:latest"]


@pytest.mark.parametrize("name", ["python:2.7", "python:2", "python:3.99-slim"])
def test_another_python_warns(store: ImageStore, name: str) -> None:
    """Giving the host the name of another Python than its own is allowed, and warned of."""
    with pytest.warns(UserWarning, match="now means this machine"):
        store.tag("host", name)


def test_files_go_with_their_last_name(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    """Two names share the files; removing one keeps them, removing both does not."""
    store.import_("one", str(tree))
    store.tag("one", "two")
    assert len(left(tmp_path)) == 1
    store.remove("one")
    assert Path(store.resolve("two").root or "").is_dir()
    store.remove("two")
    assert left(tmp_path) == []
    with pytest.raises(ImageNotFoundError):
        store.remove("two")


def test_files_in_use_stay_until_they_are_not(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    """A removed image's files stay while somebody holds them, and go with the next look after."""
    store.import_("app", str(tree))
    found = store.resolve("app")
    held = found.hold()
    assert held is not None
    store.remove("app")
    assert (Path(found.root or "") / "usr/bin/tool").exists()
    assert store.collect() == 0
    os.close(held)
    assert store.collect() == 1
    assert left(tmp_path) == []


def test_holding_what_is_gone_fails(store: ImageStore, tree: Path) -> None:
    """Between looking a name up and holding it, the image may have gone: that is said."""
    store.import_("app", str(tree))
    found = store.resolve("app")
    store.remove("app")
    with pytest.raises(ImageNotFoundError):
        found.hold()


def test_importing_the_same_again_shares_the_files(store: ImageStore, tmp_path: Path, tree: Path) -> None:
    """The same content under another name is stored once; other content takes the name away from the old."""
    store.import_("app", str(tree))
    store.import_("same", str(tree))
    assert len(left(tmp_path)) == 1
    (tree / "new").write_text("x")
    store.import_("app", str(tree))
    assert store.resolve("app").root != store.resolve("same").root


def test_an_interrupted_import_leaves_nothing(
    store: ImageStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of an import: no name, no files."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.import_("app", str(tree))
    assert left(tmp_path) == []
    assert store.list() == []


def test_a_killed_import_is_cleaned_up_by_the_next_call(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    """What a process left that was killed while it imported is removed, and one that is under way is not."""
    code = (
        "import os, sys\n"
        "from aviato.engines.local import images\n"
        "images.unpack = lambda *_: (print('ready', flush=True), sys.stdin.read())\n"
        "images.ImageStore(sys.argv[1]).import_('app', sys.argv[2])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "home"), str(tree)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(left(tmp_path)) == 1
        assert store.collect() == 0
        process.kill()
    assert store.collect() == 1
    assert left(tmp_path) == []


def test_a_full_disk_leaves_nothing(
    store: ImageStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that does not fit is refused before or while it is written, with what to do."""
    monkeypatch.setattr(Limits, "of", classmethod(lambda _cls, _fd: Limits(3)))
    with pytest.raises(ArchiveError, match="do not fit") as caught:
        store.import_("app", str(tree))
    assert "AVIATO_HOME" in (caught.value.hint or "")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SandboxResourceExhaustedError, match="full"):
        store.import_("app", str(tree))
    monkeypatch.undo()
    assert left(tmp_path) == []


def test_a_damaged_store_says_which_file(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    """A name that cannot be read is an EngineError with the file to remove; other names still work."""
    store.import_("app", str(tree))
    store.tag("host", "fine")
    path = tmp_path / "home/images/names/app%3Alatest.json"
    path.write_text("{")
    with pytest.raises(EngineError, match="damaged") as caught:
        store.resolve("app")
    assert str(path) in (caught.value.hint or "")
    assert store.resolve("fine").kind == "host"


def test_a_store_that_cannot_be_written_says_so(tree: Path) -> None:
    """A state directory that cannot be made is an EngineError that names AVIATO_HOME."""
    with pytest.raises(EngineError) as caught:
        ImageStore("/proc/nowhere").import_("app", str(tree))
    assert "AVIATO_HOME" in (caught.value.hint or "")


@pytest.mark.usefixtures("local_engine")
async def test_a_sandbox_runs_in_an_image(tree: Path) -> None:
    """A sandbox made from an image sees its files, environment and directory, and not this machine's."""
    from aviato import aio

    shell = shutil.which("dash") or shutil.which("sh")
    assert shell is not None
    for path in {shell, *_libraries(shell)}:
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tree / "marker").write_text("from the image\n")
    store = ImageStore(os.environ["AVIATO_HOME"])
    store.import_("aviato-test-image", str(tree))
    try:
        async with aio.Sandbox.run(container_image="aviato-test-image", engine="local") as sandbox:
            code = 'while read -r line; do echo "$line"; done < /marker; test -e /usr/share || echo small'
            result = await sandbox.exec([shell, "-c", code], cwd="/")
            assert sandbox.container_image == "aviato-test-image:latest"
        assert result.stdout == "from the image\nsmall\n", result.stderr
    finally:
        store.remove("aviato-test-image")


def _libraries(program: str) -> list[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for line in said.splitlines() for word in line.split() if word.startswith("/")]
