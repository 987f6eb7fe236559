"""The local image store: unpacked root file systems under `AVIATO_HOME/images`, and the names that point at them.

::

    images/
      lock              held while names or contents change, for moments only
      names/NAME.json   one name: {"name", "target"}; the target is "host" or a directory below
      DIGEST/           one root: image.json, root/, lock (held shared by every sandbox that uses it)
      incoming-*/       an import under way, its lock held; removed by the next call when it is not

A root is never written to after its import, and is shared by all sandboxes made from it. One without a name goes
away as soon as no sandbox uses it.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from aviato.engines.local import ids, records
from aviato.engines.local.archive import Limits, Unpacker
from aviato.engines.local.imageformats import Contents, unpack
from aviato.engines.local.imagenames import HOST, normalize, warn_of_other_python
from aviato.engines.local.storefiles import (
    ALONE_NOW,
    SHARED,
    explained,
    is_current,
    is_young,
    lock,
    locked,
    read_record,
)
from aviato.engines.local.tarstream import ArchiveError
from aviato.exceptions import ImageNotFoundError


@dataclass(frozen=True)
class ImageInfo:
    """One name in the store.

    Attributes:
        name: Name and tag.
        kind: `"host"` for this machine's own root, else `"image"`.
        digest: SHA-256 of an image's configuration, or of the files where there is none; empty for the host.
        size_bytes: Bytes of all files; 0 for the host.
        entries: How many files, directories and links were unpacked.
        skipped: What was left out by an import, such as devices, and how many of each.
        source: `"directory"`, `"rootfs"`, `"image"`, or empty for the host.
        created: Seconds since the epoch.
        command: What the image itself would start; sandboxes do not.
    """

    name: str
    kind: str
    digest: str = ""
    size_bytes: int = 0
    entries: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    created: float = 0.0
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResolvedImage:
    """What a name means at this moment.

    Attributes:
        name: The name in its one spelling.
        kind: `"host"` for this machine's own root file system, or `"image"`.
        root: Directory of an image's files, never written to; None for the host.
        environment: Variables that the image sets.
        working_dir: Where commands start, or None when the image does not say.
        digest: As in `ImageInfo`.
    """

    name: str
    kind: str
    root: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    digest: str = ""

    def hold(self) -> int | None:
        """Keep the image's root from being removed, for as long as the returned descriptor, or a copy, is open.

        Returns:
            A descriptor to be closed by the caller, or None for the host.

        Raises:
            ImageNotFoundError: It has been removed meanwhile.
            EngineError: The store cannot be read.
        """
        if self.root is None:
            return None
        path = os.path.join(os.path.dirname(self.root), "lock")
        with explained(path):
            try:
                descriptor = lock(path, SHARED)
            except FileNotFoundError:
                raise _unknown(self.name) from None
            assert descriptor is not None  # noqa: S101 - it waited
            if not is_current(descriptor, path):
                os.close(descriptor)
                raise _unknown(self.name)
            return descriptor


class ImageStore:
    """The images of one `AVIATO_HOME`; any number of processes may use it at once.

    Args:
        home: The state directory; made, readable by this user only, when something is first stored.
    """

    def __init__(self, home: str) -> None:
        self._root = os.path.join(home, "images")
        self._names = os.path.join(self._root, "names")
        self._lock = os.path.join(self._root, "lock")

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
            root = os.path.join(staging, "root")
            os.mkdir(root, 0o755)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                limits = Limits.of(descriptor)
                unpacker = Unpacker(descriptor, limits, owners=ids.can_shift())
                try:
                    contents = unpack(source, unpacker, staging, limits.total_bytes)
                finally:
                    unpacker.close()
            finally:
                os.close(descriptor)
            if not unpacker.entries:
                raise ArchiveError(f"{source}: there is nothing in it")
            records.write(os.path.join(staging, "image.json"), _record(contents, unpacker), durable=True)
            self._publish(name, staging, contents.digest)
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
                raise _unknown(name) from None
            self.collect()

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

    def collect(self) -> int:
        """Remove what no name and no sandbox needs, and what interrupted imports left; return how many.

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
                    if entry not in wanted and entry not in ("lock", "names")
                    if (path := self._take_away(entry)) is not None
                ]
            for path in rubbish:
                shutil.rmtree(path, ignore_errors=True)
        return len(rubbish)

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
        if os.path.isdir(source) and os.path.commonpath([inside, os.path.realpath(source)]) == os.path.realpath(source):
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
            raise _unknown(name) from None
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
            raise _unknown(name) from None

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


def _unknown(name: str) -> ImageNotFoundError:
    remedy = f"aviato image import {name} TAR"
    if name.startswith("python:"):
        remedy = f"aviato image tag host {name}   (or from an archive: {remedy})"
    return ImageNotFoundError(f"image {name!r} is not in the local store", image=name, hint=remedy)
