"""By what the items of a journal are known again: digests that are the same in every process."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

from aviato.aio.shipping.inside.carried import pack
from aviato.aio.shipping.inside.gathered import HEADER, read_header
from aviato.aio.shipping.inside.refused import NotCarried
from aviato.exceptions import FunctionSerializationError

_SETS = {"$set", "$frozenset"}
_BLOBS = {"$str", "$bytes", "$bytearray", "$ndarray", "$numpy", "$pandas", "$polars", "$pyarrow"}
"""Tags whose only part is the number of a blob."""


def digest(item: Any, number: int, classes: Sequence[Any] = ()) -> str:
    """Return the digest by which an item is known again.

    Raises:
        FunctionSerializationError: It could not travel as an argument either; the message has the path.
    """
    return hashlib.sha256(_canonical(packed(item, f"items[{number}]", classes))).hexdigest()[:32]


def _canonical(data: bytes) -> bytes:
    """Return a packed value such that equal ones are the same in every process.

    Sets, which have another order in each, are given one; for that, blobs stand in them by their content and not by
    their number.
    """
    tagged, count, length = read_header(data)
    start = HEADER.size + 8 * count
    text = data[start : start + length]
    if not tagged:
        return text
    blobs: list[str | None] = []
    at = start + length
    for size in struct.unpack_from(f"<{count}Q", data, HEADER.size):
        blobs.append(hashlib.sha256(memoryview(data)[at : at + size]).hexdigest())
        at += size
    document = json.loads(text)
    found, tags = [document], []
    while found:
        part = found.pop()
        if isinstance(part, dict):
            found += part.values()
        elif isinstance(part, list):
            found += part
            if part and isinstance(part[0], str) and part[0] in _BLOBS:
                number = part[1]
                part[1], blobs[number] = blobs[number], None
            elif part and isinstance(part[0], str) and part[0] in _SETS:
                tags.append(part)
    for part in reversed(tags):  # what is inside comes before what is around it
        part[1:] = sorted(part[1:], key=_written)
    return _written([document, [blob for blob in blobs if blob is not None]]).encode()


def _written(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def packed(value: Any, path: str, classes: Sequence[Any]) -> bytes:
    """Return a value as the bytes in which it travels.

    Raises:
        FunctionSerializationError: It cannot travel; the message has the path of the part.
    """
    try:
        return b"".join(pack(value, path, classes))
    except NotCarried as error:
        raise FunctionSerializationError(
            f"a journal cannot keep it: {error}", hint="Give plain values, or no journal."
        ) from error
