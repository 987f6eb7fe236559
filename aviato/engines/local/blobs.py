"""Layers as a registry sent them, kept so that images share them and a broken download goes on where it stopped.

::

    blobs/
      lock                  held shared by every pull; nothing is removed meanwhile
      sha256-HEX            a whole layer, verified
      sha256-HEX.partial    the beginning of one; locked by the pull that writes it
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from aviato.engines.local.storefiles import ALONE_NOW, SHARED, is_current, lock
from aviato.exceptions import EngineConnectionError, Outcome, SandboxResourceExhaustedError
from aviato.models import PullProgress, PullState

if TYPE_CHECKING:
    from hashlib import _Hash

    from aviato.registry.client import RegistryClient
    from aviato.registry.manifests import Descriptor

Report = Callable[[PullProgress], None]
_CHUNK = 1 << 20
_AT_ONCE = 3
_LOOK_AGAIN = 0.1
_PROGRESS = 1 << 20
"""Bytes after which a download that breaks off is making progress, and its failures are forgiven."""
_RESERVE = 64 << 20


class BlobStore:
    """The layers in one image store; any number of processes may use it at once.

    Args:
        root: Its directory; made when something is first stored.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def path(self, digest: str) -> str:
        """Return where a whole layer is, or would be."""
        return os.path.join(self._root, digest.replace(":", "-"))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep everything from being removed."""
        os.makedirs(self._root, 0o700, exist_ok=True)
        descriptor = lock(os.path.join(self._root, "lock"), SHARED, create=True)
        assert descriptor is not None  # noqa: S101 - it waited
        try:
            yield
        finally:
            os.close(descriptor)

    def collect(self, wanted: Collection[str]) -> int:
        """Remove what is not wanted, unless somebody pulls; return how many.

        Args:
            wanted: Digests of layers to keep.
        """
        try:
            held = lock(os.path.join(self._root, "lock"), ALONE_NOW)
        except FileNotFoundError:
            return 0
        if held is None:
            return 0
        try:
            names = {"lock", *(digest.replace(":", "-") for digest in wanted)}
            rubbish = [entry for entry in os.listdir(self._root) if entry not in names]
            for entry in rubbish:
                os.unlink(os.path.join(self._root, entry))
            return len(rubbish)
        finally:
            os.close(held)

    async def fetch(self, client: RegistryClient, layers: Iterable[Descriptor], report: Report) -> None:
        """Make sure that all layers are here, downloading what is not, several at once.

        Args:
            client: Where they come from.
            layers: Which ones; a layer may be named twice.
            report: Is called with what has been reached; an exception of it ends the pull.

        Raises:
            ImageDigestError: What came is not what was promised.
            SandboxResourceExhaustedError: They do not fit on the disk.
            EngineError: As `RegistryClient.blob`.
            OSError: They cannot be written.
        """
        distinct = list({layer.digest: layer for layer in layers}.values())
        self._check_space(distinct)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(layer: Descriptor) -> None:
            async with turns:
                await _Download(self, client, layer, report).run()

        try:
            async with asyncio.TaskGroup() as group:
                for layer in distinct:
                    group.create_task(one(layer))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the others were cancelled, or failed of the same

    def _check_space(self, layers: Iterable[Descriptor]) -> None:
        missing = 0
        for layer in layers:
            if not os.path.exists(self.path(layer.digest)):
                missing += layer.size
                with contextlib.suppress(FileNotFoundError):
                    missing -= min(layer.size, os.stat(self.path(layer.digest) + ".partial").st_size)
        free = shutil.disk_usage(self._root).free - _RESERVE
        if missing > free:
            raise SandboxResourceExhaustedError(
                f"{missing} bytes are to be downloaded, and {max(free, 0)} are free in {self._root}",
                hint="Free some space, or set AVIATO_HOME elsewhere.",
            )


class _Download:
    """One layer on its way into the store."""

    def __init__(self, store: BlobStore, client: RegistryClient, layer: Descriptor, report: Report) -> None:
        self._client = client
        self._layer = layer
        self._report = report
        self._path = store.path(layer.digest)
        self._partial = f"{self._path}.partial"

    async def run(self) -> None:
        async with self._alone() as descriptor:
            if descriptor is None:
                self._say(PullState.PRESENT, self._layer.size)
                return
            await self._complete(descriptor)
            os.fsync(descriptor)
            os.rename(self._partial, self._path)
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._say(PullState.DOWNLOADED, self._layer.size)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[int | None]:
        """Become the only one to download the layer; None when it is there, perhaps after somebody else did it."""
        while not self._is_here():
            descriptor = lock(self._partial, ALONE_NOW, create=True)
            if descriptor is None:
                with contextlib.suppress(FileNotFoundError):
                    self._say(PullState.WAITING, os.stat(self._partial).st_size)
                await asyncio.sleep(_LOOK_AGAIN)  # a lock cannot be waited for without a thread that cannot be ended
                continue
            try:
                if is_current(descriptor, self._partial):
                    if not os.path.exists(self._path):  # noqa: ASYNC240 - the loop of a pull does nothing else
                        yield descriptor
                        return
                    self._discard()  # somebody has finished it just before this began another
            finally:
                os.close(descriptor)
        yield None

    def _is_here(self) -> bool:
        """Tell whether the whole layer is here and undamaged; a damaged one is removed."""
        try:
            with open(self._path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        if f"sha256:{digest}" == self._layer.digest:
            return True
        os.unlink(self._path)
        return False

    async def _complete(self, descriptor: int) -> None:
        begun = self._begin(descriptor)
        resumed = begun[0] > 0
        digest = await self._download(descriptor, *begun)
        if digest != self._layer.digest and resumed:
            # The beginning may have been damaged, by a crash of the machine for one.
            digest = await self._download(descriptor, *self._restart(descriptor))
        if digest != self._layer.digest:
            self._discard()
            raise self._mismatch(digest, f"it is {digest}")

    def _begin(self, descriptor: int) -> tuple[int, _Hash]:
        digest = hashlib.sha256()
        size = os.fstat(descriptor).st_size
        if size > self._layer.size:
            return self._restart(descriptor)
        place = 0
        while chunk := os.pread(descriptor, _CHUNK, place):
            digest.update(chunk)
            place += len(chunk)
        return place, digest

    @staticmethod
    def _restart(descriptor: int) -> tuple[int, _Hash]:
        os.ftruncate(descriptor, 0)
        return 0, hashlib.sha256()

    async def _download(self, descriptor: int, size: int, digest: _Hash) -> str:
        """Append what is missing, reconnecting where it breaks off; return the digest of the whole."""
        failed, forgiven = 0, size
        self._say(PullState.DOWNLOADING, size)
        while size < self._layer.size:
            opened = False
            try:
                async with self._client.blob(self._layer, size) as part:
                    opened = True
                    if part.offset != size:
                        size, digest = self._restart(descriptor)
                        forgiven = 0
                    if part.length is not None and part.length != self._layer.size - size:
                        self._discard()
                        raise self._mismatch("", f"{self._layer.size - size} bytes are due, {part.length} announced")
                    async for chunk in part.chunks:
                        if size + len(chunk) > self._layer.size:
                            self._discard()
                            raise self._mismatch("", f"it has more than the {self._layer.size} bytes promised")
                        _write(descriptor, chunk, size)
                        digest.update(chunk)
                        size += len(chunk)
                        self._say(PullState.DOWNLOADING, size)
                if size < self._layer.size:
                    raise EngineConnectionError(
                        f"layer {self._layer.digest} of image {self._client.image!r} ended after {size} of"
                        f" {self._layer.size} bytes",
                        retryable=True,
                        outcome=Outcome.NOT_APPLIED,
                        hint="Try again: the download goes on where it stopped.",
                    )
            except EngineConnectionError as error:
                if size - forgiven >= _PROGRESS:
                    failed, forgiven = 0, size
                failed += 1
                # What never began has been tried often enough by the client.
                pause = self._client.retries.pause(failed) if opened and error.retryable else None
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        return f"sha256:{digest.hexdigest()}"

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial)

    def _mismatch(self, actual: str, why: str) -> Exception:
        from aviato.registry.client import mismatch  # noqa: PLC0415 - loaded with the client by now

        return mismatch(self._client.image, self._layer.digest, actual, why)

    def _say(self, state: PullState, done: int) -> None:
        self._report(PullProgress(self._layer.digest, done, self._layer.size, state))


def _write(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
