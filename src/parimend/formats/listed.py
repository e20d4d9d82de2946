"""Formats whose seals keep a list of the tensors, so that no parser is asked again.

The frame, little-endian::

    bytes of the file (u64), length of the list (u32), list,
        all bytes that belong to no tensor, one after the other

A line of the list is a tensor, in the order of their data, as JSON::

    [name, dtype, shape, bytes that belong to no tensor before it, bytes of the tensor]

What follows the last tensor is the rest. So whatever a frame says, every byte of the file belongs
to one tensor or to one span; and parsers may learn more, and old seals are read as ever.
"""

from __future__ import annotations

import json
import os
import struct
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import BinaryIO

from parimend import strict_json
from parimend.errors import FormatError
from parimend.formats.base import MOST_BYTES, Bytes, Entry, Format, Layout
from parimend.formats.header import MAX_LENGTH
from parimend.formats.raw import TENSOR
from parimend.regular import read_at

LONGEST_SPAN = 1 << 24
"""Bytes in a row that belong to no tensor; if they are more, they are a tensor of bytes."""
MOST_AROUND = MAX_LENGTH
"""Bytes that belong to no tensor, in all: as many as the header of a safetensors file may have."""

MOST_TENSORS = 1 << 18
"""Tensors of a file, at most."""

_MOST_LISTED = 1 << 24  # bytes of the list; a tensor takes about 80
_DECODER = strict_json.decoder()
_HEAD = struct.Struct("<QI")


class Listed(Format):
    """Files of named tensors that a parser finds once, when they are protected.

    A derived class says in `_tensors` what it finds. Of tensors that share bytes the first has
    them, the longest if several begin there, and the others are not listed. Where there are none,
    all of the file is one tensor of bytes.
    """

    def parse(self, file: BinaryIO, name: str) -> Layout:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise FormatError(f"{name} is empty: there is nothing in it to protect")
        found = _apart(islice(self._tensors(file, size, name), MOST_TENSORS + 1))
        if not any(entry.end > entry.begin for entry in found):
            found = [Entry(TENSOR, "U8", (size,), 0, size)]
        if (last := found[-1]).end > size:
            raise FormatError(
                f"{name} is truncated: it has {size} bytes, and {last.name} ends at {last.end}"
            )
        return self.unfold(_fold(file, size, _distinct(_filled(found, size)), name), name)

    @abstractmethod
    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterable[Entry]:
        """The tensors of a file of ``size`` bytes, in any order; see `parse`."""

    def unfold(self, frame: Bytes, name: str) -> Layout:
        try:
            return self._unfold(memoryview(frame), frame)
        except (ValueError, TypeError, RecursionError, struct.error) as error:
            raise FormatError(f"{name} is no list of the tensors of a file: {error}") from None

    def _unfold(self, view: memoryview, frame: Bytes) -> Layout:
        size, length = _HEAD.unpack_from(view)
        lines, around = view[_HEAD.size :][:length], view[_HEAD.size + length :]
        entries: list[Entry] = []
        spans: list[tuple[int, Bytes]] = []
        at = 0

        def skip(count: int) -> None:
            nonlocal at, around
            if count > len(around):
                raise ValueError("it is shorter than it says")
            if count:
                spans.append((at, around[:count]))
            at, around = at + count, around[count:]

        for line in _lines(lines, length):
            gap, entry = _read(line, at)
            skip(gap)
            entries.append(entry)
            at = entry.end
        skip(len(around))
        if not 0 < at == size <= MOST_BYTES:
            raise ValueError("it is not of the size that it says")
        if len({entry.name for entry in entries}) != len(entries):
            raise ValueError("two tensors have one name")
        return Layout(self, tuple(entries), at, frame, tuple(spans))


def _apart(found: Iterable[Entry]) -> list[Entry]:
    """Entries in the order of their data, without those that share bytes with one before."""
    apart: list[Entry] = []
    end = 0
    # What has no bytes shares none.
    for entry in sorted(found, key=lambda e: (e.begin, e.end > e.begin, -e.end)):
        if entry.begin >= end:
            apart.append(entry)
            end = entry.end
    return apart


def _filled(entries: Sequence[Entry], size: int) -> Iterator[Entry]:
    """The same, with what is too long to be kept in the seal as tensors of bytes."""
    at = 0
    for entry in (*entries, None):
        begin = entry.begin if entry else size
        if begin - at > LONGEST_SPAN:
            yield Entry(f"bytes@{at}", "U8", (begin - at,), at, begin)
        if entry:
            yield entry
            at = entry.end


def _distinct(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same, each with a name of its own."""
    names: set[str] = set()
    for entry in entries:
        # Half a surrogate pair is no text.
        name = (entry.name or "unnamed").encode(errors="backslashreplace").decode()
        name += f"@{entry.begin}" if name in names else ""
        while name in names:
            name += f"#{len(names)}"
        names.add(name)
        yield entry._replace(name=name)


def _fold(file: BinaryIO, size: int, entries: Iterable[Entry], name: str) -> bytes:
    """The frame of a file with these tensors."""
    lines, gaps, at = [], [], 0
    for entry in entries:
        described = [*entry[:3], entry.begin - at, entry.end - entry.begin]
        lines.append(json.dumps(described, separators=(",", ":")).encode())
        gaps.append((at, entry.begin - at))
        at = entry.end
    gaps.append((at, size - at))
    listed, around = b"\n".join(lines), sum(count for _, count in gaps)
    if len(lines) > MOST_TENSORS or len(listed) > _MOST_LISTED or around > MOST_AROUND:
        raise FormatError(
            f"{name} has {len(lines)} tensors and {around} bytes around them, too many for a seal: "
            "pack it into an archive that is no zip file, and protect that"
        )
    pieces = (read_at(file, at, count).tobytes() for at, count in gaps)
    return _HEAD.pack(size, len(listed)) + listed + b"".join(pieces)


def _lines(view: memoryview, length: int) -> Iterator[bytes]:
    """The lines of a list, one after the other: in all they would take much memory."""
    if length != len(view) or length > _MOST_LISTED:
        raise ValueError("it is shorter than it says, or too long")
    text, at = bytes(view), 0
    while at < length:
        end = text.find(b"\n", at)
        end = length if end < 0 else end
        yield text[at:end]
        at = end + 1


def _read(line: bytes, at: int) -> tuple[int, Entry]:
    """What a line says: the bytes before the tensor, which are at ``at``, and the tensor."""
    name, dtype, shape, gap, size = _DECODER.decode(str(line, "utf-8"))
    if not isinstance(shape, list) or any(
        type(number) is not int or not 0 <= number <= MOST_BYTES for number in (*shape, gap, size)
    ):
        raise ValueError("shapes and places are lists of numbers")
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise ValueError("names are texts")
    name.encode(), dtype.encode()  # half a surrogate pair is no text
    return gap, Entry(name, dtype, tuple(shape), at + gap, at + gap + size)
