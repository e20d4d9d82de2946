"""The header of a safetensors file: which tensors lie where.

A safetensors file is the length of its header (u64, little-endian), the header (JSON, padded with
spaces), and the data::

    {"__metadata__": {"key": "text"},
     "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

This reader accepts what the safetensors library accepts, and in the same sense: metadata that are
null, further members of a tensor, which mean nothing, and of several with one name the last. Only
dtypes may be such as the library does not know. The library itself cannot be used, as it reads
neither damaged files nor files piece by piece. The work and the memory that a header takes are
proportional to its length, whatever it claims; beside its bytes, only what describes tensors is
kept.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from parimend.errors import FormatError, WordError
from parimend.words.bits import item_size
from parimend.words.layout import Part, whole

MAX_LENGTH = 100_000_000
"""Longest header that the format allows."""
PREFIX = 8
"""Bytes of the length in front of the header."""

Raw = bytes | memoryview
"""Bytes of a file, which may be a part of something larger."""

_METADATA = "__metadata__"
_MEMBERS = ("dtype", "shape", "data_offsets")
_SPACE = re.compile(rb"[ \t\n\r]*+")
_HEX = rb"[0-9a-fA-F]"
# A text that stands for Unicode: no control characters, no half of a surrogate pair.
_TEXT = (
    rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F]%b{3}|[dD][0-7]%b{2}'
    rb'|[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2})))*+"' % ((_HEX,) * 4)
)
_VALUE = re.compile(_TEXT)
_KEY = re.compile(rb"(%b)[ \t\n\r]*+:[ \t\n\r]*+" % _TEXT)
_NEXT = re.compile(rb"[ \t\n\r]*+([,}])[ \t\n\r]*+")
_INTEGER = rb"(?:0|[1-9][0-9]{0,18})"
# How most writers describe a tensor. It says nothing new, but saves most of the time.
_PLAIN = re.compile(
    rb'\{"dtype": ?"([A-Z0-9_]+)", ?"shape": ?\[((?:%b(?:, ?%b)*+)?)\], ?'
    rb'"data_offsets": ?\[(%b), ?(%b)\]\}' % ((_INTEGER,) * 4)
)
_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"(?:[^"\\]|\\.)*+"|([{\[])|([}\]]))', re.DOTALL)
_LONGEST_ENTRY = 1 << 16  # bytes; those of a tensor with eight dimensions have about 200
_DEEPEST = 126  # brackets inside a tensor's; the library goes as far
_PIECE = 1 << 20
_MAX_OFFSET = 1 << 62
_MAX_SIZE = (1 << 64) - 1
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
        raw: the bytes it was parsed from: length, JSON, padding. The data follows them.
        texts: where in them the file's own texts stand, by name: beginning and end.
    """

    entries: tuple[Entry, ...]
    raw: Raw = b""
    texts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def data_bytes(self) -> int:
        """Bytes of the data of all tensors."""
        return self.entries[-1].end if self.entries else 0

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own texts by name, read anew: they may be long."""
        return {name: json.loads(_utf8(self.raw[a:b])) for name, (a, b) in self.texts.items()}

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
        return parse_header(raw, "the new header")


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


def parse_header(raw: Raw, name: str) -> Header:
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
    if header_length(bytes(raw[:PREFIX]), len(raw), name) != len(raw):
        raise FormatError(f"{name}: the header has {len(raw)} bytes, which is not what it says")
    try:
        _require_utf8(raw)
        entries, texts = _parse(raw)
        entries.sort(key=lambda entry: (entry.begin, entry.end))
        at = 0
        for entry in entries:
            if entry.begin != at:
                raise ValueError(f"{entry.name} begins at byte {entry.begin} instead of {at}")
            at = entry.end
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: the header is damaged: {error}") from None
    return Header(tuple(entries), raw, texts)


def _require_utf8(raw: Raw) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(PREFIX, len(raw), _PIECE):
        decoder.decode(raw[at : at + _PIECE])
    decoder.decode(b"", final=True)


def _utf8(raw: Raw) -> str:
    return str(raw, "utf-8")


def _parse(raw: Raw) -> tuple[list[Entry], dict[str, tuple[int, int]]]:
    entries: dict[str, Entry] = {}
    metadata: dict[str, tuple[int, int]] | None = None

    def text(name: str, at: int) -> int:
        assert metadata is not None
        if not (found := _VALUE.match(raw, at)):
            raise ValueError(f"a text is missing at byte {at}")
        metadata[name] = found.span()
        return found.end()

    def member(name: str, at: int) -> int:
        nonlocal metadata
        if name != _METADATA:
            entries[name], end = _entry(raw, at, name)
            return end
        if metadata is not None:
            raise ValueError(f"{_METADATA} is there twice")
        metadata = {}
        return at + 4 if raw[at : at + 4] == b"null" else _object(raw, at, text)

    end = _skip(raw, _object(raw, _skip(raw, PREFIX), member))
    if end < len(raw):
        raise ValueError("something follows the JSON object")
    return list(entries.values()), metadata or {}


def _object(raw: Raw, at: int, member: Callable[[str, int], int]) -> int:
    """Walk over a JSON object at ``at``; ``member`` reads a value and tells where it ends."""
    if raw[at : at + 1] != b"{":
        raise ValueError(f"{{ is missing at byte {at}")
    at = _skip(raw, at + 1)
    if raw[at : at + 1] == b"}":
        return at + 1
    while True:
        if not (key := _KEY.match(raw, at)):
            raise ValueError(f"a name and a colon are missing at byte {at}")
        at = member(json.loads(_utf8(key[1])), key.end())
        if not (after := _NEXT.match(raw, at)):
            raise ValueError(f"a comma or }} is missing at byte {at}")
        if after[1] == b"}":
            return after.end(1)
        at = after.end()


def _skip(raw: Raw, at: int) -> int:
    found = _SPACE.match(raw, at)
    return found.end() if found else at


def _end_of_value(raw: Raw, at: int, name: str) -> int:
    """Where the object or list that begins at ``at`` ends."""
    depth, end = 0, at
    while found := _BRACKET.match(raw, end, at + _LONGEST_ENTRY):
        end = found.end()
        opens, closes = found.groups()
        depth += bool(opens) - bool(closes)
        if depth == 0 and closes and raw[at : at + 1] in (b"{", b"["):
            return end
        if not 0 < depth <= _DEEPEST:
            break
    raise ValueError(f"{name} is not described by a JSON object")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _integer(text: str) -> int | float:
    # Others are no integers to the library, minus zero included.
    return int(text) if len(text) <= 20 and text.isdecimal() else _finite(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=list, parse_constant=_refuse, parse_float=_finite, parse_int=_integer
)


def _entry(raw: Raw, at: int, name: str) -> tuple[Entry, int]:
    """The description of a tensor that begins at ``at``, and where it ends."""
    if found := _PLAIN.match(raw, at, at + _LONGEST_ENTRY):
        sizes = found[2].split(b",") if found[2] else ()
        shape, begin, end = tuple(map(int, sizes)), int(found[3]), int(found[4])
        return _checked(name, found[1].decode(), shape, begin, end), found.end()
    stop = _end_of_value(raw, at, name)
    dtype, shape, offsets = _members(_utf8(raw[at:stop]), name)
    if not isinstance(dtype, str):
        raise ValueError(f"{name}: the dtype is no text")
    for numbers in (shape, offsets):
        # A bool is an int in Python, but not in JSON.
        if not isinstance(numbers, list) or any(type(x) is not int for x in numbers):
            raise ValueError(f"{name}: shape and data_offsets must be lists of numbers")
    if len(offsets) != 2:
        raise ValueError(f"{name}: data_offsets must be a beginning and an end")
    return _checked(name, dtype, tuple(shape), *offsets), stop


def _members(text: str, name: str) -> list[Any]:
    """dtype, shape and data_offsets of an object or a list."""
    described = _DECODER.decode(text)
    if "\\u" in text:
        json.dumps(described, ensure_ascii=False).encode()  # half a surrogate pair is no text
    if text[0] == "[":  # the members in their order
        described = list(zip(_MEMBERS, described, strict=True))
    pairs = [(key, value) for key, value in described if key in _MEMBERS]
    fields = dict(pairs)
    if len(pairs) != 3 or len(fields) != 3:
        raise ValueError(f"{name} should have one dtype, one shape and one data_offsets")
    return [fields[key] for key in _MEMBERS]


def _checked(name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> Entry:
    if not 0 <= begin <= end <= _MAX_OFFSET:
        raise ValueError(f"{name}: data_offsets must be a beginning and an end")
    bits, count = bits_of(dtype), 1
    for size in shape:
        count *= size
        if not (0 <= size <= _MAX_SIZE and count <= _MAX_SIZE):
            raise ValueError(f"{name}: {list(shape)} cannot be a shape")
    if bits is not None and count * bits != 8 * (end - begin):
        raise ValueError(f"{name}: {dtype} {list(shape)} does not take {end - begin} bytes")
    return Entry(name, dtype, shape, begin, end)
