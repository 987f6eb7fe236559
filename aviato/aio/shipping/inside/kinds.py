"""The kinds of values beyond JSON, and how each is written as a list with a tag. Python 3.8 and later.

A packer gets a value and the `Packing`, and returns what stands for it, whose parts are packed after it.
"""

from __future__ import annotations

import enum
import math

from aviato.aio.shipping.inside.arrays import array_packer
from aviato.aio.shipping.inside.dataframes import frame_packer
from aviato.aio.shipping.inside.refused import NotCarried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONG_TEXT = 64 * 1024
"""Characters from which a text is a blob."""
LARGE_BITS = 10000
"""Longer ints are written in hexadecimal: interpreters refuse to read and write much longer decimals."""
FRACTION_BITS = 20000
"""Of each number of a fraction, whose making costs the square of it."""
FACTORIES = {"int": int, "float": float, "str": str, "bytes": bytes, "bool": bool, "list": list, "tuple": tuple}
FACTORIES.update({"dict": dict, "set": set, "frozenset": frozenset})
PAIRS = {"$dict": 1, "$ordereddict": 1, "$counter": 1, "$defaultdict": 2}
"""Tags of mappings, and where their keys begin."""
ANNOTATE = "which is not known to the function: annotate the parameter, or the return value, with it"


def flat(mapping: Any) -> list[Any]:
    """Return keys and values in turn."""
    return [part for pair in mapping.items() for part in pair]


def pack_int(value: Any, packing: Any) -> Any:
    return ["$int", hex(value)]


def pack_text(value: Any, packing: Any) -> Any:
    raw = value.encode("utf-8", "surrogatepass")
    return ["$str", packing.blob(raw)]


def pack_list(value: Any, packing: Any) -> Any:
    if value and type(value[0]) is str and value[0][:1] == "$":
        return ["$list", *value]
    return list(value)


def pack_view(value: Any, packing: Any) -> Any:
    if not value.c_contiguous or value.format != "B" or value.ndim != 1:
        raise NotCarried("is a memoryview of more than plain bytes")
    return ["$bytes", packing.blob(value)]


def pack_dict(value: Any, packing: Any) -> Any:
    for key in value:
        if type(key) is not str:
            return ["$dict", *flat(value)]
    return dict(value)


PACKERS: dict[type, Any] = {
    type(None): lambda value, packing: value,
    bool: lambda value, packing: value,
    int: lambda value, packing: value if value.bit_length() <= LARGE_BITS else pack_int(value, packing),
    float: lambda value, packing: value if math.isfinite(value) else ["$float", repr(value)],
    str: lambda value, packing: value if len(value) <= LONG_TEXT else pack_text(value, packing),
    list: pack_list,
    dict: pack_dict,
    tuple: lambda value, packing: ["$tuple", *value],
    set: lambda value, packing: ["$set", *value],
    frozenset: lambda value, packing: ["$frozenset", *value],
    bytes: lambda value, packing: ["$bytes", packing.blob(value)],
    bytearray: lambda value, packing: ["$bytearray", packing.blob(memoryview(value))],
    memoryview: pack_view,
    complex: lambda value, packing: ["$complex", value.real, value.imag],
    range: lambda value, packing: ["$range", value.start, value.stop, value.step],
}
"""By type; of every builtin type that can travel."""


def pack_datetime(value: Any, packing: Any) -> Any:
    numbers = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
    return ["$datetime", *numbers, value.fold, value.tzinfo]


def pack_time(value: Any, packing: Any) -> Any:
    return ["$time", value.hour, value.minute, value.second, value.microsecond, value.fold, value.tzinfo]


def pack_timezone(value: Any, packing: Any) -> Any:
    arguments = value.__getinitargs__()  # the offset, and the name where it was given one
    return ["$timezone", *arguments]


def pack_zone(value: Any, packing: Any) -> Any:
    if value.key is None:
        raise NotCarried("is a time zone without a key")
    return ["$zone", value.key]


def pack_fraction(value: Any, packing: Any) -> Any:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > FRACTION_BITS:
        raise NotCarried("is a fraction of numbers with more than %d bits" % FRACTION_BITS)
    return ["$fraction", value.numerator, value.denominator]


def pack_defaultdict(value: Any, packing: Any) -> Any:
    factory = value.default_factory
    for name, known in [(None, None), *FACTORIES.items()]:
        if factory is known:
            return ["$defaultdict", name, *flat(value)]
    raise NotCarried("is a defaultdict whose default_factory is not one of %s" % ", ".join(FACTORIES))


def pack_path(value: Any, packing: Any) -> Any:
    return ["$path", type(value).__name__, str(value)]


NAMED_PACKERS: dict[tuple[str, str], Any] = {
    ("datetime", "datetime"): pack_datetime,
    ("datetime", "date"): lambda value, packing: ["$date", value.year, value.month, value.day],
    ("datetime", "time"): pack_time,
    ("datetime", "timedelta"): lambda value, packing: ["$timedelta", value.days, value.seconds, value.microseconds],
    ("datetime", "timezone"): pack_timezone,
    ("zoneinfo", "ZoneInfo"): pack_zone,
    ("uuid", "UUID"): lambda value, packing: ["$uuid", value.hex],
    ("decimal", "Decimal"): lambda value, packing: ["$decimal", str(value)],
    ("fractions", "Fraction"): pack_fraction,
    ("collections", "OrderedDict"): lambda value, packing: ["$ordereddict", *flat(value)],
    ("collections", "Counter"): lambda value, packing: ["$counter", *flat(value)],
    ("collections", "defaultdict"): pack_defaultdict,
    ("collections", "deque"): lambda value, packing: ["$deque", value.maxlen, *value],
    ("pathlib", "PurePosixPath"): pack_path,
    ("pathlib", "PureWindowsPath"): pack_path,
    ("pathlib", "PosixPath"): pack_path,
    ("pathlib", "WindowsPath"): pack_path,
}
"""By module and name, so that no module is loaded for a value that is not there."""


def find_packer(kind: type, packing: Any) -> Any:
    """Return the packer of a type that is no builtin; a text when there is none: the type's name and what to do."""
    module, name = str(kind.__module__), str(kind.__qualname__)
    packer = NAMED_PACKERS.get((module.partition(".")[0], name))
    if packer is not None and getattr(__import__(module.partition(".")[0]), name, None) is kind:
        return packer
    packer = array_packer(kind) or frame_packer(kind)
    if packer is not None:
        return packer
    full = "%s.%s" % (module, name)
    if issubclass(kind, enum.Enum):
        make = enum_packer
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        make = named_packer
    elif fields_of(kind) is not None:
        make = object_packer
    else:
        return full + ", which cannot be carried"
    number = packing.number_of(kind)
    if number is None:
        return "%s, %s" % (full, ANNOTATE)
    return make(kind, number)


def enum_packer(kind: Any, number: int) -> Any:
    def pack_member(value: Any, packing: Any) -> Any:
        if isinstance(value, enum.Flag):
            return ["$flag", number, value.value]
        return ["$enum", number, value.name]

    return pack_member


def named_packer(kind: Any, number: int) -> Any:
    return lambda value, packing: ["$named", number, *value]


def fields_of(kind: Any) -> Any:
    """Return the fields that a class's constructor takes, as name to name of the parameter; None when it has none.

    A text says why a class that has fields cannot be made from them.
    """
    if hasattr(kind, "__attrs_attrs__"):
        return {
            field.name: getattr(field, "alias", None) or field.name.lstrip("_")
            for field in kind.__attrs_attrs__
            if field.init
        }
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is None:
        return None
    import dataclasses

    for field in fields.values():
        if field._field_type is dataclasses._FIELD_INITVAR:
            return "has the InitVar %r, which is gone when the object is there" % field.name
    if kind.__init__ is object.__init__ and fields:
        return "has no constructor that takes its fields"
    return {field.name: field.name for field in dataclasses.fields(kind) if field.init}


def object_packer(kind: Any, number: int) -> Any:
    names = fields_of(kind)

    def pack_object(value: Any, packing: Any) -> Any:
        if type(names) is str:
            raise NotCarried("cannot be carried: %s %s" % (kind.__qualname__, names))
        made = ["$object", number]
        for name in names:
            try:
                made += (name, getattr(value, name))
            except AttributeError:
                raise NotCarried("has no value in its field %r" % name) from None
        return made

    return pack_object


def step_of(item: Any, made: Any, key: Any) -> str:
    """Return the step from a value to the part of it that is packed at `made[key]`."""
    if type(made) is dict:
        return ".%s" % key if key.isidentifier() else "[%r]" % key
    tag = made[0] if made and type(made[0]) is str and made[0][:1] == "$" else None
    if tag is None:
        return "[%d]" % key
    if tag in PAIRS:
        name = list(item)[(key - PAIRS[tag]) // 2]
        text = "%.60r" % (name,) if type(name) in (str, int, float, bool, bytes, type(None)) else "..."
        return " (the key %s)" % text if (key - PAIRS[tag]) % 2 == 0 else "[%s]" % text
    if tag == "$object":
        return ".%s" % made[key - 1]
    if tag == "$named":
        return ".%s" % item._fields[key - 2]
    if tag in ("$set", "$frozenset"):
        return "{...}"
    if tag in ("$datetime", "$time"):
        return ".tzinfo"
    return "[%d]" % (key - (2 if tag == "$deque" else 1))
