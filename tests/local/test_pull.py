"""Pulling into the image store: what comes, what is chosen, what is shared, and how it is asked for."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest
from aiohttp import web

from aviato.engines.local import pull, tarstream
from aviato.engines.local.images import ImageStore
from aviato.exceptions import (
    CapabilityError,
    EngineConnectionError,
    EngineProtocolError,
    ImageDigestError,
    ImageNotFoundError,
    ImagePlatformError,
)
from aviato.models import PullProgress, PullState
from aviato.registry.platforms import here
from tests.helpers.registry import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    FakeRegistry,
    Image,
    descriptor,
    digest_of,
    index_of,
)
from tests.local.archives import entry, hardlink
from tests.local.pulling import HERE, images_left, kept, once, pulled
from tests.local.test_hostile_archives import listed
from tests.local.test_images import LAYERS, pack

pytestmark = pytest.mark.usefixtures("docker_config")


async def test_an_image_is_pulled(store: ImageStore, registry: FakeRegistry) -> None:
    """Layers are applied in order with their whiteouts, and the configuration is that of the image."""
    image = Image(LAYERS, config={"Env": ["A=b"], "WorkingDir": "/etc", "Cmd": ["tool"]})
    name = registry.put(image)
    seen: list[PullProgress] = []
    info = await pulled(store, name, progress=seen.append)
    assert (info.name, info.digest, info.command) == (name, digest_of(image.config), ("tool",))
    found = store.resolve(name)
    assert (found.environment, found.working_dir) == ({"A": "b"}, "/etc")
    assert listed(Path(found.root or "")) == ["bin", "etc", "etc/b"]
    assert (Path(found.root or "") / "etc/b").read_bytes() == b"changed"
    for layer in image.layers:
        states = [step.state for step in seen if step.digest == digest_of(layer)]
        assert (states[0], states[-1]) == (PullState.DOWNLOADING, PullState.UNPACKED)
        assert PullState.DOWNLOADED in states
    assert all(0 <= step.bytes_done <= step.bytes_total for step in seen)


async def test_without_the_registry_it_still_is_there(store: ImageStore) -> None:
    """After a pull nothing is asked of the registry: it may be gone."""
    async with FakeRegistry() as registry:
        name = registry.put(Image(LAYERS))
        await pulled(store, name)
    assert store.resolve(name).root is not None
    for policy in ("missing", "never"):
        assert (await pulled(store, name, policy=policy)).name == name
    with pytest.raises(EngineConnectionError, match="no connection") as caught:
        await pulled(store, name)
    assert isinstance(caught.value, ConnectionError)
    assert not isinstance(caught.value, EngineProtocolError)


async def test_policies(store: ImageStore, registry: FakeRegistry) -> None:
    """`always` follows a tag that moved, `missing` asks only once, and `never` not at all."""
    name = registry.put(Image(LAYERS))
    with pytest.raises(ImageNotFoundError):
        await pulled(store, name, policy="never")
    assert registry.requests == []
    first = await pulled(store, name, policy="missing")
    registry.put(Image(LAYERS[:1]))
    assert await pulled(store, name, policy="missing") == first
    assert (await pulled(store, name, policy="always")).digest != first.digest
    with pytest.raises(ValueError, match="policy must be"):
        await pulled(store, name, policy="sometimes")


async def test_an_image_that_is_there_is_not_downloaded_again(store: ImageStore, registry: FakeRegistry) -> None:
    """A second pull asks for the manifest only."""
    name = registry.put(Image(LAYERS))
    first = await pulled(store, name)
    registry.requests.clear()
    assert await pulled(store, name) == first
    assert registry.asked("/blobs/") == []


async def test_layers_are_shared(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """An image's layer that another image brought is not downloaded again, and goes with the last of them."""
    first, second = Image(LAYERS), Image([LAYERS[0], pack({"new": b"n"})])
    names = registry.put(first, "first"), registry.put(second, "second")
    await pulled(store, names[0])
    seen: list[PullProgress] = []
    await pulled(store, names[1], progress=seen.append)
    assert len(registry.asked(digest_of(first.layers[0]))) == 1
    assert seen[0] == PullProgress(
        digest_of(first.layers[0]), len(first.layers[0]), len(first.layers[0]), PullState.PRESENT
    )
    assert len(kept(tmp_path)) == 3
    store.remove(names[0])
    assert kept(tmp_path) == sorted(digest_of(layer).replace(":", "-") for layer in second.layers)
    assert listed(Path(store.resolve(names[1]).root or "")) == [
        "bin",
        "etc",
        "etc/a",
        "etc/b",
        "new",
        "old",
        "old/file",
    ]
    store.remove(names[1])
    assert kept(tmp_path) == []
    assert images_left(tmp_path) == []


async def test_a_layer_that_comes_twice(store: ImageStore, registry: FakeRegistry) -> None:
    """The same layer at two places is downloaded once and applied at both."""
    again = pack({"again": b"x"})
    name = registry.put(Image([again, pack({".wh.again": b""}), again]))
    await pulled(store, name)
    assert listed(Path(store.resolve(name).root or "")) == ["again"]
    assert len(registry.asked(digest_of(gzip.compress(again, mtime=0)))) == 1


async def test_a_damaged_layer_in_the_store_is_replaced(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    """What the disk has spoilt is noticed before it is used, and downloaded anew."""
    image = Image(LAYERS)
    await pulled(store, registry.put(image, "first"))
    path = tmp_path / "home/images/blobs" / digest_of(image.layers[0]).replace(":", "-")
    path.write_bytes(b"rot")
    await pulled(store, registry.put(Image([LAYERS[0]]), "second"))
    assert path.read_bytes() == image.layers[0]


@pytest.mark.parametrize("suffix", ["", "+gzip", "+zstd"])
async def test_compressions(store: ImageStore, registry: FakeRegistry, suffix: str) -> None:
    """Layers are plain, or compressed with gzip or zstd."""
    zstd = tarstream.zstd_module()
    if suffix == "+zstd" and zstd is None:
        pytest.skip("neither compression.zstd nor backports.zstd is installed")
    compress = {"": bytes, "+gzip": gzip.compress, "+zstd": zstd.compress if zstd else bytes}[suffix]
    name = registry.put(Image(LAYERS, compress, f"{OCI_LAYER}{suffix}"))
    await pulled(store, name)
    assert (Path(store.resolve(name).root or "") / "etc/b").read_bytes() == b"changed"


async def test_zstd_without_its_module(
    store: ImageStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be unpacked is not downloaded, and the error says what to install."""
    monkeypatch.setattr(pull, "zstd_module", lambda: None)
    name = registry.put(Image(LAYERS, bytes, f"{OCI_LAYER}+zstd"))
    with pytest.raises(CapabilityError, match="zstd") as caught:
        await pulled(store, name)
    assert caught.value.hint == "pip install 'aviato[zstd]'"
    assert not any(registry.asked(digest_of(layer)) for layer in LAYERS)


async def test_by_digest(store: ImageStore, registry: FakeRegistry) -> None:
    """A name with a digest is that very manifest, and another one under it is refused."""
    image = Image(LAYERS)
    registry.put(image)
    name = f"{registry.host}/app@{digest_of(image.manifest)}"
    assert (await pulled(store, name)).name == name
    wrong = f"{registry.host}/app@{'sha256:' + '1' * 64}"
    registry.documents[f"/v2/app/manifests/sha256:{'1' * 64}"] = (image.manifest, OCI_MANIFEST)
    with pytest.raises(ImageDigestError) as caught:
        await pulled(store, wrong)
    assert (caught.value.expected, caught.value.actual) == (f"sha256:{'1' * 64}", digest_of(image.manifest))


async def test_an_index_gives_this_machines_variant(store: ImageStore, registry: FakeRegistry) -> None:
    """The variant for this machine is chosen; what is attached to it, and other machines', are passed over."""
    image, other = Image(LAYERS), Image(LAYERS[:1])
    registry.put(image)
    index = index_of(
        [
            (other, {"os": "unknown", "architecture": "unknown"}),
            (other, {"os": "linux", "architecture": "s390x"}),
            (other, {"os": "windows", "architecture": here().architecture}),
            (image, HERE),
        ]
    )
    inner = index_of([(image, HERE)])
    outer = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(inner, OCI_INDEX)]}
    ).encode()
    registry.put_document(inner, OCI_INDEX)
    for document in (index, outer):
        name = registry.put_document(document, OCI_INDEX)
        assert (await pulled(store, name)).digest == digest_of(image.config)


async def test_no_variant_for_this_machine(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """It is an error of its own that names those offered, from an index and from a single image."""
    image = Image(LAYERS)
    offered = [{"os": "linux", "architecture": "s390x"}, {"os": "linux", "architecture": "arm", "variant": "v7"}]
    name = registry.put_document(index_of((image, platform) for platform in offered), OCI_INDEX)
    with pytest.raises(ImagePlatformError, match="linux/arm/v7, linux/s390x") as caught:
        await pulled(store, name)
    assert caught.value.offered == ("linux/arm/v7", "linux/s390x")
    assert (caught.value.image, caught.value.wanted) == (name, str(here()))
    single = registry.put(Image(LAYERS, architecture="s390x"), "single")
    with pytest.raises(ImagePlatformError, match="linux/s390x"):
        await pulled(store, single)
    assert kept(tmp_path) == images_left(tmp_path) == []


async def test_unknown_images(store: ImageStore, registry: FakeRegistry) -> None:
    """What the registry does not have is ImageNotFoundError with the name and what to do."""
    with pytest.raises(ImageNotFoundError, match="is not in the registry") as caught:
        await pulled(store, f"{registry.host}/nosuch:1")
    assert caught.value.image == f"{registry.host}/nosuch:1"
    assert f"docker login {registry.host}" in (caught.value.hint or "")


async def test_two_pulls_at_once(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """The second one waits for the first one's download instead of doing it again."""
    image = Image(LAYERS[:1])
    name = registry.put(image)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> None:
        begun.set()
        await go_on.wait()

    registry.faults.append(once(9, slow, digest_of(image.layers[0])))
    loop = asyncio.get_running_loop()

    def saw(progress: PullProgress) -> None:
        if progress.state is PullState.WAITING:
            loop.call_soon_threadsafe(go_on.set)

    first = asyncio.ensure_future(pulled(store, name))
    await begun.wait()
    second = asyncio.ensure_future(pulled(ImageStore(str(tmp_path / "home")), name, progress=saw))
    assert await first == await second
    assert len(registry.asked(digest_of(image.layers[0]))) == 1
    assert len(kept(tmp_path)) == 1


async def test_nothing_is_removed_under_a_pull(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """While somebody pulls, `prune` and the removal of images leave the downloads alone."""
    image = Image(LAYERS)
    name = registry.put(image)
    store.tag("host", "other")

    def disturb(progress: PullProgress) -> None:
        if progress.state is PullState.DOWNLOADED:
            assert store.collect(downloads=True) == 0
            store.tag("host", "other")
            store.remove("other")

    await pulled(store, name, progress=disturb)
    assert len(kept(tmp_path)) == 2


async def test_a_thread_with_a_loop_is_not_blocked(store: ImageStore) -> None:
    """Called where it would block an event loop, it says how to call it."""
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        store.pull("python:3.12")
    with pytest.raises(ValueError, match="no registry"):
        store.pull("host")


async def test_a_damaged_image_loses_no_layers(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    """Other images can be removed all the same, and what the damaged one may have had stays."""
    info = await pulled(store, registry.put(Image(LAYERS), "damaged"))
    store.tag("host", "other")
    (tmp_path / "home/images" / info.digest.replace(":", "-") / "image.json").write_text("{")
    store.remove("other")
    assert len(kept(tmp_path)) == 2


async def test_files_are_shared_on_the_disk(store: ImageStore, registry: FakeRegistry) -> None:
    """Equal files of images with common layers are there once; what differs, and twins in one image, are not."""
    one, two = b"1" * 10_000, b"2" * 10_000
    base = pack({"lib": None, "lib/a": one, "lib/twin": one, "lib/b": two, "lib/small": b"s", "lib/link": "a"})
    names = [
        registry.put(Image([base, pack({"x": one})]), "first"),
        registry.put(Image([base, pack({"lib/b": two + b"!", "x": two})]), "second"),
    ]
    for name in names:
        await pulled(store, name)
    first, second = (Path(store.resolve(name).root or "") for name in names)
    shared = [path for path in listed(first) if (second / path).exists() and (first / path).samefile(second / path)]
    assert [path for path in shared if path != "lib/link"] == ["lib/a", "lib/twin"]
    assert not (second / "lib/a").samefile(second / "lib/twin")
    assert (first / "lib").stat().st_mtime_ns == (second / "lib").stat().st_mtime_ns
    store.remove(names[0])
    assert (second / "lib/a").read_bytes() == one
    assert (second / "lib/a").stat().st_nlink == 1


async def test_links_of_another_image_lead_sharing_nowhere(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    """A directory that is a link in the other image, to a place outside, is not looked into."""
    secret = tmp_path / "outside/a"
    secret.parent.mkdir()
    secret.write_bytes(b"1" * 10_000)
    secret.chmod(0o755)
    os.utime(secret, (0, 0))
    base = pack({"etc": None, "etc/x": b"x"})
    await pulled(store, registry.put(Image([base, pack({"d": str(secret.parent)})]), "first"))
    name = registry.put(Image([base, pack({"d": None, "d/a": b"1" * 10_000})]), "second")
    await pulled(store, name)
    assert not (Path(store.resolve(name).root or "") / "d/a").samefile(secret)
    assert secret.stat().st_nlink == 1


async def test_two_files_do_not_become_one(store: ImageStore, registry: FakeRegistry) -> None:
    """What is one file with two names in one image stays two files in another, where it is two."""
    base, data = pack({"base": b"x"}), b"1" * 10_000
    await pulled(store, registry.put(Image([base, entry("a", data) + hardlink("b", "a")]), "first"))
    name = registry.put(Image([base, entry("a", data) + entry("b", data)]), "second")
    await pulled(store, name)
    root = Path(store.resolve(name).root or "")
    assert not (root / "a").samefile(root / "b")
    assert sorted((root / path).stat().st_nlink for path in ("a", "b")) == [1, 3]
