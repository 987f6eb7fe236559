"""The kinds of values beyond JSON: how each is written as a list with a tag, and made from one. Python 3.8 and later.

A packer gets a value and the `Packing`, and returns what stands for it, whose parts are packed after it. A maker gets
that list, its parts made, and the `Unpacking`.
"""

from __future__ import annotations

import enum
import math
import sys

from aviato.aio.shipping.inside.arrays import ARRAY_MAKERS, array_packer
from aviato.aio.shipping.inside.refused import BadValue, NotCarried, NotHere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONG_TEXT = 64 * 1024
"""Characters from which a text is a blob."""
LARGE_BITS = 10000
"""Longer ints are written in hexadecimal: interpreters refuse to read and write much longer decimals."""
FRACTION_BITS = 20000
"""Of each number of a fraction, whose making costs the square of it."""
_FACTORIES = {"int": int, "float": float, "str": str, "bytes": bytes, "bool": bool, "list": list, "tuple": tuple}
_FACTORIES.update({"dict": dict, "set": set, "frozenset": frozenset})
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
    for name, known in [(None, None), *_FACTORIES.items()]:
        if factory is known:
            return ["$defaultdict", name, *flat(value)]
    raise NotCarried("is a defaultdict whose default_factory is not one of %s" % ", ".join(_FACTORIES))


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
    packer = array_packer(kind)
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


def exactly(item: list[Any], *kinds: Any) -> list[Any]:
    """Return what follows a tag, of which number and types are known."""
    if len(item) != len(kinds) + 1:
        raise BadValue("a %s of %d parts" % (item[0][1:], len(item) - 1))
    for part, kind in zip(item[1:], kinds):
        if type(part) is not kind:
            raise BadValue("a %s with a part of type %s" % (item[0][1:], type(part).__name__))
    return item[1:]


def pairs(item: list[Any], start: int) -> Any:
    """Return the keys with their values."""
    if (len(item) - start) % 2:
        raise BadValue("a %s with a key without a value" % item[0][1:])
    return zip(item[start::2], item[start + 1 :: 2])


def make_int(item: list[Any], unpacking: Any) -> int:
    (text,) = exactly(item, str)
    return int(text, 16)


def make_float(item: list[Any], unpacking: Any) -> float:
    (text,) = exactly(item, str)
    if text not in ("nan", "inf", "-inf"):
        raise BadValue("a float that is not nan, inf or -inf")
    return float(text)


def make_complex(item: list[Any], unpacking: Any) -> complex:
    for part in item[1:]:
        if type(part) not in (float, int):
            raise BadValue("a complex number with a part of type %s" % type(part).__name__)
    real, imag = item[1:]
    return complex(real, imag)


def make_range(item: list[Any], unpacking: Any) -> range:
    return range(*exactly(item, int, int, int))


def checked_zone(zone: Any) -> Any:
    import datetime

    if zone is not None and not isinstance(zone, datetime.tzinfo):
        raise BadValue("a time zone of type %s" % type(zone).__name__)
    return zone


def make_datetime(item: list[Any], unpacking: Any) -> Any:
    import datetime

    numbers = exactly(item[:-1], *[int] * 8)
    return datetime.datetime(*numbers[:7], fold=numbers[7], tzinfo=checked_zone(item[-1]))


def make_date(item: list[Any], unpacking: Any) -> Any:
    import datetime

    return datetime.date(*exactly(item, int, int, int))


def make_time(item: list[Any], unpacking: Any) -> Any:
    import datetime

    numbers = exactly(item[:-1], *[int] * 5)
    return datetime.time(*numbers[:4], fold=numbers[4], tzinfo=checked_zone(item[-1]))


def make_timedelta(item: list[Any], unpacking: Any) -> Any:
    import datetime

    return datetime.timedelta(*exactly(item, int, int, int))


def make_timezone(item: list[Any], unpacking: Any) -> Any:
    import datetime

    offset, *name = exactly(item, *[datetime.timedelta, str][: len(item) - 1])
    return datetime.timezone.utc if not offset and not name else datetime.timezone(offset, *name)


def make_zone(item: list[Any], unpacking: Any) -> Any:
    (key,) = exactly(item, str)
    if not key or len(key) > 100 or not key.replace("/", "").replace("-", "").replace("+", "").isidentifier():
        raise BadValue("%.100r is no time zone" % key)
    try:
        import zoneinfo
    except ImportError:
        raise NotHere("a zoneinfo time zone needs Python 3.9 or later, here is %d.%d" % sys.version_info[:2]) from None
    try:
        return zoneinfo.ZoneInfo(key)
    except Exception:
        raise NotHere("the time zone %r is not known here; the package tzdata has all" % key) from None


def make_uuid(item: list[Any], unpacking: Any) -> Any:
    import uuid

    return uuid.UUID(hex=exactly(item, str)[0])


def make_decimal(item: list[Any], unpacking: Any) -> Any:
    import decimal

    return decimal.Decimal(exactly(item, str)[0])


def make_fraction(item: list[Any], unpacking: Any) -> Any:
    import fractions

    numbers = exactly(item, int, int)
    if max(number.bit_length() for number in numbers) > FRACTION_BITS:
        raise BadValue("a fraction of numbers with more than %d bits" % FRACTION_BITS)
    return fractions.Fraction(*numbers)


def make_ordereddict(item: list[Any], unpacking: Any) -> Any:
    import collections

    return collections.OrderedDict(pairs(item, 1))


def make_counter(item: list[Any], unpacking: Any) -> Any:
    import collections

    return collections.Counter(dict(pairs(item, 1)))


def make_defaultdict(item: list[Any], unpacking: Any) -> Any:
    import collections

    return collections.defaultdict(None if item[1] is None else _FACTORIES[item[1]], pairs(item, 2))


def make_deque(item: list[Any], unpacking: Any) -> Any:
    import collections

    if item[1] is not None and type(item[1]) is not int:
        raise BadValue("a deque whose maxlen is no int")
    return collections.deque(item[2:], item[1])


def make_path(item: list[Any], unpacking: Any) -> Any:
    import pathlib

    kind, text = exactly(item, str, str)
    if ("pathlib", kind) not in NAMED_PACKERS:
        raise BadValue("a path of the kind %.20r" % kind)
    return getattr(pathlib, kind)(text)


def make_member(item: list[Any], unpacking: Any) -> Any:
    number, name = exactly(item, int, str)
    cls = unpacking.cls(number)
    if not issubclass(cls, enum.Enum) or name not in cls.__members__:
        raise BadValue("%s has no member %.100r" % (cls.__qualname__, name))
    return cls.__members__[name]


def make_flag(item: list[Any], unpacking: Any) -> Any:
    number, value = exactly(item, int, int)
    cls = unpacking.cls(number)
    if not issubclass(cls, enum.Flag):
        raise BadValue("%s is no Flag" % cls.__qualname__)
    return cls(value)


def make_named(item: list[Any], unpacking: Any) -> Any:
    cls = unpacking.cls(item[1])
    if not issubclass(cls, tuple) or len(item) - 2 != len(getattr(cls, "_fields", ())):
        raise BadValue("%s is no named tuple of %d fields" % (cls.__qualname__, len(item) - 2))
    return cls(*item[2:])


def make_object(item: list[Any], unpacking: Any) -> Any:
    cls = unpacking.cls(item[1])
    names = fields_of(cls)
    if type(names) is not dict:
        raise BadValue("%s is not made from fields" % cls.__qualname__)
    given = {}
    for name, value in pairs(item, 2):
        if type(name) is not str or name not in names:
            raise BadValue("%s has no field %.100r" % (cls.__qualname__, name))
        given[names[name]] = value
    return cls(**given)


MAKERS: dict[str, Any] = {
    "$list": lambda item, unpacking: item[1:],
    "$tuple": lambda item, unpacking: tuple(item[1:]),
    "$set": lambda item, unpacking: set(item[1:]),
    "$frozenset": lambda item, unpacking: frozenset(item[1:]),
    "$dict": lambda item, unpacking: dict(pairs(item, 1)),
    "$str": lambda item, unpacking: str(unpacking.blob(*exactly(item, int)), "utf-8", "surrogatepass"),
    "$bytes": lambda item, unpacking: bytes(unpacking.blob(*exactly(item, int))),
    "$bytearray": lambda item, unpacking: bytearray(unpacking.blob(*exactly(item, int))),
    "$int": make_int,
    "$float": make_float,
    "$complex": make_complex,
    "$range": make_range,
    "$datetime": make_datetime,
    "$date": make_date,
    "$time": make_time,
    "$timedelta": make_timedelta,
    "$timezone": make_timezone,
    "$zone": make_zone,
    "$uuid": make_uuid,
    "$decimal": make_decimal,
    "$fraction": make_fraction,
    "$ordereddict": make_ordereddict,
    "$counter": make_counter,
    "$defaultdict": make_defaultdict,
    "$deque": make_deque,
    "$path": make_path,
    "$enum": make_member,
    "$flag": make_flag,
    "$named": make_named,
    "$object": make_object,
    **ARRAY_MAKERS,
}
