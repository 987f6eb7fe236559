"""How each kind of value is made from the list with its tag. Python 3.8 and later.

A maker gets that list, its parts made, and the `Unpacking`. It trusts nothing in them.
"""

from __future__ import annotations

import enum
import sys

from aviato.aio.shipping.inside.arrays import ARRAY_MAKERS
from aviato.aio.shipping.inside.dataframes import FRAME_MAKERS
from aviato.aio.shipping.inside.kinds import FACTORIES, FRACTION_BITS, NAMED_PACKERS, fields_of
from aviato.aio.shipping.inside.refused import BadValue, NotHere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
        raise NotHere(
            "a zoneinfo time zone needs Python 3.9 or later, and this is %d.%d" % sys.version_info[:2]
        ) from None
    try:
        return zoneinfo.ZoneInfo(key)
    except Exception:
        raise NotHere("the time zone %r is not known; the package tzdata has all" % key) from None


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

    return collections.defaultdict(None if item[1] is None else FACTORIES[item[1]], pairs(item, 2))


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
    names = unpacking.fields.get(cls)
    if names is None:
        names = unpacking.fields[cls] = fields_of(cls)
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
    **FRAME_MAKERS,
}
