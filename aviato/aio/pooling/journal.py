"""Results on the disk, so that a driver that was killed goes on where it stopped.

Each line is a checksum, a blank and a JSON object; the first one says what the journal is about. A line is written with
one system call before its result is yielded, so a killed process loses none that anybody saw. It reaches the disk
itself within a second, and at the end: only a machine that loses power can lose the results of its last second,
whose items then run again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs

from aviato.aio.pooling.digest import digest, packed
from aviato.aio.shipping.inside.carried import unpack
from aviato.aio.shipping.inside.refused import BadValue
from aviato.exceptions import ConfigurationError
from aviato.models import ExitReason, ProcessResult

_T = TypeVar("_T")
SYNC_SECONDS = 1.0
"""Longest time that a result is not on the disk."""
_VERSION = 2
_HEX = 8
_KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe"}
_TORN_HEAD = re.compile(rb'[0-9a-f]{1,8}( (\{("j.*)?)?)?')
"""What may be there of the first line when its writer was killed; everything else is somebody's own file."""


def encode(value: Any, path: str, classes: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the JSON form of a result.

    Raises:
        FunctionSerializationError: It has none.
    """
    if isinstance(value, ProcessResult):
        fields = attrs.asdict(value)
        for name in ("stdout_bytes", "stderr_bytes"):
            fields[name] = base64.b64encode(fields[name]).decode()
        return {"process": fields}
    return {"value": base64.b64encode(packed(value, path, classes)).decode()}


def decode(form: dict[str, Any], classes: Sequence[Any] = ()) -> Any:
    """Return the result of its JSON form.

    Raises:
        ValueError: It is not such a form.
    """
    try:
        if "value" in form:
            return unpack(base64.b64decode(form["value"]), classes)
        fields = dict(form["process"])
        for name in ("stdout_bytes", "stderr_bytes"):
            fields[name] = base64.b64decode(fields[name])
        fields["command"] = tuple(fields["command"])
        fields["reason"] = ExitReason(fields["reason"])
        return ProcessResult(**fields)
    except (KeyError, TypeError, binascii.Error, BadValue) as error:
        raise ValueError(f"a result has not the right form: {error}") from error


class Journal:
    """One file of results, held by one driver at a time."""

    def __init__(self, path: str, descriptor: int, classes: Sequence[Any]) -> None:
        self._path = path
        self._classes = classes
        self._descriptor = descriptor
        self._known: dict[int, tuple[str, int, int]] = {}
        self._end = 0
        self._synced = 0
        self._syncing: asyncio.Task[None] | None = None
        self._sync_error: OSError | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str], identity: bytes, name: str, classes: Sequence[Any] = ()) -> Journal:
        """Open or make the file, which blocks; a torn last line is cut off.

        Args:
            path: The file.
            identity: What is done with each item, exactly.
            name: What errors call it.
            classes: Those that items and results may have beyond the common ones.

        Raises:
            ConfigurationError: It is another work's, in use, damaged, or cannot be read or written.
        """
        shown = os.fspath(path)
        try:
            descriptor = os.open(shown, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the journal {shown} cannot be opened: {error}") from error
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise ConfigurationError(
                f"the journal {shown} is no regular file but {_KINDS.get(stat.S_IFMT(mode), 'something else')}",
                hint="Give the path of a file, which need not exist yet.",
            )
        journal = cls(shown, descriptor, classes)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"the journal {shown} is in use by another map", hint="Wait for its end, or use another file."
                ) from None
            journal._read(hashlib.sha256(identity).hexdigest(), name)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(f"the journal {shown} cannot be used: {error}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def _read(self, identity: str, name: str) -> None:
        offset = number = 0
        bad = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for line in file:
                number += 1
                entry = _checked(line)
                if bad or (entry is not None and not isinstance(entry.get("i"), int) and number > 1):
                    raise ConfigurationError(f"line {bad or number} of the journal {self._path} is damaged")
                if entry is None:
                    if number == 1 and not _TORN_HEAD.fullmatch(line):
                        raise ConfigurationError(f"{self._path} is not a journal, and is left as it is")
                    bad = number  # the last one may be: it was torn when its writer was killed
                    continue
                if number == 1:
                    self._check_head(entry, identity, name)
                else:
                    self._known.setdefault(entry["i"], (str(entry.get("item")), offset, len(line)))
                offset += len(line)
        self._end = self._synced = offset
        if bad:
            os.ftruncate(self._descriptor, offset)
        if offset == 0:
            self._append({"journal": _VERSION, "name": name, "work": identity})

    def _check_head(self, entry: dict[str, Any], identity: str, name: str) -> None:
        if entry.get("journal") != _VERSION:
            raise ConfigurationError(f"{self._path} is not a journal of this version of aviato")
        if entry.get("work") != identity:
            raise ConfigurationError(
                f"the journal {self._path} is of other work: it holds results of {entry.get('name')!r}, "
                f"and now it is {name!r}, or that was changed since",
                hint="Use another file for other work, or delete this one to begin anew.",
            )

    def digest(self, item: Any, number: int) -> str:
        """As the function of that name."""
        return digest(item, number, self._classes)

    def find(self, number: int, item_digest: str) -> tuple[bool, Any]:
        """Tell whether the result of an item is there, and return it.

        Raises:
            ConfigurationError: The journal's item of this number is another one, or its line was damaged meanwhile.
        """
        known = self._known.get(number)
        if known is None:
            return False, None
        if known[0] != item_digest:
            raise ConfigurationError(
                f"the journal {self._path} is of other items: its items[{number}] is not this one",
                hint="Give the same items in the same order, or use another file.",
            )
        entry = _checked(os.pread(self._descriptor, known[2], known[1]))
        try:
            return True, decode((entry or {}).get("result") or {}, self._classes)
        except ValueError as error:
            raise ConfigurationError(f"the result of items[{number}] in the journal {self._path}: {error}") from error

    def check_count(self, count: int) -> None:
        """Refuse results of items beyond the end of the input.

        Raises:
            ConfigurationError: There are some.
        """
        beyond = [number for number in self._known if number >= count]
        if beyond:
            raise ConfigurationError(
                f"the journal {self._path} is of other items: it holds items[{max(beyond)}], and now there are {count}"
            )

    def add(self, number: int, item_digest: str, value: Any) -> None:
        """Append a result.

        Raises:
            FunctionSerializationError: It has no JSON form.
            ConfigurationError: The file cannot be written; what was written of the line is taken back.
        """
        if self._sync_error is not None:
            raise self._not_on_disk()
        start = self._end
        form = encode(value, f"the result of items[{number}]", self._classes)
        self._append({"i": number, "item": item_digest, "result": form})
        self._known[number] = (item_digest, start, self._end - start)
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync_later(), name="aviato-journal")

    def _append(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry, separators=(",", ":"), ensure_ascii=True).encode()
        line = memoryview(b"%08x %b\n" % (zlib.crc32(text), text))
        done = 0
        try:
            while done < len(line):
                done += os.pwrite(self._descriptor, line[done:], self._end + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise ConfigurationError(f"the journal {self._path} cannot be written: {error}") from error
        self._end += done

    async def _sync_later(self) -> None:
        pause = SYNC_SECONDS
        while self._end > self._synced and self._sync_error is None:
            await asyncio.sleep(pause)
            began = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(None, self._sync)
            pause = max(0.0, SYNC_SECONDS - (time.monotonic() - began))  # for what was added meanwhile

    def _sync(self) -> None:
        """On a thread: bring what was appended to the disk."""
        with self._lock:
            end = self._end
            if end <= self._synced or self._descriptor < 0:
                return
            try:
                getattr(os, "fdatasync", os.fsync)(self._descriptor)
            except OSError as error:
                self._sync_error = error  # the system may say so only once
            else:
                self._synced = end

    def _not_on_disk(self) -> ConfigurationError:
        error = ConfigurationError(
            f"the journal {self._path} could not be brought to the disk: {self._sync_error}",
            hint="Results since the last one that was may be missing from it; their items run again.",
        )
        error.__cause__ = self._sync_error
        return error

    async def close(self) -> None:
        """Bring everything to the disk and let the file go, also when cancelled.

        Raises:
            ConfigurationError: The disk did not take it.
        """
        task, self._syncing = self._syncing, None
        if task is not None:
            task.cancel()  # a thread of it that runs is waited for by the next one
        await until_done(asyncio.get_running_loop().run_in_executor(None, self._close))
        if self._sync_error is not None:
            raise self._not_on_disk()

    def _close(self) -> None:
        self._sync()
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1


async def until_done(future: asyncio.Future[_T]) -> _T:
    """Wait until a future is done, also when cancelled, which is raised then, and return its result."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # it is not told: the cancellation comes first
        raise cancelled
    return future.result()


def _checked(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds, or None when it is not whole."""
    if len(line) <= _HEX + 1 or not line.endswith(b"\n"):
        return None
    text = line[_HEX + 1 : -1]
    if line[: _HEX + 1] != b"%08x " % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
