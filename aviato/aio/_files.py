"""File transfers: what travels between the caller's data and the channel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from aviato import validation

if TYPE_CHECKING:
    from aviato.agent.channel import Channel
    from aviato.aio._life import Life

_SLICE = 256 * 1024


def check_data(path: str, data: object) -> AsyncIterable[bytes]:
    """Take the content of a whole file.

    Raises:
        TypeError: It is neither bytes nor str, or the path is not a string.
        ValueError: The path is not absolute.
    """
    validation.absolute_path("path", path)
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes or str, not {data!r}; for pieces use write_file_streaming()")
    return _slices(memoryview(data))


def check_pieces(path: str, data: object) -> AsyncIterable[bytes]:
    """Take bytes, or an iterable of them of either kind.

    Raises:
        TypeError: It is something else, or the path is not a string.
        ValueError: The path is not absolute.
    """
    validation.absolute_path("path", path)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _slices(memoryview(data))
    if isinstance(data, AsyncIterable):
        return _checked_async(data)
    if isinstance(data, Iterable) and not isinstance(data, str):
        return _checked(data)
    raise TypeError(f"data must be bytes or an iterable of bytes, not {data!r}")


async def _slices(view: memoryview) -> AsyncIterator[bytes]:
    view = view.cast("B")
    for start in range(0, len(view), _SLICE):
        yield bytes(view[start : start + _SLICE])


async def _checked(pieces: Iterable[Any]) -> AsyncIterator[bytes]:
    for piece in pieces:
        async for part in _piece(piece):
            yield part


async def _checked_async(pieces: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        async for part in _piece(piece):
            yield part


def _piece(piece: Any) -> AsyncIterator[bytes]:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must give bytes, not {piece!r}")
    return _slices(memoryview(piece))


async def write(channel: Channel, path: str, pieces: AsyncIterable[bytes]) -> int:
    """Write a file and give its size; errors as `Channel.write_file`."""
    return await channel.write_file(str(path), pieces)


async def read(channel: Channel, path: str) -> bytes:
    """Read a whole file; errors as `Channel.read_file`."""
    return b"".join([piece async for piece in channel.read_file(validation.absolute_path("path", path))])


class FileSource:
    """The pieces of a file for a `StreamReader`; the transfer begins with the first."""

    def __init__(self, life: Life, path: str) -> None:
        self._life = life
        self._path = path
        self._pieces: AsyncGenerator[bytes, None] | None = None

    async def next_items(self) -> list[bytes]:
        """Return the next piece, `[]` at the end."""
        if self._pieces is None:
            self._pieces = (await self._life.ready()).read_file(self._path)
        async for piece in self._pieces:
            return [piece]
        return []

    async def close(self) -> None:
        """End the transfer."""
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            await pieces.aclose()
