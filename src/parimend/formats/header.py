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
import re
from collections.abc import Callable
from typing import Any

from parimend import strict_json
from parimend.dtypes import DTYPES, SAFETENSORS
from parimend.errors import FormatError
from parimend.formats.base import MOST_BYTES, Bytes, Entry

MAX_LENGTH = 100_000_000
"""Longest header that the format allows."""
METADATA = "__metadata__"
"""The member of the JSON object that is no tensor: texts by name."""
PREFIX = 8
"""Bytes of the length in front of the header."""

Spans = dict[str, tuple[int, int]]
"""Texts by name: where they begin and end."""

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
_MAX_SIZE = (1 << 64) - 1
# The library does not know C128; it may be there all the same.
_BITS = {name: DTYPES[name].bits for name in SAFETENSORS | {"C128"}}


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


def parse_header(raw: Bytes) -> tuple[tuple[Entry, ...], Spans]:
    """Read a header.

    Args:
        raw: length, JSON and padding, no more.

    Returns:
        The tensors, in the order of their data; and where in the header the file's own texts stand,
        by name: beginning and end.

    Raises:
        ValueError, RecursionError: if the format does not allow it, or tensors overlap or leave
            holes.

    Example:
        >>> text = b'{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
        >>> parse_header(len(text).to_bytes(8, "little") + text)
        ((Entry(name='w', dtype='BF16', shape=(3,), begin=63, end=69),), {})
    """
    _require_unicode(raw)
    entries, texts = _parse(raw)
    start = at = len(raw)
    for entry in entries:
        _require_sense(entry, start)  # now: of those of one name, the others mean nothing
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    for entry in entries:
        if entry.begin != at:
            wrong, right = entry.begin - start, at - start
            raise ValueError(f"{entry.name} begins at byte {wrong} instead of {right}")
        at = entry.end
    return tuple(entries), texts


def _require_unicode(raw: Bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(PREFIX, len(raw), _PIECE):
        decoder.decode(raw[at : at + _PIECE])
    decoder.decode(b"", final=True)


def _parse(raw: Bytes) -> tuple[list[Entry], Spans]:
    entries: dict[str, Entry] = {}
    metadata: Spans | None = None

    def text(name: str, at: int) -> int:
        assert metadata is not None
        if not (found := _VALUE.match(raw, at)):
            raise ValueError(f"a text is missing at byte {at}")
        metadata[name] = found.span()
        return found.end()

    def member(name: str, at: int) -> int:
        nonlocal metadata
        if name != METADATA:
            entries[name], end = _entry(raw, at, name)
            return end
        if metadata is not None:
            raise ValueError(f"{METADATA} is there twice")
        metadata = {}
        return at + 4 if raw[at : at + 4] == b"null" else _object(raw, at, text)

    end = _skip(raw, _object(raw, _skip(raw, PREFIX), member))
    if end < len(raw):
        raise ValueError("something follows the JSON object")
    return list(entries.values()), metadata or {}


def _object(raw: Bytes, at: int, member: Callable[[str, int], int]) -> int:
    """Walk over a JSON object at ``at``; ``member`` reads a value and tells where it ends."""
    if raw[at : at + 1] != b"{":
        raise ValueError(f"{{ is missing at byte {at}")
    at = _skip(raw, at + 1)
    if raw[at : at + 1] == b"}":
        return at + 1
    while True:
        if not (key := _KEY.match(raw, at)):
            raise ValueError(f"a name and a colon are missing at byte {at}")
        at = member(_name(key[1]), key.end())
        if not (after := _NEXT.match(raw, at)):
            raise ValueError(f"a comma or }} is missing at byte {at}")
        if after[1] == b"}":
            return after.end(1)
        at = after.end()


def _name(text: bytes) -> str:
    """What a text in JSON says."""
    return json.loads(text.decode()) if b"\\" in text else text[1:-1].decode()


def _skip(raw: Bytes, at: int) -> int:
    found = _SPACE.match(raw, at)
    return found.end() if found else at


def _end_of_value(raw: Bytes, at: int, name: str) -> int:
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


def _integer(text: str) -> int | float:
    # Others are no integers to the library, minus zero included.
    return int(text) if len(text) <= 20 and text.isdecimal() else strict_json.finite(text)


_DECODER = strict_json.decoder(object_pairs_hook=list, parse_int=_integer)


def _entry(raw: Bytes, at: int, name: str) -> tuple[Entry, int]:
    """The description of a tensor that begins at ``at``, and where it ends."""
    if found := _PLAIN.match(raw, at, at + _LONGEST_ENTRY):
        sizes = found[2].split(b",") if found[2] else ()
        shape, begin, end = tuple(map(int, sizes)), int(found[3]), int(found[4])
        return Entry(name, found[1].decode(), shape, len(raw) + begin, len(raw) + end), found.end()
    stop = _end_of_value(raw, at, name)
    dtype, shape, offsets = _members(str(raw[at:stop], "utf-8"), name)
    if not isinstance(dtype, str):
        raise ValueError(f"{name}: the dtype is no text")
    for numbers in (shape, offsets):
        # A bool is an int in Python, but not in JSON.
        if not isinstance(numbers, list) or any(
            type(x) is not int or x > _MAX_SIZE for x in numbers
        ):
            raise ValueError(f"{name}: shape and data_offsets must be lists of numbers")
    if len(offsets) != 2:
        raise ValueError(f"{name}: data_offsets must be a beginning and an end")
    begin, end = offsets
    return Entry(name, dtype, tuple(shape), len(raw) + begin, len(raw) + end), stop


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


def _require_sense(entry: Entry, start: int) -> None:
    """Refuse a tensor that cannot be; ``start`` is where the data begins."""
    name, dtype, shape, begin, end = entry
    if not start <= begin <= end <= start + MOST_BYTES:
        raise ValueError(f"{name}: data_offsets must be a beginning and an end")
    bits, count = _BITS.get(dtype), 1
    for size in shape:
        count *= size
        if count > _MAX_SIZE:
            raise ValueError(f"{name}: {list(shape)} cannot be a shape")
    if bits is not None and count * bits != 8 * (end - begin):
        raise ValueError(f"{name}: {dtype} {list(shape)} does not take {end - begin} bytes")
