"""The sidecar carrier: weights stay as they are, sums of their bit patterns are kept beside them.

The bytes of every part are cut into 32-bit words, padded with zeros to a multiple of 16 words, and
follow each other. A part's sums do not depend on how it is read, so a file and the model that was
loaded from it fit the same seal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from threading import Lock
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import CHUNK, Elements, Finding, Tensors, subparts
from parimend.codes import Modular
from parimend.codes.base import MAX_WORDS
from parimend.codes.modular import restore
from parimend.decoders.buckets import Buckets
from parimend.records import Verdict
from parimend.seal import SealedWord
from parimend.words.bits import WORD, item_size, words_of
from parimend.words.layout import Part, padded_words

if TYPE_CHECKING:
    import torch


_TOGETHER = 1 << 14
"""Wrong words that are restored together."""


@runtime_checkable
class OnDevices(Tensors, Protocol):
    """Tensors that may live on other devices than the CPU."""

    def resident(self, part: Part) -> torch.Tensor | None:
        """The elements of a part, flat, if they are on such a device; else None."""


def _starts(parts: Iterable[Part], at: int = 0) -> Iterator[tuple[Part, int]]:
    """Every part with the index of its first word; the first one's is ``at``."""
    for part in parts:
        yield part, at
        at += padded_words(part)


def cut(parts: tuple[Part, ...], limit: int = MAX_WORDS) -> list[tuple[Part, ...]]:
    """Cut a word that is too long for a code into several, each with a full budget of its own.

    >>> from parimend.words.layout import whole
    >>> [[(p.name, p.start, p.count) for p in word] for word in
    ...     cut((whole("a", "F32", (40,)), whole("b", "U8", (64,))), limit=32)]
    [[('a', 0, 32)], [('a', 32, 8), ('b', 0, 64)]]
    """
    size = WORD * limit
    pieces = (p for part in parts for p in subparts(part, size // item_size(part.dtype)))
    return [tuple(word) for word in _together(pieces, limit)]


def _together(pieces: Iterable[Part], limit: int) -> Iterator[list[Part]]:
    """Neighbours in groups of at most ``limit`` words; a piece that is longer is one of its own."""
    group: list[Part] = []
    room = limit
    for piece in pieces:
        size = padded_words(piece)
        if group and size > room:
            yield group
            group, room = [], limit
        group.append(piece)
        room -= size
    if group:
        yield group


JOINED = 1 << 20
"""Bytes of small pieces that are copied together: few enough for the cache."""


def reads(parts: tuple[Part, ...]) -> Iterator[tuple[list[Part], int]]:
    """The parts in pieces, as many of them together as are read at a time, and their first word.

    A call costs about as much as summing up 30,000 words, and many tensors are smaller than that.
    """
    at = 0
    for pieces in _together((piece for part in parts for piece in subparts(part)), JOINED // WORD):
        yield pieces, at
        at += padded_words(*pieces)


def joined(pieces: Sequence[Part], data: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint32]:
    """The words of pieces that follow each other, from the bytes of each; one is not copied.

    >>> from parimend.words.layout import whole
    >>> data = [np.ones(4, np.uint8), np.ones(68, np.uint8)]
    >>> words = joined([whole("a", "U8", (4,)), whole("b", "U8", (68,))], data)
    >>> words.size, words.nonzero()[0].tolist() == [0, *range(16, 33)]
    (48, True)
    """
    if len(data) == 1:
        return words_of(data[0])
    padded = np.zeros(WORD * padded_words(*pieces), np.uint8)
    for (_, at), piece in zip(_starts(pieces), data, strict=True):
        padded[WORD * at : WORD * at + piece.size] = piece
    return padded.view(np.uint32)


def sums(
    code: Modular, parts: tuple[Part, ...], tensors: Tensors, bands: int | None = None
) -> NDArray[np.uint64]:
    """The sums of the parts in all bands or the first few, read once; threads share the work."""
    todo, lock = reads(parts), Lock()

    def work() -> NDArray[np.uint64]:
        total = code.zeros(bands)
        while True:
            with lock:
                pieces, start = next(todo, ([], 0))
            if not pieces:
                return total
            add_sums(code, total, tensors, pieces, start)

    threads = min(os.cpu_count() or 1, -(-padded_words(*parts) // (CHUNK // WORD)))
    with ThreadPoolExecutor(threads) as pool:
        return reduce(code.add, [f.result() for f in [pool.submit(work) for _ in range(threads)]])


def add_sums(
    code: Modular, total: NDArray[np.uint64], tensors: Tensors, pieces: list[Part], start: int
) -> None:
    """Add the sums of pieces that follow each other into ``total``.

    Those of a piece on another device are computed there.
    """
    # Asked once: it takes longer than to read a small tensor.
    live = tensors if isinstance(tensors, OnDevices) else None
    elsewhere = [live.resident(piece) for piece in pieces] if live else []
    if all(elements is None for elements in elsewhere):
        code.accumulate(total, joined(pieces, [tensors.read(piece) for piece in pieces]), start)
        return
    from parimend.carriers.device import sums_of  # loads torch

    for (piece, at), elements in zip(_starts(pieces, start), elsewhere, strict=True):
        if elements is None:
            code.accumulate(total, words_of(tensors.read(piece)), at)
        else:
            total[...] = code.add(total, sums_of(code, elements, at, bands=total.shape[1]))


def seal_word(code: Modular, parts: tuple[Part, ...], tensors: Tensors) -> SealedWord:
    """Seal a word, read once: one thread hashes what this one sums up. Nothing is changed."""
    total, digest = code.zeros(), hashlib.sha256()

    def add_hash(data: list[NDArray[np.uint8]]) -> None:
        for piece in data:
            digest.update(piece.data)

    with ThreadPoolExecutor(1) as hasher:
        hashed = None
        for pieces, start in reads(parts):
            data = [tensors.read(piece) for piece in pieces]
            if hashed:
                hashed.result()
            hashed = hasher.submit(add_hash, data)
            code.accumulate(total, joined(pieces, data), start)
    return SealedWord(code, parts, total, digest.digest())


def intact(word: SealedWord, tensors: Tensors) -> bool:
    """Whether a word is as it was: `find` for those who only want to know that, in half the time.

    Looks at one band. One or two wrong words always show in it; so do more, but for a chance below
    2^-32 that they cancel in both sums of a bucket.
    """
    assert isinstance(word.code, Modular)
    return np.array_equal(sums(word.code, word.parts, tensors, bands=1), word.target[:, :1])


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
    found = Elements()
    for number, (part, start) in enumerate(_starts(word.parts)):
        inside = slice(*np.searchsorted(decoding.positions, (start, start + padded_words(part))))
        positions = decoding.positions[inside] - start
        if not _restore(number, part, tensors, positions, decoding.values[inside], found):
            return Finding(
                Verdict.UNCORRECTABLE, reason="the damage found is not that of these words"
            )
    return Finding(Verdict.CORRECTABLE, found)


def _restore(
    number: int,
    part: Part,
    tensors: Tensors,
    positions: NDArray[np.int64],
    damage: NDArray[np.int64],
    found: Elements,
) -> bool:
    """Add the elements of a part in its wrong words to those found; False if they cannot be so."""
    size = item_size(part.dtype)
    for some in range(0, positions.size, _TOGETHER):
        at = positions[some : some + _TOGETHER]
        # The elements that a word overlaps: several small ones, or half of a large one.
        first = WORD * at // size
        last = np.minimum(-(-WORD * (at + 1) // size), part.count)
        if (first >= last).any():
            return False  # a word of padding
        received = [
            tensors.read(Part(part.name, part.dtype, part.shape, part.start + a, b - a))
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
        ]
        skipped = (WORD * at - first * size).tolist()
        words = np.zeros((at.size, WORD), np.uint8)
        for word, data, skip in zip(words, received, skipped, strict=True):
            word[: data.size - skip] = data[skip : skip + WORD]
        originals = restore(words.view("<u4")[:, 0], damage[some : some + _TOGETHER])
        if originals is None:
            return False
        right = originals.view(np.uint8).reshape(-1, WORD)
        for offset, data, skip, word in zip(first.tolist(), received, skipped, right, strict=True):
            within = min(data.size - skip, WORD)
            if word[within:].any():
                return False
            repaired = data.copy()
            repaired[skip : skip + within] = word[:within]
            for k in range(data.size // size):
                old, new = (x[k * size : (k + 1) * size].tobytes() for x in (data, repaired))
                if old != new:
                    found.add(number, offset + k, old, new)
    return True
