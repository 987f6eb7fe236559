"""Arrays of numpy as npy bytes, never pickled; numpy is looked at only where it is there. Python 3.8 and later."""

from __future__ import annotations

from aviato.aio.shipping.inside.refused import BadValue, NotCarried, NotHere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def array_packer(kind: type) -> Any:
    """Return the packer of a type of numpy, or None."""
    if str(kind.__module__).partition(".")[0] != "numpy":
        return None
    import numpy

    if kind is numpy.ndarray:
        return lambda value, packing: ["$ndarray", packing.blob(*npy_pieces(numpy, value))]
    if issubclass(kind, numpy.generic):
        return lambda value, packing: ["$numpy", packing.blob(*npy_pieces(numpy, numpy.asarray(value)))]
    return None


def npy_pieces(numpy: Any, array: Any) -> list[Any]:
    """Return an array in the npy format: a header, and a view of its memory."""
    import io

    kind = array.dtype
    header = None
    if not kind.hasobject and kind.kind in "biufcmMSUV":
        described = numpy.lib.format.header_data_from_array_1_0(array)
        if numpy.lib.format.descr_to_dtype(described["descr"]) == kind:
            header = io.BytesIO()
            numpy.lib.format.write_array_header_2_0(header, described)
    if header is None:
        raise NotCarried("is a numpy array of dtype %s, which has no form without pickle" % (kind,))
    if array.size == 0 or kind.itemsize == 0:
        return [header.getvalue()]
    if not array.flags.c_contiguous:
        array = array.T if array.flags.f_contiguous else numpy.ascontiguousarray(array)
    return [header.getvalue(), memoryview(array.reshape(-1).view(numpy.uint8))]


def npy_array(unpacking: Any, item: list[Any]) -> Any:
    """Return the array of a blob; its memory is its own."""
    import io

    if len(item) != 2:
        raise BadValue("an array of %d parts" % (len(item) - 1))
    try:
        import numpy
    except ImportError as error:
        raise NotHere("a numpy array needs numpy: %s" % error) from error
    data = memoryview(unpacking.blob(item[1]))
    head = io.BytesIO(data[:12000])
    if numpy.lib.format.read_magic(head) != (2, 0):
        raise BadValue("an array in another version of the npy format")
    shape, fortran, kind = numpy.lib.format.read_array_header_2_0(head)
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise BadValue("an array with a dimension of %.30r" % (size,))
        count *= size
    body = data[head.tell() :]
    if kind.hasobject or kind.kind not in "biufcmMSUV" or count * kind.itemsize != len(body):
        raise BadValue("an array of dtype %s and shape %.100s in %d bytes" % (kind, shape, len(body)))
    if not len(body):
        return numpy.zeros(shape, kind)
    array = numpy.frombuffer(body, kind).copy()
    return array.reshape(shape, order="F" if fortran else "C")


ARRAY_MAKERS: dict[str, Any] = {
    "$ndarray": lambda item, unpacking: npy_array(unpacking, item),
    "$numpy": lambda item, unpacking: npy_array(unpacking, item)[()],
}
