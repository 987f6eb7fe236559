"""Data frames of pandas and polars, and tables of pyarrow, as an Arrow stream, which pyarrow writes and reads.

Python 3.8 and later. What comes from untrusted code is checked before pyarrow and pandas make more of it than there is:
no compressed bodies, only types whose values take room in the stream, no buffer for two columns.
"""

from __future__ import annotations

from aviato.aio.shipping.inside.refused import BadValue, NotCarried, NotHere, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST_SAFE_PYARROW = (14, 0, 1)
"""Before it, a stream could make pyarrow unpickle: CVE-2023-47248."""
FLAT = frozenset(
    "null bool int halffloat float double decimal date time timestamp duration"
    " string large_string binary large_binary".split()
)
"""Types without types in them, as Arrow writes them but for signs, widths, units and time zones."""
SPARE_BYTES = 1 << 16


def frame_packer(kind: type) -> Any:
    """Return the packer of a type of pandas, polars or pyarrow, or None."""
    top = str(kind.__module__).partition(".")[0]
    name = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "Table"}.get(top)
    if name is None or getattr(__import__(top), name, None) is not kind:
        return None
    tag = "$" + top
    return lambda value, packing: [tag, packing.blob(memoryview(arrow_stream(top, value)))]


def load_pyarrow() -> Any:
    """Return pyarrow, None when it is not installed or unsafe."""
    try:
        import pyarrow as pa
    except ImportError:
        return None
    numbers = pa.__version__.split(".")[:3]
    return pa if tuple(int(part) if part.isdigit() else 0 for part in numbers) >= FIRST_SAFE_PYARROW else None


def arrow_stream(top: str, value: Any) -> Any:
    """Return a frame as the buffer of an Arrow stream."""
    pa = load_pyarrow()
    if pa is None:
        raise NotCarried("is a data frame, which needs pyarrow 14.0.1 or later")
    try:
        if top == "pandas":
            table = pa.Table.from_pandas(value)
            empty = table.slice(0, 0).to_pandas()
            for name, before, after in zip(value.columns, value.dtypes, empty.dtypes):
                if before != after:
                    raise NotCarried("has the column %.60r, whose values would arrive as %s" % (name, after))
            if not value.columns.equals(empty.columns):
                raise NotCarried("has column names that Arrow cannot carry")
        else:
            table = value if top == "pyarrow" else value.to_arrow()
        for field in table.schema:
            if not carried_type(pa, field.type, top != "pandas"):
                raise NotCarried(
                    "has the column %.60r of the type %s, which cannot be carried" % (field.name, field.type)
                )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()
    except NotCarried:
        raise
    except Exception as error:
        raise NotCarried("cannot be written as Arrow: %s" % said(error)) from error


def carried_type(pa: Any, kind: Any, nested: bool) -> bool:
    """Tell whether a type of Arrow may travel; every value of such a type but null takes room in the stream."""
    if isinstance(kind, pa.BaseExtensionType):
        return False
    types = pa.types
    if types.is_dictionary(kind):
        return carried_type(pa, kind.value_type, False) and not types.is_null(kind.value_type)
    if nested and (types.is_list(kind) or types.is_large_list(kind)):
        return carried_type(pa, kind.value_type, True) and not types.is_null(kind.value_type)
    if nested and types.is_struct(kind):
        return kind.num_fields > 0 and all(
            carried_type(pa, kind.field(index).type, True) and not types.is_null(kind.field(index).type)
            for index in range(kind.num_fields)
        )
    return str(kind).split("[")[0].split("(")[0].rstrip("0123456789").replace("uint", "int") in FLAT


def table_field(data: Any, table: int, number: int) -> int:
    """Return where the value of a field of a flatbuffers table stands, 0 for one that is not there."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    slot = 4 + 2 * number
    if vtable < 0 or slot >= int.from_bytes(data[vtable : vtable + 2], "little"):
        return 0
    offset = int.from_bytes(data[vtable + slot : vtable + slot + 2], "little")
    return table + offset if offset else 0


def follow(data: Any, place: int) -> int:
    """Return the place that the reference at a place leads to."""
    return place + int.from_bytes(data[place : place + 4], "little")


def is_compressed(message: Any) -> bool:
    """Tell whether the body of a message of an Arrow stream is compressed, or may be in the old way, by metadata."""
    data = bytes(message.metadata)
    root = follow(data, 0)
    if table_field(data, root, 4):
        return True
    header = follow(data, table_field(data, root, 2))
    if message.type == "dictionary":
        header = follow(data, table_field(data, header, 1))
    return bool(table_field(data, header, 3))


def arrow_table(item: list[Any], unpacking: Any) -> Any:
    """Return the table of a blob."""
    if len(item) != 2:
        raise BadValue("a frame of %d parts" % (len(item) - 1))
    pa = load_pyarrow()
    if pa is None:
        raise NotHere("a data frame needs pyarrow 14.0.1 or later, which is not installed")
    data = unpacking.blob(item[1])
    copy = pa.py_buffer(bytes(data))  # aligned, and its own
    for message in pa.ipc.MessageReader.open_stream(copy):
        if message.type not in ("schema", "dictionary", "record batch"):
            raise BadValue("an Arrow stream with a %.40s" % message.type)
        if message.type != "schema" and is_compressed(message):
            raise BadValue("an Arrow stream with a compressed body")
    reader = pa.ipc.open_stream(copy)
    for field in reader.schema:
        if not carried_type(pa, field.type, True):
            raise BadValue("an Arrow stream with the type %.100s" % field.type)
    table = reader.read_all()
    table.validate(full=True)
    if table.nbytes > len(data) + SPARE_BYTES or table.num_rows > len(data) + SPARE_BYTES:
        raise BadValue("an Arrow stream of %d bytes for %d rows" % (len(data), table.num_rows))
    return table


def make_pandas(item: list[Any], unpacking: Any) -> Any:
    try:
        import pandas  # noqa: F401 - what the table becomes
    except ImportError as error:
        raise NotHere("a data frame of pandas needs pandas: %s" % error) from error
    return arrow_table(item, unpacking).to_pandas()


def make_polars(item: list[Any], unpacking: Any) -> Any:
    try:
        import polars as pl
    except ImportError as error:
        raise NotHere("a data frame of polars needs polars: %s" % error) from error
    return pl.from_arrow(arrow_table(item, unpacking))


FRAME_MAKERS: dict[str, Any] = {"$pandas": make_pandas, "$polars": make_polars, "$pyarrow": arrow_table}
