"""What values travel between client and sandbox, and their form; both sides use this module. Python 3.8 and later.

A packed value is a header, the lengths of its blobs, a JSON document in ASCII, and the blobs; see `gathered`.

A document without tags is the value. In one with tags a list that begins with a text that begins with `$` stands for
a value of another kind, `["$tuple", 1, 2]`; a list which happens to begin so is written `["$list", ...]`. Every level
of a value is one level of the document. Bytes, long texts and arrays are blobs, each used once.

Unpacking trusts nothing: any bytes give a value or `BadValue`, with memory in proportion to their number, and nothing
is imported or evaluated by a name that they hold.
"""

from __future__ import annotations

import json
import math
import struct

from aviato.aio.shipping.inside.gathered import HEADER, MAGIC, Gathered, read_header
from aviato.aio.shipping.inside.kinds import LARGE_BITS, LONG_TEXT, PACKERS, find_packer, step_of
from aviato.aio.shipping.inside.makers import MAKERS
from aviato.aio.shipping.inside.refused import BadValue, NotCarried, NotHere, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEPTH_LIMIT = 500
LARGE_INT = 1 << LARGE_BITS

_ENCODER = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"))


def no_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which have a tag."""
    raise BadValue("%s is not JSON" % name)


_DECODER = json.JSONDecoder(parse_constant=no_constant)


def is_scalar(value: Any) -> bool:
    """Tell whether a value is None, a truth value or a number, as JSON writes it."""
    kind = type(value)
    if kind is int:
        return -LARGE_INT < value < LARGE_INT
    return value is None or kind is bool or (kind is float and math.isfinite(value))


def is_plain(value: Any) -> bool:
    """Tell whether a value is JSON as it stands."""
    stack: list[Any] = []
    items = iter((value,))
    while True:
        for item in items:
            kind = type(item)
            if kind is str:
                if len(item) <= LONG_TEXT:
                    continue
                return False
            if kind is int:
                if -LARGE_INT < item < LARGE_INT:
                    continue
                return False
            if kind is float:
                if math.isfinite(item):
                    continue
                return False
            if item is None or kind is bool:
                continue
            if kind is list:
                if item and type(item[0]) is str and item[0][:1] == "$":
                    return False
                stack.append(items)
                items = iter(item)
                break
            if kind is dict:
                for key in item:
                    if type(key) is not str:
                        return False
                stack.append(items)
                items = iter(item.values())
                break
            return False
        else:
            if not stack:
                return True
            items = stack.pop()
            continue
        if len(stack) > DEPTH_LIMIT:
            return False


class Packing:
    """One walk over a value, which makes its document and its blobs."""

    def __init__(self, path: str, classes: Any) -> None:
        self.path = path
        self.classes = classes
        self.pieces: list[Any] = []
        self.sizes: list[int] = []
        self.packers: dict[type, Any] = {}
        self.numbers: dict[int, int] | None = None

    def blob(self, *pieces: Any) -> int:
        """Add a blob of some pieces, bytes or views of bytes, and return its number."""
        self.pieces.extend(pieces)
        self.sizes.append(sum(map(len, pieces)))
        return len(self.sizes) - 1

    def number_of(self, kind: type) -> int | None:
        """Return the number of a class in the table."""
        if self.numbers is None:
            self.numbers = {id(cls): number for number, cls in enumerate(self.classes)}
        return self.numbers.get(id(kind))

    def document(self, value: Any) -> Any:
        """Return the value's document.

        Raises:
            NotCarried: Some part of it cannot travel.
        """
        root = [None]
        stack: list[Any] = [(value, root, 0, None)]  # what, where its document goes, and the chain of what holds it
        while stack:
            item, out, key, above = stack.pop()
            kind = type(item)
            packer = self.packers.get(kind)
            if packer is None:
                packer = PACKERS.get(kind) or find_packer(kind, self)
                if type(packer) is str:
                    raise NotCarried("%s is of type %s" % (self.path_of(above, key), packer))
                self.packers[kind] = packer
            try:
                made = packer(item, self)
            except NotCarried as error:
                raise NotCarried("%s %s" % (self.path_of(above, key), error)) from None
            out[key] = made
            kind = type(made)
            if kind is not list and kind is not dict:
                continue
            node = None
            for position, part in enumerate(made) if kind is list else made.items():
                inner = type(part)
                if inner is str and len(part) <= LONG_TEXT or part is None or inner is bool:
                    continue
                if inner is int and -LARGE_INT < part < LARGE_INT or inner is float and math.isfinite(part):
                    continue
                if node is None:
                    self.check_above(item, above, key)
                    node = (above, key, item, made, 1 if above is None else above[4] + 1)
                stack.append((part, made, position, node))
        return root[0]

    def check_above(self, item: Any, above: Any, key: Any) -> None:
        """Refuse a circle, and what is too deep."""
        node = above
        while node is not None:
            if node[2] is item:
                raise NotCarried("%s contains itself" % self.path_of(node[0], node[1]))
            node = node[0]
        if above is not None and above[4] >= DEPTH_LIMIT:
            where = self.path_of(above, key)
            raise NotCarried("%s... is nested more than %d deep" % (where[:200], DEPTH_LIMIT))

    def path_of(self, node: Any, key: Any) -> str:
        """Return the path of the part that is packed at `key` in what a node of the chain stands for."""
        steps = []
        while node is not None:
            steps.append(step_of(node[2], node[3], key))
            key = node[1]
            node = node[0]
        text = self.path + "".join(reversed(steps))
        return text if self.path else text.lstrip(".")


def pack(value: Any, path: str, classes: Any) -> list[Any]:
    """Return a value as pieces, bytes or views of bytes, to be written one after another.

    The views are of the value's own memory, so it must not change before they are written.

    Raises:
        NotCarried: Some part of it cannot travel; the text begins with the part's path, which begins with `path`.
    """
    if is_scalar(value):
        text = b"null" if value is None else repr(value).lower().encode("ascii")
        return [HEADER.pack(MAGIC, 0, 0, len(text)) + text]
    packing = Packing(path, classes)
    try:
        plain = is_plain(value)
        document = value if plain else packing.document(value)
        text = _ENCODER.encode(document).encode("ascii")
    except NotCarried:
        raise
    except Exception as error:  # changed meanwhile, the caller's stack is full, or a class of the user's failed
        raise NotCarried("%s cannot be written: %s" % (path or "the value", said(error))) from error
    head = HEADER.pack(MAGIC, 0 if plain else 1, len(packing.sizes), len(text))
    lengths = struct.pack("<%dQ" % len(packing.sizes), *packing.sizes)
    return [head + lengths + text, *packing.pieces]


class Unpacking:
    """One value that is made from bytes."""

    def __init__(self, blobs: list[Any], classes: Any) -> None:
        self.blobs = blobs
        self.classes = classes
        self.fields: dict[type, Any] = {}

    def blob(self, number: Any) -> Any:
        """Return a blob; each can be had once, so that few bytes never become many."""
        if type(number) is not int or not 0 <= number < len(self.blobs) or self.blobs[number] is None:
            raise BadValue("there is no blob %.20r, or it is used twice" % (number,))
        found = self.blobs[number]
        self.blobs[number] = None
        return found

    def cls(self, number: Any) -> Any:
        """Return a class of the table."""
        if type(number) is not int or not 0 <= number < len(self.classes):
            raise BadValue("there is no class %.20r" % (number,))
        found = self.classes[number]
        if type(found) is str:
            raise NotHere(found)
        if not isinstance(found, type):
            raise BadValue("number %d is no class" % number)
        return found

    def value(self, document: Any) -> Any:
        """Return what a document with tags stands for."""
        holder = [document]
        tags = []
        stack: list[Any] = [(holder, 0, 0)]
        while stack:
            out, key, depth = stack.pop()
            item = out[key]
            kind = type(item)
            if kind is list:
                if item and type(item[0]) is str and item[0][:1] == "$":
                    tags.append((out, key))
                parts: Any = enumerate(item)
            elif kind is dict:
                parts = item.items()
            else:
                continue
            if depth > DEPTH_LIMIT:
                raise BadValue("it is nested more than %d deep" % DEPTH_LIMIT)
            for position, part in parts:
                if type(part) is list or type(part) is dict:
                    stack.append((item, position, depth + 1))
        while tags:  # what is inside comes before what is around it
            out, key = tags.pop()
            item = out[key]
            maker = MAKERS.get(item[0])
            if maker is None:
                raise BadValue("the tag %.20r is not known" % item[0])
            try:
                out[key] = maker(item, self)
            except BadValue:
                raise
            except Exception as error:
                raise BadValue("a %s that cannot be made: %s" % (item[0][1:], said(error))) from error
        return holder[0]


def too_deep(value: Any) -> bool:
    """Tell whether JSON is nested deeper than a value may be."""
    level = [value]
    for _ in range(DEPTH_LIMIT + 2):
        level = [
            part
            for item in level
            if type(item) is list or type(item) is dict
            for part in (item if type(item) is list else item.values())
            if type(part) is list or type(part) is dict
        ]
        if not level:
            return False
    return True


def unpack(data: Any, classes: Any, most: int = 1 << 62) -> Any:
    """Return the value that `pack` made bytes of; bytes, bytearray, a view of bytes or all parts of it are given.

    Raises:
        BadValue: They are no value, or one of which more than `most` bytes are JSON.
        NotHere: This side lacks a package or class which the value needs.
    """
    head, blobs = (data.parts[0], data.parts[1:]) if type(data) is Gathered else (data, None)
    view = memoryview(head)
    tagged, count, length = read_header(view)
    start = HEADER.size + 8 * count
    end = start + length
    if end > len(view):
        raise BadValue("it is cut off")
    if length > most:
        raise BadValue("%d bytes of it are not bytes, text or arrays, and at most %d are taken" % (length, most))
    sizes = struct.unpack_from("<%dQ" % count, view, HEADER.size)
    if end + sum(sizes) != len(data):
        raise BadValue("it has %d bytes and not %d" % (len(data), end + sum(sizes)))
    try:
        text = str(view[start:end], "ascii")
        document, read = _DECODER.scan_once(text, 0)
        if read != length:
            raise BadValue("something follows its JSON")
        nested = text.count("[") + text.count("{") > DEPTH_LIMIT
        del text
        if not tagged:
            if nested and too_deep(document):
                raise BadValue("it is nested more than %d deep" % DEPTH_LIMIT)
            return document
        if blobs is None:
            blobs = []
            for size in sizes:
                blobs.append(view[end : end + size])
                end += size
        return Unpacking(blobs, classes).value(document)
    except BadValue:
        raise
    except RecursionError as error:
        raise BadValue("it is nested too deep") from error
    except (ValueError, StopIteration) as error:
        raise BadValue("it is not JSON in ASCII: %.300s" % error) from error
