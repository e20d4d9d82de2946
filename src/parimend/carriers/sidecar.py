"""The sidecar carrier: weights stay as they are, sums of their bit patterns are kept beside them.

The bytes of every part are cut into 32-bit words, padded with zeros to a multiple of 16 words, and
follow each other. A part's sums do not depend on how it is read, so a file and the model that was
loaded from it fit the same seal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import Finding, Tensors, sha256_of, subparts
from parimend.codes import Modular
from parimend.codes.modular import GROUP, restore
from parimend.decoders.buckets import Buckets
from parimend.records import Verdict
from parimend.seal import SealedWord
from parimend.words.bits import item_size, words_of
from parimend.words.layout import Part


def length(parts: tuple[Part, ...]) -> int:
    """Number of 32-bit words, padding included."""
    return sum(_padded(part) for part in parts)


def _padded(part: Part) -> int:
    size = part.count * item_size(part.dtype)
    return -(-size // (4 * GROUP)) * GROUP


def _starts(parts: tuple[Part, ...]) -> Iterator[tuple[Part, int]]:
    """Every part with the index of its first word."""
    at = 0
    for part in parts:
        yield part, at
        at += _padded(part)


def sums(code: Modular, parts: tuple[Part, ...], tensors: Tensors) -> NDArray[np.uint64]:
    """The syndrome of the parts, read piece by piece in one pass."""
    total = code.zeros()
    for part, start in _starts(parts):
        at = start
        for piece in subparts(part):
            words = words_of(tensors.read(piece))
            code.accumulate(total, words, at, threads=os.cpu_count() or 1)
            at += words.size
    return total


def seal_word(code: Modular, parts: tuple[Part, ...], tensors: Tensors) -> SealedWord:
    """Seal a word; nothing is changed."""
    word = SealedWord(code, parts, sums(code, parts, tensors), b"")
    return SealedWord(code, parts, word.target, sha256_of(word, tensors))


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word; see `parimend.carriers.base.diagnose`."""
    code = word.code
    assert isinstance(code, Modular)
    changed = code.subtract(sums(code, word.parts, tensors), word.target)
    if not changed.any():
        return Finding(Verdict.CLEAN)
    decoding = Buckets().prepare(code).decode(changed)
    if decoding.verdict is not Verdict.CORRECTED:
        return Finding(
            Verdict.UNCORRECTABLE,
            unexplained=decoding.unexplained,
            reason="more damage than the code can repair",
        )
    elements: list[tuple[int, int, bytes, bytes]] = []
    for number, (part, start) in enumerate(_starts(word.parts)):
        inside = (decoding.positions >= start) & (decoding.positions < start + _padded(part))
        found = _restore(part, tensors, decoding.positions[inside] - start, decoding.values[inside])
        if found is None:
            return Finding(
                Verdict.UNCORRECTABLE, reason="the damage found is not that of these words"
            )
        elements += [(number, *element) for element in found]
    return Finding(Verdict.CORRECTABLE, elements)


def _restore(
    part: Part, tensors: Tensors, positions: NDArray[np.int64], damage: NDArray[np.int64]
) -> list[tuple[int, bytes, bytes]] | None:
    """The elements of a part in its wrong words: (offset, received, original), or None."""
    size = item_size(part.dtype)
    elements = []
    for position, value in zip(positions.tolist(), damage, strict=True):
        # The elements that the word overlaps: several small ones, or half of a large one.
        first, last = 4 * position // size, min(-(-4 * (position + 1) // size), part.count)
        if first >= last:
            return None  # a word of padding
        piece = Part(part.name, part.dtype, part.shape, part.start + first, last - first)
        received = tensors.read(piece).copy()
        at = 4 * position - first * size
        word = np.zeros(4, np.uint8)
        within = received[at : at + 4]
        word[: within.size] = within
        original = restore(word.view("<u4"), np.array([value]))
        if original is None or original.view(np.uint8)[within.size :].any():
            return None
        repaired = received.copy()
        repaired[at : at + 4] = original.view(np.uint8)[: within.size]
        for k in range(last - first):
            old, new = (x[k * size : (k + 1) * size].tobytes() for x in (received, repaired))
            if old != new:
                elements.append((first + k, old, new))
    return _merge(elements)


def _merge(elements: list[tuple[int, bytes, bytes]]) -> list[tuple[int, bytes, bytes]]:
    """Both halves of a 64-bit element may be wrong: put them into one element."""
    merged: dict[int, tuple[bytes, bytes]] = {}
    for offset, old, new in elements:
        if offset in merged:
            before = merged[offset][1]
            new = bytes(n if n != o else b for n, o, b in zip(new, old, before, strict=True))
        merged[offset] = (old, new)
    return [(offset, old, new) for offset, (old, new) in sorted(merged.items())]
