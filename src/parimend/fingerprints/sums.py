"""The sums of tensors, wherever these are.

The sums are those of `parimend.codes.power`: of the words of 32 bits of a tensor times powers of a
number of their place, modulo p = 2^32 + 24,577. They add up over pieces, whoever holds these: a
process sums up what it has at its places, and one all-reduce of four numbers a tensor does the
rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.summing import JOINED, grouped, threads_for, viewed
from parimend.codes.power import LONGEST, PowerSums
from parimend.fingerprints.record import SUMS, Print
from parimend.stores.base import Tensors, subparts
from parimend.stores.spread import Elements
from parimend.words.bits import WORD, words_of
from parimend.words.layout import Part, padded_words

_THERE = 1 << 25  # bytes of a piece on another device


def prints_of(tensors: Tensors, parts: Sequence[Part]) -> dict[str, Print]:
    """What is kept of some tensors; collective where they are spread over processes."""
    sections = [max(-(-part.count // _section(part)), 1) for part in parts]
    starts = np.cumsum([0, *sections])
    total = np.zeros((int(starts[-1]), SUMS), np.uint64)
    # Work on another device is not shared: it is one that waits.
    elsewhere, words = any(map(tensors.is_elsewhere, parts)), padded_words(*parts)
    threads = 1 if elsewhere else threads_for(words)
    most = viewed(tensors, words, threads)
    pieces = (
        piece._replace(section=int(start) + piece.section)
        for part, start in zip(parts, starts[:-1], strict=True)
        for piece in _pieces(part, tensors, _THERE if tensors.is_elsewhere(part) else most(part))
    )
    with ThreadPoolExecutor(threads) as pool:
        each = map if threads == 1 else pool.map
        groups = grouped(pieces, lambda piece: piece.part.nbytes, JOINED)  # worth a thread each
        for some in each(partial(_sums, tensors), groups):
            for row, sums in some:
                total[row] = _code().add(total[row], sums)
    # Residues of all processes: far from 2^63 in sum.
    total = tensors.spread.sum(total.astype(np.int64)).astype(np.uint64) % np.uint64(_code().prime)
    rows = np.split(total, starts[1:])[:-1]  # also where there are no tensors
    return {
        part.name: Print(part.dtype, part.shape, tuple(sums.ravel().tolist()))
        for part, sums in zip(parts, rows, strict=True)
    }


@cache
def _code() -> PowerSums:
    return PowerSums(LONGEST, SUMS)


def _section(part: Part) -> int:
    """Elements of a tensor that sums are taken of together, whole lines: no code holds more."""
    return WORD * LONGEST // (part.itemsize * part.line) * part.line


class _Piece(NamedTuple):
    """A piece of a tensor: the section it is in, its elements, and their first word there."""

    section: int
    part: Part
    word: int


def _pieces(part: Part, tensors: Tensors, most: int | None) -> Iterator[_Piece]:
    """The pieces of a tensor, of so many bytes at most, in which this process holds elements."""
    begin, end = _range(tensors.spread.held(part).elements)
    size = _section(part)
    for start in range(0, part.count, size):
        first = max(begin - start, 0) // part.line * part.line
        last = min(end - start, size)
        if first < last:
            some = replace(part, start=start + first, count=last - first)
            for piece in subparts(some, most):
                word = (piece.start - start) * part.itemsize // WORD
                yield _Piece(start // size, piece, word)


def _range(elements: Elements) -> tuple[int, int]:
    """The first of some elements, and what follows the last."""
    if isinstance(elements, slice):
        return elements.start, elements.stop
    return (int(elements[0]), int(elements[-1]) + 1) if elements.size else (0, 0)


def _sums(tensors: Tensors, pieces: Iterable[_Piece]) -> list[tuple[int, NDArray[np.uint64]]]:
    """The sections of pieces, and the sums of what this process holds of each."""
    code, found = _code(), []
    for section, part, word in pieces:
        sums, elements = code.zeros(), tensors.resident(part)
        if elements is not None:
            code.accumulate_resident(sums, [(elements, word)])
        else:
            code.accumulate(sums, words_of(tensors.share(part)), word)
        found.append((section, sums))
    return found
