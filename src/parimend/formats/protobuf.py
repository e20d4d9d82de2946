"""The fields of a protobuf message, with their places.

Encoding: https://protobuf.dev/programming-guides/encoding. What is inside a field is read when it
is asked for, so that large ones are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from parimend.errors import FormatError
from parimend.formats.reading import Reader

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types."""
_BITS = 7
_MOST_BITS = 64


def varint(reader: Reader) -> int:
    """A number of as many bytes as it needs.

    Raises:
        FormatError: if it is too large, or the message ends.
    """
    number = 0
    for shift in range(0, _MOST_BITS, _BITS):
        byte = reader.byte()
        number |= (byte & 127) << shift
        if byte < 128:
            return number
    raise FormatError(f"{reader.name} is damaged: the number at byte {reader.at} has no end")


def fields(reader: Reader) -> Iterator[tuple[int, int | Reader]]:
    """Every field of a message: its number, and its value.

    Args:
        reader: of the message.

    Returns:
        Of a varint its value; of anything else a reader of its bytes.

    Raises:
        FormatError: if it is no message.
    """
    while reader.at < reader.end:
        tag = varint(reader)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            yield number, varint(reader)
        elif wire == DELIMITED:
            yield number, reader.within(varint(reader))
        elif wire in (FIXED32, FIXED64):
            yield number, reader.within(4 if wire == FIXED32 else 8)
        else:
            raise FormatError(f"{reader.name} is damaged: a field ends at byte {reader.at}")
