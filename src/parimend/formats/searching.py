"""Finding a seal in the header of a safetensors file, however damaged the header is.

What is looked for is armored data in base64. Its beginning and its end say where it is: both are
prefixes (see `parimend.armor`), of which one that is intact tells the length of all. If none is,
they are found by what they begin with, as far as that is left, and the beginning also by its usual
place; the length is then the distance, and the armor does the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np

from parimend.armor import BEGINNING, PREFIX, armored_length, is_armored_length
from parimend.regular import read_at

USUAL = len(b'........{"__metadata__":{"parimend":"')
"""Where the seal stands in a file that Parimend wrote."""

_ALPHABET = np.zeros(256, bool)
_ALPHABET[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")] = True
_AS_BASE64 = bytes(c if _ALPHABET[c] else ord("A") for c in range(256))

_FIRST = 4096  # bytes in which a seal begins
_PIECE = 1 << 20
_SEED = 4  # characters in a row that must be left of a mark
_LIKE = 0.55  # part of a mark's characters that must be left
_ILLEGIBLE = 0.2  # part of the characters that are no base64; 0.07 is what can be repaired
_ENOUGH = 8  # places or seals; hostile files have more that look like one


class _Mark(NamedTuple):
    """How a prefix begins in base64, where it is preceded by 3 k + ``shift`` bytes."""

    shift: int
    skipped: int
    text: bytes


def _mark(shift: int) -> _Mark:
    text = base64.b64encode(bytes(shift) + BEGINNING)
    skipped = -(-8 * shift // 6)  # characters that depend on what stands before
    return _Mark(shift, skipped, text[skipped : (shift + len(BEGINNING)) * 8 // 6])


_MARKS = tuple(_mark(shift) for shift in range(3))


def search(file: BinaryIO, stop: int) -> Iterator[bytes]:
    """What could be an armored seal.

    Args:
        file: open for reading.
        stop: so many bytes at its beginning may be a header.

    Returns:
        Armored data, probably damaged, the likeliest first; nothing if nothing looks like a seal.
    """
    return islice(_legible(file, stop), _ENOUGH)


def decode(text: bytes, count: int | None = None) -> bytes:
    r"""Base64 that may be damaged: a character that cannot be is taken for a wrong one.

    Args:
        text: the characters.
        count: number of bytes they stand for; by default padding tells.

    >>> decode(b"d29ydGg?a2V\0cGlu?w==")[:5]
    b'worth'
    """
    if count is None:
        text = text.rstrip(b"=")
        count = len(text) * 3 // 4
    return base64.b64decode(text.translate(_AS_BASE64) + b"A" * (-len(text) % 4))[:count]


def _legible(file: BinaryIO, stop: int) -> Iterator[bytes]:
    seen = set()
    for start, length in _spans(file, stop):
        characters = -(-length // 3) * 4
        if start >= 0 and start + characters <= stop and (start, length) not in seen:
            seen.add((start, length))
            # Before memory is taken for it.
            if _is_legible(file, start, characters):
                yield decode(read_at(file, start, characters).tobytes(), length)


def _is_legible(file: BinaryIO, start: int, characters: int) -> bool:
    bad = 0
    for at in range(start, start + characters, _PIECE):
        piece = read_at(file, at, min(_PIECE, start + characters - at))
        bad += int(np.count_nonzero(~_ALPHABET[piece]))
        if bad > _ILLEGIBLE * characters:
            return False
    return True


def _spans(file: BinaryIO, stop: int) -> Iterator[tuple[int, int]]:
    """Where seals may begin, and of how many bytes they are."""
    places = (at for at, mark in _marks(file, min(stop, _FIRST)) if mark.shift == 0)
    starts = list(dict.fromkeys([*islice(places, _ENOUGH), USUAL]))
    for start in starts:
        if length := armored_length(_prefix(file, start, _MARKS[0])):
            yield start, length
    ends = list(islice(_marks(file, stop), _ENOUGH * len(starts)))
    for at, mark in ends:
        if length := armored_length(_prefix(file, at, mark)):
            before = length - PREFIX
            if before % 3 == mark.shift:
                yield at - before // 3 * 4, length
    for start in starts:
        for at, mark in ends:
            before = (at - start) // 4 * 3 + mark.shift
            if at > start and (at - start) % 4 == 0 and is_armored_length(before + PREFIX):
                yield start, before + PREFIX


def _prefix(file: BinaryIO, at: int, mark: _Mark) -> bytes:
    """The prefix at a mark."""
    count = mark.shift + PREFIX
    return decode(read_at(file, at, -(-count // 3) * 4).tobytes(), count)[mark.shift :]


def _marks(file: BinaryIO, stop: int) -> Iterator[tuple[int, _Mark]]:
    """Where a prefix seems to begin: the group of four characters with its first byte."""
    longest = 2 * max(mark.skipped + len(mark.text) for mark in _MARKS)
    for at in range(0, stop, _PIECE):
        # Marks may lie across the border of two pieces.
        piece = read_at(file, at, min(_PIECE + longest, stop - at))
        if not piece.any():
            continue  # a hole
        found = {
            (at + place - mark.skipped, mark)
            for mark in _MARKS
            for place in _like(piece.tobytes(), mark.text)
            if place < _PIECE
        }
        yield from sorted(found)


def _like(piece: bytes, text: bytes) -> Iterator[int]:
    """Where a text stands, or enough of it."""
    for skip in range(0, len(text) - _SEED + 1, _SEED):
        seed = text[skip : skip + _SEED]
        at = piece.find(seed)
        while at >= 0:
            found = piece[max(at - skip, 0) : at - skip + len(text)]
            alike = sum(a == b for a, b in zip(found, text, strict=False))
            if at >= skip and alike >= _LIKE * len(text):
                yield at - skip
            at = piece.find(seed, at + 1)
