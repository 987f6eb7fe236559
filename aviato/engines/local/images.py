"""The local image store: unpacked root file systems under `AVIATO_HOME/images`, and the names that point at them.

::

    images/
      lock              held while names or contents change, for moments only
      names/NAME.json   one name: {"name", "target"}; the target is "host" or a directory below
      DIGEST/           one root: image.json, root/, lock (held shared by every sandbox that uses it)
      blobs/            layers from registries, whole or in part, shared by the images that have them
      incoming-*/       an import under way, its lock held; removed by the next call when it is not

A root is never written to after its import, and is shared by all sandboxes made from it. One without a name goes
away as soon as no sandbox uses it.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from aviato.engines.images import ImageInfo
from aviato.engines.local import ids, records
from aviato.engines.local.archive import Limits, Unpacker
from aviato.engines.local.blobs import BlobStore
from aviato.engines.local.imageformats import unpack
from aviato.engines.local.imageinfo import ResolvedImage, unknown
from aviato.engines.local.imagelayers import Contents
from aviato.engines.local.imagenames import warn_of_other_python
from aviato.engines.local.sharing import share
from aviato.engines.local.storefiles import (
    ALONE_NOW,
    SHARED,
    explained,
    is_young,
    lock,
    locked,
    read_record,
)
from aviato.engines.local.tarstream import ArchiveError
from aviato.exceptions import EngineError, ImageNotFoundError
from aviato.models import PullProgress
from aviato.registry.names import HOST, normalize

if TYPE_CHECKING:
    from aviato.registry.retries import Retries


class ImageStore:
    """The images of one `AVIATO_HOME`; any number of processes may use it at once.

    Args:
        home: The state directory; made, readable by this user only, when something is first stored.
    """

    def __init__(self, home: str) -> None:
        self._root = os.path.join(home, "images")
        self._names = os.path.join(self._root, "names")
        self._lock = os.path.join(self._root, "lock")
        self._blobs = BlobStore(os.path.join(self._root, "blobs"))

    def import_(self, name: str, source: str) -> ImageInfo:
        """Store a root file system under a name, which is taken away from what it meant before.

        Owners are kept when root imports; otherwise everything belongs to the user. Set-user-id bits, extended
        attributes, devices, pipes and sockets are left out. When it fails or is interrupted, nothing is left.

        Args:
            name: Such as `app` or `ghcr.io/owner/app:v1`.
            source: A directory; or a tar (also gzip, bzip2, xz, and zstd from Python 3.14 on) of a root file
                system, of `docker save`, or of an OCI layout.

        Raises:
            ValueError: The name is not one for an image.
            ArchiveError: The source is missing, damaged, hostile, or for another machine.
            SandboxResourceExhaustedError: The disk is full.
            EngineError: The store cannot be written.
        """
        name = normalize(name)
        if name == HOST:
            raise ValueError("image 'host' is this machine's own root file system; choose another name")
        if not os.path.exists(source):
            raise ArchiveError(f"{source}: there is no such file or directory")
        with explained(self._root), self._incoming(source) as staging:
            self._fill(name, source, staging, lambda unpacker, limit: unpack(source, unpacker, staging, limit))
        return self._info(name)

    def pull(
        self,
        name: str,
        *,
        policy: Literal["always", "missing", "never"] = "always",
        progress: Callable[[PullProgress], None] = lambda _progress: None,
        retries: Retries | None = None,
    ) -> ImageInfo:
        """Bring an image from its registry, with the user's docker login where one is wanted, and store it.

        Blocks; asynchronous programs write `await asyncio.to_thread(store.pull, name)`. Layers that the store has are
        not downloaded again. When it fails, or is interrupted or killed, what has been downloaded stays, and the next
        pull goes on from there; `remove` and `collect(downloads=True)` clean it up.

        Args:
            name: Such as `python:3.12`, `ghcr.io/owner/app:v1` or `localhost:5000/app@sha256:…`.
            policy: `"always"` asks the registry what the name means now; `"missing"` does so only when the store does
                not have the name, and `"never"` not at all.
            progress: Is called, in this thread, for each step of each layer; an exception of it ends the pull.
            retries: How often and after what pauses requests are repeated, if not as usual.

        Raises:
            ValueError: The name is not one for an image, or `host`; or `policy` is none of the three.
            ImageNotFoundError: The registry does not have it; or the store does not, and `policy` is `"never"`.
            ImagePlatformError: It has no variant for this machine.
            ImageDigestError: What came is not what was promised.
            AviatoAuthenticationError: The registry does not let the user read it.
            CapabilityError: It is compressed in a way that this Python cannot read.
            ConfigurationError: Docker's `config.json` cannot be read.
            ArchiveError: A layer is damaged or hostile.
            SandboxResourceExhaustedError: The disk is full.
            EngineConnectionError: The registry cannot be reached, or broke off too often.
            EngineResponseError: The registry failed, or allows no more requests for now.
            EngineError: What the registry sent cannot be used, or the store cannot be written.
            RuntimeError: This thread runs an event loop, which must not be blocked.
        """
        if policy not in {"always", "missing", "never"}:
            raise ValueError(f"policy must be 'always', 'missing' or 'never', got {policy!r}")
        name = normalize(name)
        if name == HOST:
            raise ValueError("image 'host' is this machine's own root file system and is in no registry")
        if policy != "always":
            try:
                return self._info(name)
            except ImageNotFoundError:
                if policy == "never":
                    raise
        _refuse_loop()
        from aviato.engines.local import pull  # noqa: PLC0415 - it is much, and most sandboxes are made without it

        with explained(self._root):
            self._prepare()
            with self._blobs.held():
                adopt = functools.partial(self._adopt, name)
                image = asyncio.run(pull.bring(name, self._blobs, adopt, progress, retries))
                if image is not None:
                    with self._incoming("") as staging:
                        self._fill(
                            name,
                            name,
                            staging,
                            lambda unpacker, limit: pull.unpack(image, self._blobs, unpacker, limit, progress),
                            blobs=sorted({layer.digest for layer in image.layers}),
                            found_digest=image.found_digest,
                        )
            self.collect()
        return self._info(name)

    def tag(self, src: str, dst: str) -> ImageInfo:
        """Let `dst` mean what `src` means now; `src` may be `host`. Idempotent.

        Warns with `UserWarning` when the host is given the name of another Python version than it has.

        Raises:
            ValueError: A name is not one for an image, or `dst` is `host`.
            ImageNotFoundError: `src` is unknown.
            EngineError: The store cannot be written.
        """
        src, dst = normalize(src), normalize(dst)
        if dst == HOST:
            raise ValueError("image 'host' is this machine's own root file system; choose another name")
        with explained(self._root):
            self._prepare()
            with locked(self._lock):
                target = self._target(src)
                self._point(dst, target)
            self.collect()
        if target == HOST:
            warn_of_other_python(dst)
        return self._info(dst)

    def list(self) -> builtins.list[ImageInfo]:
        """Return every name, sorted.

        Raises:
            EngineError: The store cannot be read.
        """
        found = []
        with explained(self._root):
            for entry in self._entries():
                with contextlib.suppress(ImageNotFoundError):
                    found.append(self._info(entry["name"]))
        return sorted(found, key=lambda info: info.name)

    def remove(self, name: str) -> None:
        """Take a name away; files that no other name has go as soon as no sandbox uses them.

        Raises:
            ValueError: The name is not one for an image, or `host`.
            ImageNotFoundError: It is unknown.
            EngineError: The store cannot be written.
        """
        name = normalize(name)
        if name == HOST:
            raise ValueError("image 'host' is this machine's own root file system and cannot be removed")
        with explained(self._root):
            try:
                os.unlink(self._name_path(name))
            except FileNotFoundError:
                raise unknown(name) from None
            self.collect(downloads=True)

    def resolve(self, name: str) -> ResolvedImage:
        """Look a name up.

        Raises:
            TypeError: It is not a string.
            ValueError: It is not the name of an image.
            ImageNotFoundError: It is unknown; the hint is the command that would help.
            EngineError: The store cannot be read, or is damaged.
        """
        name = normalize(name)
        with explained(self._root):
            target = self._target(name)
            if target == HOST:
                return ResolvedImage(name, HOST)
            record = self._image(target, name)
            root = os.path.join(self._root, target, "root")
            return ResolvedImage(name, "image", root, record["environment"], record["working_dir"], record["digest"])

    def collect(self, *, downloads: bool = False) -> int:
        """Remove what no name and no sandbox needs, and what interrupted imports left; return how many.

        Args:
            downloads: Also remove layers that no image has, and those that an interrupted pull could go on with;
                nothing of them while somebody pulls.

        Raises:
            EngineError: The store cannot be written.
        """
        if not os.path.isdir(self._root):
            return 0
        with explained(self._root):
            with locked(self._lock):
                wanted = {entry["target"] for entry in self._entries()}
                rubbish = [
                    path
                    for entry in os.listdir(self._root)
                    if entry not in wanted and entry not in ("lock", "names", "blobs")
                    if (path := self._take_away(entry)) is not None
                ]
                layers = self._collect_layers(wanted) if downloads else 0
            for path in rubbish:
                shutil.rmtree(path, ignore_errors=True)
        return len(rubbish) + layers

    def _collect_layers(self, targets: set[str]) -> int:
        wanted: set[str] = set()
        for target in targets - {HOST}:
            try:
                wanted.update(self._image(target, target).get("blobs", ()))
            except ImageNotFoundError:
                continue
            except EngineError:
                return 0  # a damaged image cannot say which layers it has; they are not lost for that
        return self._blobs.collect(wanted)

    def _take_away(self, entry: str) -> str | None:
        path = os.path.join(self._root, entry)
        if entry.startswith("gone-"):
            return path
        try:
            held = lock(os.path.join(path, "lock"), ALONE_NOW)
        except (FileNotFoundError, NotADirectoryError):
            return None if entry.startswith("incoming-") and is_young(path) else self._rename_away(path)
        if held is None:
            return None
        try:
            return self._rename_away(path)
        finally:
            os.close(held)

    def _rename_away(self, path: str) -> str:
        gone = tempfile.mkdtemp(prefix="gone-", dir=self._root)
        with contextlib.suppress(FileNotFoundError):
            # The lock file goes first: who was about to hold it must see that it is another one, or none.
            os.unlink(os.path.join(path, "lock"))
        os.rename(path, os.path.join(gone, "it"))
        return gone

    def _prepare(self) -> None:
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.makedirs(self._names, 0o700, exist_ok=True)

    @contextlib.contextmanager
    def _incoming(self, source: str) -> Iterator[str]:
        self._prepare()
        inside = os.path.realpath(self._root)
        if (
            source
            and os.path.isdir(source)
            and os.path.commonpath([inside, os.path.realpath(source)]) == os.path.realpath(source)
        ):
            raise ArchiveError(f"{source}: the image store itself lies in it, at {inside}")
        self.collect()
        staging = tempfile.mkdtemp(prefix="incoming-", dir=self._root)
        held = None
        try:
            held = lock(os.path.join(staging, "lock"), SHARED, create=True)
            yield staging
        finally:
            if held is not None:
                os.close(held)
            shutil.rmtree(staging, ignore_errors=True)

    def _fill(
        self,
        name: str,
        source: str,
        staging: str,
        fill: Callable[[Unpacker, int], Contents],
        **more: Any,
    ) -> None:
        """Unpack into a staging directory, and publish it with its record."""
        root = os.path.join(staging, "root")
        os.mkdir(root, 0o755)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            limits = Limits.of(descriptor)
            unpacker = Unpacker(descriptor, limits, owners=ids.can_shift())
            try:
                contents = fill(unpacker, limits.total_bytes)
            finally:
                unpacker.close()
            if not unpacker.entries:
                raise ArchiveError(f"{source}: there is nothing in it")
            self._share(descriptor, staging, set(more.get("blobs", ())))
        finally:
            os.close(descriptor)
        records.write(os.path.join(staging, "image.json"), _record(contents, unpacker) | more, durable=True)
        self._publish(name, staging, contents.digest)

    def _share(self, root: int, staging: str, layers: set[str]) -> None:
        """Share files with the image that has most layers in common."""
        similar: tuple[int, str] = (0, "")
        for entry in os.listdir(self._root) if layers else ():
            if entry.startswith("sha256-"):
                with contextlib.suppress(ImageNotFoundError, EngineError):
                    common = len(layers.intersection(self._image(entry, entry).get("blobs", ())))
                    similar = max(similar, (common, entry))
        if similar[0]:
            with contextlib.suppress(ImageNotFoundError), contextlib.ExitStack() as stack:
                other = ResolvedImage(similar[1], "image", os.path.join(self._root, similar[1], "root"))
                held = other.hold()
                assert held is not None and other.root is not None  # noqa: S101, PT018 - it is not the host
                stack.callback(os.close, held)
                descriptor = os.open(other.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                share(root, descriptor, os.path.join(staging, "spare"))

    def _adopt(self, name: str, digest: str) -> bool:
        """Let a name mean an image that is here, if it is."""
        target = digest.replace(":", "-")
        with locked(self._lock):
            if not os.path.exists(os.path.join(self._root, target, "image.json")):
                return False
            self._point(name, target)
        return True

    def _publish(self, name: str, staging: str, digest: str) -> None:
        target = digest.replace(":", "-")
        place = os.path.join(self._root, target)
        with locked(self._lock):
            if not os.path.exists(os.path.join(place, "image.json")):
                if os.path.isdir(place):
                    shutil.rmtree(self._rename_away(place), ignore_errors=True)
                os.rename(staging, place)
            self._point(name, target)
        self.collect()

    def _point(self, name: str, target: str) -> None:
        records.write(self._name_path(name), {"name": name, "target": target}, durable=True)

    def _name_path(self, name: str) -> str:
        return os.path.join(self._names, f"{quote(name, safe='')}.json")

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            files = os.listdir(self._names)
        except FileNotFoundError:
            return
        for file in files:
            if file.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):
                    yield read_record(os.path.join(self._names, file), "name", "target")

    def _target(self, name: str) -> str:
        if name == HOST:
            return HOST
        try:
            target: str = read_record(self._name_path(name), "name", "target")["target"]
        except FileNotFoundError:
            raise unknown(name) from None
        return target

    def _image(self, target: str, name: str) -> dict[str, Any]:
        try:
            return read_record(
                os.path.join(self._root, os.path.basename(target), "image.json"),
                "digest",
                "environment",
                "working_dir",
                "size_bytes",
                "created",
            )
        except FileNotFoundError:
            raise unknown(name) from None

    def _info(self, name: str) -> ImageInfo:
        target = self._target(name)
        if target == HOST:
            return ImageInfo(name, HOST)
        record = self._image(target, name)
        return ImageInfo(
            name,
            "image",
            record["digest"],
            record["size_bytes"],
            record.get("entries", 0),
            record.get("skipped", {}),
            record.get("kind", ""),
            record["created"],
            tuple(record.get("command", ())),
        )


def _record(contents: Contents, unpacker: Unpacker) -> dict[str, Any]:
    return {
        "created": time.time(),
        "size_bytes": unpacker.bytes,
        "entries": unpacker.entries,
        "skipped": unpacker.skipped,
        **asdict(contents),
    }


def _refuse_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "a pull blocks, and this thread runs an event loop; write: await asyncio.to_thread(store.pull, name)"
    )
