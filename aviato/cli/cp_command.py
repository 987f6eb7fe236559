"""`aviato cp`."""
# ruff: noqa: ASYNC240 - the loop has nothing else to do while a file of this machine is opened or renamed

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from aviato.cli import _loop, _options
from aviato.exceptions import SandboxFileError

if TYPE_CHECKING:
    from aviato.aio import Sandbox

CHUNK = 1 << 20
_ONE_FILE = "copies single files; pack a directory with tar and copy that"


@click.command("cp")
@_options.engine_option
@click.argument("source", metavar="LOCAL|ID:REMOTE")
@click.argument("target", metavar="ID:REMOTE|LOCAL")
def command(engine: str | None, source: str, target: str) -> int:
    """Copy a file into or out of a sandbox.

    Files of any size are streamed. The target appears when it is complete, or stays as it was. Directories
    are not copied.
    """
    inside, outside = _split(source), _split(target)
    if (inside is None) == (outside is None):
        raise click.UsageError("exactly one side must be ID:REMOTE, such as sbx-0123456789abcdef:/tmp/x")
    if "-" in (source, target):
        raise click.UsageError("cp knows files only, no standard streams; use exec ID -- cat, or a file named ./-")

    async def body() -> int:
        from aviato.aio import Sandbox  # noqa: PLC0415 - --help does without

        sandbox_id, path = inside or outside or ("", "")
        sandbox = await Sandbox.from_id(sandbox_id, engine=engine)
        try:
            if outside is not None:
                await _upload(sandbox, Path(source), path)
            else:
                await _download(sandbox, path, Path(target))
        except SandboxFileError as error:
            if error.errno in (errno.EISDIR, errno.ENOTEMPTY):
                raise SandboxFileError(
                    f"{error.filepath} is a directory in the sandbox", filepath=error.filepath, hint=f"cp {_ONE_FILE}."
                ) from error
            raise
        return 0

    return _loop.run(body)


def _split(text: str) -> tuple[str, str] | None:
    """Read `ID:REMOTE`; None for a local path."""
    sandbox_id, colon, path = text.partition(":")
    if not colon or not sandbox_id.startswith("sbx-"):
        return None
    if not path.startswith("/"):
        raise click.UsageError(f"{text!r}: the path in the sandbox must be absolute")
    return sandbox_id, path


async def _upload(sandbox: Sandbox, local: Path, remote: str) -> None:
    if local.is_dir():
        raise click.UsageError(f"{local} is a directory; cp {_ONE_FILE}")
    if remote.endswith("/"):
        remote = posixpath.join(remote, local.name)
    try:
        file = local.open("rb")
    except OSError as error:
        raise click.UsageError(f"{local}: {error.strerror}") from error
    with file:
        await sandbox.write_file_streaming(remote, _pieces(file))


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, CHUNK):
        yield piece


async def _download(sandbox: Sandbox, remote: str, local: Path) -> None:
    if remote.endswith("/"):
        raise click.UsageError(f"{remote} is a directory; cp {_ONE_FILE}")
    if local.is_dir():
        local /= posixpath.basename(remote)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{local.name}.", dir=local.parent)
    except OSError as error:
        raise click.UsageError(f"{local}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            async with sandbox.read_file_streaming(remote) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
        Path(temporary).replace(local)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
