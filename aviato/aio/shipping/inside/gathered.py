"""How a packed value is laid out, and a large one as its bytes come in. Python 3.8 and later.

    4 bytes  b"AVV1"
    4 bytes  1 when the document has tags, else 0       (all numbers are little endian)
    8 bytes  number of blobs
    8 bytes  length of the document
    8 bytes  length of each blob

The document, JSON in ASCII, and the blobs follow.
"""

from __future__ import annotations

import io
import struct

from aviato.aio.shipping.inside.refused import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAGIC = b"AVV1"
HEADER = struct.Struct("<4sIQQ")
LARGE_BYTES = 4 * 1024 * 1024
"""Values of so many bytes are gathered; smaller ones come in one piece, which costs less."""


def read_header(head: Any) -> tuple[bool, int, int]:
    """Return whether a value has tags, how many blobs, and how many bytes of a document.

    Raises:
        BadValue: It begins like no value.
    """
    if len(head) < HEADER.size:
        raise BadValue("it has %d bytes, less than a header" % len(head))
    magic, tagged, count, length = HEADER.unpack_from(head)
    if magic != MAGIC or tagged > 1:
        raise BadValue("it does not begin as a value does")
    if 8 * count > length:  # each is named in the document, and reading the lengths takes memory
        raise BadValue("%d blobs are more than %d bytes of a document can name" % (count, length))
    return tagged == 1, count, length


class Gathered:
    """A packed value in parts, each in memory of its own: a blob of bytes need not be copied to become the value.

    Attributes:
        missing: How many bytes are still to come.
        parts: When none is missing: the head with the document, and each blob. Of what is no value the parts are any.
    """

    def __init__(self, size: int) -> None:
        self.size = self.missing = size
        self.parts: list[bytes] = []
        self._file = io.BytesIO()
        self._sizes = self._plan()
        self._wanted = next(self._sizes)

    def __len__(self) -> int:
        """Return how many bytes the value has, those that are missing included."""
        return self.size

    def __bytes__(self) -> bytes:
        """Return the value in one piece, as far as it has come."""
        return b"".join(self.parts) + self._file.getvalue()

    def add(self, data: Any) -> None:
        """Take the next bytes, no more than are missing."""
        view = memoryview(data)
        while True:
            piece = view[: self._wanted]
            self._file.write(piece)
            view = view[len(piece) :]
            self.missing -= len(piece)
            self._wanted -= len(piece)
            if self._wanted:
                break
            self._wanted = next(self._sizes)
        if not self.missing and (self._file.tell() or not self.parts):
            self._end_part()

    def _plan(self) -> Iterator[int]:
        """Tell how many bytes to write next, and go on when they are there."""
        yield HEADER.size
        try:
            _, count, length = read_header(self._file.getvalue())
        except BadValue:  # whoever reads the value says so
            yield self.size
            return
        yield 8 * count + length
        for size in struct.unpack_from("<%dQ" % count, self._end_part(), HEADER.size):
            yield size
            self._end_part()
        yield self.size

    def _end_part(self) -> bytes:
        part = self._file.getvalue()  # what has come to be the buffer's content is not copied
        self._file = io.BytesIO()
        self.parts.append(part)
        return part
