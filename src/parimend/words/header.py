"""The header of a safetensors file: which tensors lie where.

A safetensors file is the length of its header (u64, little-endian), the header (JSON, padded with
spaces), and the data::

    {"__metadata__": {"key": "text"},
     "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

This reader is strict: what it accepts, the safetensors library accepts too. The library itself
cannot be used, as it reads neither damaged files nor files piece by piece. The work and the memory
that a header takes are proportional to its length, whatever it claims.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from parimend.errors import FormatError, WordError
from parimend.words.bits import item_size
from parimend.words.layout import Part, whole

MAX_LENGTH = 100_000_000
"""Longest header that the format allows."""
PREFIX = 8
"""Bytes of the length in front of the header."""

_METADATA = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")
_TENSOR = re.compile(r"\{[^{}]{0,4096}\}")
_DECODER = json.JSONDecoder()
_MAX_OFFSET = 1 << 62
_SMALL = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # bits; several elements share a byte


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name, dtype, shape: as the header gives them.
        begin, end: bytes of the data, counted from its beginning.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def part(self) -> Part:
        """The whole tensor; one whose elements are no whole bytes, or unknown, as its bytes.

        >>> Entry("w", "F4", (3, 4), 0, 6).part()
        Part(name='w', dtype='U8', shape=(6,), start=0, count=6, exponent=0)
        """
        if bits_of(self.dtype) is None or self.dtype in _SMALL:
            return whole(self.name, "U8", (self.end - self.begin,))
        return whole(self.name, self.dtype, self.shape)


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        entries: the tensors, in the order of their data.
        metadata: the file's own texts by name.
        raw: the bytes it was parsed from: length, JSON, padding. The data follows them.
    """

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def data_bytes(self) -> int:
        """Bytes of the data of all tensors."""
        return self.entries[-1].end if self.entries else 0

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every tensor as one part, in the order of the data."""
        return tuple(entry.part() for entry in self.entries)

    def with_metadata(self, metadata: Mapping[str, str]) -> Header:
        """The header with other texts, written anew; the order of the tensors stays.

        Example:
            >>> header = Header((Entry("w", "F32", (2,), 0, 8),))
            >>> header.with_metadata({"author": "me"}).raw[8:]  # doctest: +ELLIPSIS
            b'{"__metadata__":{"author":"me"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}...'
        """
        text: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
        for entry in self.entries:
            text[entry.name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [entry.begin, entry.end],
            }
        encoded = json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)  # the data begins at a multiple of 8 bytes
        raw = struct.pack("<Q", len(encoded)) + encoded
        return Header(self.entries, dict(metadata), raw)


def bits_of(dtype: str) -> int | None:
    """Bits of an element; None for a dtype that is not known.

    >>> bits_of("BF16"), bits_of("F4"), bits_of("F128")
    (16, 4, None)
    """
    if dtype in _SMALL:
        return _SMALL[dtype]
    try:
        return 8 * item_size(dtype)
    except WordError:
        return None


def header_length(prefix: bytes, available: int, name: str) -> int:
    """How many bytes the header takes, prefix included.

    Args:
        prefix: the first `PREFIX` bytes of the file.
        available: bytes that the file has.
        name: of the file, for messages.

    Raises:
        FormatError: if there cannot be such a header.
    """
    if not available:
        raise FormatError(f"{name} is empty: a safetensors file begins with its header")
    if len(prefix) < PREFIX:
        raise FormatError(f"{name} has {available} bytes, too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= MAX_LENGTH:
        raise FormatError(
            f"{name} is no safetensors file, or its header is damaged: its first 8 bytes say that "
            f"the header has {length} bytes"
        )
    if PREFIX + length > available:
        raise FormatError(
            f"{name}: the header should have {length} bytes, but the file ends after {available}: "
            "it is truncated, or its header is damaged"
        )
    return PREFIX + length


def parse_header(raw: bytes, name: str) -> Header:
    """Read a header.

    Args:
        raw: length, JSON and padding, no more.
        name: of the file, for messages.

    Raises:
        FormatError: if the format does not allow it, or tensors overlap or leave holes.

    Example:
        >>> text = b'{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
        >>> parse_header(len(text).to_bytes(8, "little") + text, "example").entries
        (Entry(name='w', dtype='BF16', shape=(3,), begin=0, end=6),)
    """
    if header_length(raw[:PREFIX], len(raw), name) != len(raw):
        raise FormatError(f"{name}: the header has {len(raw)} bytes, which is not what it says")
    try:
        text = raw[PREFIX:].decode()
        if not text.startswith("{"):
            raise ValueError("it does not begin with {")
        entries, metadata = _parse(text)
        entries.sort(key=lambda entry: (entry.begin, entry.end))
        at = 0
        for entry in entries:
            if entry.begin != at:
                raise ValueError(f"{entry.name} begins at byte {entry.begin} instead of {at}")
            at = entry.end
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: the header is damaged: {error}") from None
    return Header(tuple(entries), metadata, raw)


def _parse(text: str) -> tuple[list[Entry], dict[str, str]]:
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] | None = None

    def member(name: str, at: int) -> int:
        nonlocal metadata
        if name == _METADATA:
            if metadata is not None:
                raise ValueError(f"{_METADATA} is there twice")
            metadata = {}
            return _object(text, at, _texts_into(text, metadata))
        if name in entries:
            raise ValueError(f"{name} is there twice")
        found = _TENSOR.match(text, at)
        if not found:
            raise ValueError(f"{name} is not described by a JSON object")
        entries[name] = _entry(name, found.group())
        return found.end()

    end = _object(text, 0, member)
    if text[end:].strip(" \t\n\r"):
        raise ValueError("something follows the JSON object")
    return list(entries.values()), metadata or {}


def _object(text: str, at: int, member: Callable[[str, int], int]) -> int:
    """Walk over a JSON object at ``at``; ``member`` reads a value and tells where it ends."""
    at = _expect(text, at, "{")
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        name, at = _string(text, at)
        at = member(name, _expect(text, at, ":"))
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return at + 1
        at = _expect(text, at, ",")


def _texts_into(text: str, metadata: dict[str, str]) -> Callable[[str, int], int]:
    def member(name: str, at: int) -> int:
        if name in metadata:
            raise ValueError(f"{name} is there twice in {_METADATA}")
        metadata[name], end = _string(text, at)
        return end

    return member


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, sign: str) -> int:
    """Where the next token begins, after ``sign`` and the white space around it."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"{sign} is missing at character {at}")
    return _skip(text, at + 1)


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise ValueError(f"a text is missing at character {at}")
    value, end = _DECODER.raw_decode(text, at)
    value.encode()  # half a surrogate pair is no text
    return value, end


def _entry(name: str, text: str) -> Entry:
    pairs = json.loads(text, object_pairs_hook=list)
    fields = dict(pairs)
    if len(pairs) != 3 or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} should have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"{name}: the dtype is no text")
    for numbers in (shape, offsets):
        # A bool is an int in Python, but not in JSON.
        if not isinstance(numbers, list) or any(
            type(x) is not int or not 0 <= x <= _MAX_OFFSET for x in numbers
        ):
            raise ValueError(f"{name}: shape and data_offsets must be lists of numbers")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name}: data_offsets must be a beginning and an end")
    bits = bits_of(dtype)
    if bits is not None and math.prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{name}: {dtype} {shape} does not take {offsets[1] - offsets[0]} bytes")
    return Entry(name, dtype, tuple(shape), *offsets)
