"""The formats of numpy: an array in a file (.npy), and several in a zip archive (.npz).

Specification: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header of
an array is a literal of Python, which is read as such and not evaluated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from parimend.dtypes import DTYPES
from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import MOST_BYTES, Entry
from parimend.formats.listed import Listed
from parimend.formats.reading import Reader
from parimend.formats.zipped import STORED, members

ARRAY = "array"
"""Name of the only tensor of an .npy file."""
_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_VERSIONS = MappingProxyType({(1, 0): 2, (2, 0): 4, (3, 0): 4})  # and bytes of the length
_MOST_HEADER = 10_000  # bytes; numpy reads no longer ones either
_OF_NUMPY = {
    dtype.numpy.str: name
    for name, dtype in DTYPES.items()
    if dtype.numpy.isbuiltin == 1 and dtype.family != "block"
}
_LONG = re.compile(r"(?<=\d)L(?=[,)])")  # integers as Python 2 wrote them
_OPAQUE = re.compile(r"[<>|=][a-zA-Z][0-9]*(\[[a-zA-Z0-9]+\])?")


class Npy(Listed):
    """Files of one array. An array that lies column by column has its dimensions turned round.

    >>> import tempfile, numpy
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     numpy.save(file, numpy.ones((2, 3), numpy.float32))
    ...     file.flush()
    ...     Npy().parse(file, "example").entries
    (Entry(name='array', dtype='F32', shape=(2, 3), begin=128, end=152),)
    """

    name = "npy"
    suffix = _SUFFIX
    loads = "numpy"

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        reader = Reader(file, name, 0, size)
        if reader.again().take(min(len(_MAGIC), size)) != _MAGIC:
            raise AnotherFormatError(f"{name} is no array of numpy")
        yield _array(reader, ARRAY)


class Npz(Listed):
    """Archives of arrays. Those that are compressed are protected as the bytes that are there.

    So is an archive without any.
    """

    name = "npz"
    suffix = ".npz"
    loads = "numpy"

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        found = members(file, size, name)
        if found and not any(member.name.endswith(_SUFFIX) for member in found):
            raise AnotherFormatError(f"{name} is no archive of arrays: no member is called *.npy")
        for member in found:
            title = member.name.removesuffix(_SUFFIX)
            if member.method != STORED:
                yield member.compressed(title)
            elif title != member.name:
                yield _array(Reader(file, name, member.begin, member.end), title)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a dtype, or in numpy's letters if it has none.

    Args:
        dtype: little-endian.

    Example:
        >>> dtype_name(np.dtype("<f4")), dtype_name(np.dtype("<U3"))
        ('F32', '<U3')
        >>> dtype_name(np.dtype([("x", "<f4"), ("n", "<i8")]))
        "[('x', '<f4'), ('n', '<i8')]"
    """
    return _OF_NUMPY.get(dtype.str, dtype.str) if dtype.names is None else str(dtype.descr)


def _array(reader: Reader, title: str) -> Entry:
    """The array that a reader is at, whose data go to the end."""
    descr, is_turned, shape = _header(reader, title)
    begin, size = reader.at, reader.end - reader.at
    dtype = _OF_NUMPY.get(descr, descr)
    takes = math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else size
    if size >= takes + len(_MAGIC):
        reader.skip(takes)
        if reader.take(len(_MAGIC)) == _MAGIC:
            raise AnotherFormatError(
                f"{reader.name} has several arrays, one after the other, of which numpy.load gives "
                "the first: save them with numpy.savez, or call the file something.bin, which is "
                "protected as bytes"
            )
    if size != takes:
        raise FormatError(
            f"{reader.name} is damaged or truncated: {title} is {dtype} {list(shape)}, and has "
            f"{size} bytes"
        )
    return Entry(title, dtype, shape[::-1] if is_turned else shape, begin, reader.end)


def _header(reader: Reader, title: str) -> tuple[str, bool, tuple[int, ...]]:
    """The dtype in numpy's letters, whether the order is that of Fortran, and the shape."""
    name = reader.name
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise FormatError(f"{name} is damaged: {title} is no array of numpy")
    major, minor = reader.take(2)
    if (major, minor) not in _VERSIONS:
        raise FormatError(
            f"{name}: {title} is an array of format version {major}.{minor}, or damaged; this "
            "parimend knows 1.0 to 3.0: install a newer one, or fetch it again"
        )
    length = int.from_bytes(reader.take(_VERSIONS[major, minor]), "little")
    if length > _MOST_HEADER:
        raise FormatError(
            f"{name}: the header of {title} has {length} bytes, and numpy reads {_MOST_HEADER}: it "
            "is damaged, or has very many fields (then call the file something.bin, which is "
            "protected as bytes)"
        )
    from ast import literal_eval  # nothing else needs it

    text = reader.take(length).decode("utf-8" if major == 3 else "latin-1", "replace")
    text = _LONG.sub("", text)
    try:
        return _facts(literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError):
        raise FormatError(f"{name} is damaged: {title} has no readable header") from None


def _facts(header: Any) -> tuple[str, bool, tuple[int, ...]]:
    descr, shape = header["descr"], header["shape"]
    # An array of objects is a pickle, and one of records is taken as its bytes.
    text = descr if isinstance(descr, str) and _OPAQUE.fullmatch(descr) else "RECORDS"
    if not isinstance(shape, tuple) or any(
        type(n) is not int or not 0 <= n <= MOST_BYTES for n in shape
    ):
        raise ValueError("no shape")
    return text, header["fortran_order"] is True, shape
