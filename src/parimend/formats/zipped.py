"""What is in a zip archive, and where.

Specification: APPNOTE.TXT of PKWARE, with the records of zip64. The central directory at the end of
the file lists the members; behind the local header of each lie its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import Entry
from parimend.formats.reading import Reader

STORED = 0
"""The method of members that lie in the archive as they are."""

_LOCAL, _CENTRAL, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_END64, _LOCATOR = b"PK\6\6", b"PK\6\7"
_MOST_COMMENT = (1 << 16) - 1
_MOST_MEMBERS = 1 << 18
_END_OF = struct.Struct("<4s4HIIH")
_LOCATOR_OF = struct.Struct("<4sIQI")
_END64_OF = struct.Struct("<4sQHHIIQQQQ")
_CENTRAL_OF = struct.Struct("<4s6H3I5HII")
_LOCAL_OF = struct.Struct("<4s5H3I2H")
_LARGE = (1 << 32) - 1  # stands in the extra field, as a number of 64 bits
_EXTRA64 = 1
_FIELD = struct.Struct("<HH")
_UTF8 = 0x800


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: with the folders it is in.
        method: by which it is compressed; see `STORED`.
        crc: CRC-32 of its content, as listed.
        begin, end: its bytes in the archive.
    """

    name: str
    method: int
    crc: int
    begin: int
    end: int

    def compressed(self, name: str) -> Entry:
        """A tensor of the bytes that are there, of a member that is not `STORED`."""
        return Entry(name, "COMPRESSED", (self.end - self.begin,), self.begin, self.end)


def members(file: BinaryIO, size: int, name: str) -> list[Member]:
    """The members of an archive of ``size`` bytes, in the order of its directory.

    Args:
        file: open for reading.
        size: bytes of the file.
        name: of the file, for messages.

    Raises:
        AnotherFormatError: if it does not begin as an archive, or something stands before it, as
            where several archives follow each other.
        FormatError: if it begins as one, and its directory is missing or makes no sense.
    """
    # One without members is the end of a directory alone.
    if Reader(file, name, 0, size).take(min(4, size)) not in (_LOCAL, _END):
        raise AnotherFormatError(f"{name} is no zip archive")
    try:
        start, end, count, before = _directory(file, size, name)
        reader = Reader(file, name, start, end)
        listed = [_listed(reader) for _ in range(count)]
        if reader.at != end:
            raise FormatError("something follows the last member")
        # Headers lie far from each other.
        first = Reader(file, name, 0, size, ahead=_LOCAL_OF.size)
        found = [_placed(first.again(), before, *each) for each in listed]
    except FormatError as error:
        raise FormatError(
            f"{name} is a zip archive whose directory is broken, or it is truncated ({error}): "
            "fetch it again"
        ) from None
    if before:
        raise AnotherFormatError(f"{name} has {before} bytes in front of the archive")
    return found


def _directory(file: BinaryIO, size: int, name: str) -> tuple[int, int, int, int]:
    """Where the central directory begins and ends, how many members it lists, and how many bytes
    stand before the archive, from whose beginning places in it count.
    """
    start = max(size - _END_OF.size - _MOST_COMMENT, 0)
    tail = Reader(file, name, start, size).take(size - start)
    at = tail.rfind(_END)
    while at >= 0 and not _is_end(tail, at):
        at = tail.rfind(_END, 0, at)
    if at < 0:
        raise FormatError("there is no end of a directory")
    _, _, _, _, count, length, begin, _ = _END_OF.unpack_from(tail, at)
    at64 = at - _LOCATOR_OF.size - _END64_OF.size
    if at64 >= 0 and tail[at64 + _END64_OF.size :].startswith(_LOCATOR):
        mark, *_, count, length, begin = _END64_OF.unpack_from(tail, at64)
        if mark != _END64:
            raise FormatError("there is no end of a directory of 64 bits")
        at = at64
    end = start + at
    before = end - length - begin
    if not 0 <= before <= size or count > _MOST_MEMBERS:
        raise FormatError(f"{count} members are listed in {length} bytes from byte {begin} on")
    return end - length, end, count, before


def _is_end(tail: bytes, at: int) -> bool:
    """Whether the file ends with the comment of the record at ``at``."""
    if at + _END_OF.size > len(tail):
        return False
    return at + _END_OF.size + int(_END_OF.unpack_from(tail, at)[-1]) == len(tail)


def _listed(reader: Reader) -> tuple[str, int, int, int, int]:
    """A member in the directory: name, method, CRC-32, bytes, and the place of its own header."""
    fields = reader.unpack(_CENTRAL_OF)
    mark, _, _, flags, method, _, _, crc, packed, plain, named, more, comment, *_, place = fields
    if mark != _CENTRAL:
        raise FormatError("a member is missing")
    encoding = "utf-8" if flags & _UTF8 else "cp437"
    name = reader.take(named).decode(encoding, "backslashreplace")
    large = _large(reader.take(more))
    reader.skip(comment)
    # Those that are large stand there, in this order.
    _, packed, place = [next(large, 0) if x == _LARGE else x for x in (plain, packed, place)]
    return name, method, crc, packed, place


def _large(extra: bytes) -> Iterator[int]:
    """The numbers in an extra field of zip64."""
    while len(extra) >= _FIELD.size:
        kind, length = _FIELD.unpack_from(extra)
        field = extra[_FIELD.size :][:length]
        extra = extra[_FIELD.size + length :]
        if kind == _EXTRA64:
            yield from (number for (number,) in struct.iter_unpack("<Q", field[: length // 8 * 8]))


def _placed(
    reader: Reader, before: int, name: str, method: int, crc: int, packed: int, place: int
) -> Member:
    """Where a member of the directory is."""
    reader.skip(before + place)
    mark, *_, named, more = reader.unpack(_LOCAL_OF)
    if mark != _LOCAL:
        raise FormatError(f"{name} is not where it should be")
    reader.skip(named + more)
    begin = reader.at
    reader.skip(packed)
    return Member(name, method, crc, begin, reader.at)
