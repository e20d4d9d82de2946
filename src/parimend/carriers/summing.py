"""The words of bit patterns, piece by piece, and their sums.

The bytes of every part are cut into 32-bit words, padded with zeros to a multiple of 16 words, and
follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial, reduce
from itertools import groupby
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes import SumsCode
from parimend.codes.power import LONGEST
from parimend.codes.sums import Sums
from parimend.cores import cores
from parimend.stores.base import CHUNK, Tensors, subparts
from parimend.words.bits import WORD, words_of
from parimend.words.layout import Part, Word, padded_words

_T = TypeVar("_T")

JOINED = 1 << 20
"""Bytes of small pieces that are copied together: few enough for the cache."""
_SHARE = 1 << 21
"""Words for every thread: with fewer, what threads cost is not worth it."""
_VIEWED, _PIECES = 1 << 26, 8
"""Bytes of a piece in memory, at most, and so many pieces for every thread, if they are shorter."""
_THERE = 1 << 30
"""Bytes on another device that are looked at together: it waits for every result."""
_COPIED = 1 << 25  # bytes of those that have to be copied for it


def _starts(parts: Iterable[Part], at: int = 0) -> Iterator[tuple[Part, int]]:
    """Every part with the index of its first word; the first one's is ``at``."""
    for part in parts:
        yield part, at
        at += padded_words(part)


def cut(word: Word, limit: int = LONGEST) -> list[Word]:
    """Cut a word that is too long for a code into several, each with a full budget of its own.

    >>> from parimend.words.layout import whole
    >>> [[(p.name, p.start, p.count) for p in word] for word in
    ...     cut(Word((whole("a", "F32", (40,)), whole("b", "U8", (64,)))), limit=32)]
    [[('a', 0, 32)], [('a', 32, 8), ('b', 0, 64)]]
    """
    if word.padded <= limit:
        return [word]
    pieces = (p for part in word for p in subparts(part, WORD * limit))
    return [Word(tuple(group)) for group in grouped(pieces, padded_words, limit)]


def grouped(
    pieces: Iterable[_T], size_of: Callable[[_T], int], limit: int, small: int | None = None
) -> Iterator[list[_T]]:
    """Neighbours in groups of at most ``limit`` words; a piece of more, or of more than ``small``,
    is one of its own.
    """
    small = limit if small is None else small
    group: list[_T] = []
    room = limit
    for piece in pieces:
        size = size_of(piece)
        if group and size > min(room, small):
            yield group
            group, room = [], limit
        group.append(piece)
        room = room - size if size <= small else 0
    if group:
        yield group


def reads(
    word: Word,
    at: int = 0,
    small: int | None = None,
    most: Callable[[Part], int | None] = lambda _: None,
) -> Generator[tuple[list[Part], int], None, None]:
    """The parts in pieces, as many of them together as are read at a time, and their first word;
    that of the first piece is ``at``.

    A call costs about as much as summing up 30,000 words, and many tensors are smaller than that.
    Pieces of more than ``small`` words are read alone, and none has more bytes than ``most`` says,
    by default than are read of a file.
    """
    pieces = (piece for part in word for piece in subparts(part, most(part)))
    return _numbered(grouped(pieces, padded_words, JOINED // WORD, small), at)


def viewed(tensors: Tensors, words: int, threads: int) -> Callable[[Part], int | None]:
    """Bytes of a piece, for `reads`, where threads share so many words that are not copied.

    After every piece the caches are full of weights, so that what is done between two takes a tenth
    of a millisecond.
    """
    size = max(CHUNK, min(_VIEWED, WORD * words // (_PIECES * threads)))
    return lambda part: None if tensors.copies(part) else size


def looks(word: Word, tensors: Tensors, at: int = 0) -> Iterator[tuple[list[Part], int]]:
    """`reads`, with larger pieces of what is on another device."""

    def limit(part: Part) -> int | None:
        copied = _COPIED if tensors.copies(part) else _THERE
        return copied if tensors.is_elsewhere(part) else None

    for most, run in groupby(word, limit):
        parts = tuple(run)
        pieces = (p for part in parts for p in subparts(part, most))
        yield from _numbered(grouped(pieces, padded_words, (most or JOINED) // WORD), at)
        at += padded_words(*parts)


def _numbered(
    groups: Iterable[list[Part]], at: int
) -> Generator[tuple[list[Part], int], None, None]:
    for pieces in groups:
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


def sums(code: SumsCode, word: Word, tensors: Tensors, few: bool = False) -> Sums:
    """The sums of a word, all or `SumsCode.few`, read once.

    Those of parts on other devices are computed there; threads share the work if there are none.
    """
    if not any(map(tensors.is_elsewhere, word)):
        return _sums_here(code, word, tensors, few)
    total, rest = code.zeros(few), list[tuple[Part, int]]()

    def views() -> Iterator[tuple[Any, int]]:
        for part, at in zip(word, word.lines, strict=True):
            elements = None if tensors.copies(part) else tensors.resident(part)
            if elements is None:
                rest.append((part, at))
            else:
                yield elements, at

    code.accumulate_resident(total, views())
    for part, at in rest:
        for pieces, start in looks(Word((part,)), tensors, at):
            add_sums(code, tensors, pieces, start, total)
    return total


def _sums_here(code: SumsCode, word: Word, tensors: Tensors, few: bool) -> Sums:
    """The sums of a word in memory; threads share the work."""
    alone = tensors.spread.several  # all processes must read in the same order
    threads = 1 if alone else threads_for(word.padded, tensors.threads)
    most = viewed(tensors, word.padded, threads)
    work = (partial(add_sums, code, tensors, *piece) for piece in reads(word, most=most))
    return add_up(code, work, few, threads)


def threads_for(words: int, most: int | None = None) -> int:
    """How many threads, at most so many, sum up so many words in memory faster than fewer do."""
    return max(1, min(most or cores(), words // _SHARE))


def add_up(
    code: SumsCode,
    work: Generator[Callable[[Sums], object], None, None],
    few: bool = False,
    threads: int = 1,
) -> Sums:
    """All sums, or `SumsCode.few`, that calls add to what they are given; threads share them."""
    lock = Lock()

    def some() -> Sums:
        total = code.zeros(few)
        while True:
            with lock:
                add = next(work, None)
            if add is None:
                return total
            add(total)

    if threads == 1:
        return some()
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(some) for _ in range(threads)]
        try:
            done, _ = wait(parts, return_when=FIRST_EXCEPTION)
            for part in done:
                part.result()  # raises, whichever failed
            return reduce(code.add, [part.result() for part in parts])
        finally:  # after an interrupt, or if a piece cannot be read, the rest is not waited for
            with lock:
                work.close()


def add_sums(code: SumsCode, tensors: Tensors, pieces: list[Part], start: int, total: Sums) -> None:
    """Add the sums of pieces that follow each other into ``total``.

    Those of pieces on other devices are computed there, together.
    """
    elsewhere = [tensors.resident(piece) for piece in pieces]
    if all(elements is None for elements in elsewhere):
        code.accumulate(total, joined(pieces, [tensors.read(piece) for piece in pieces]), start)
        return
    there = []
    for (piece, at), elements in zip(_starts(pieces, start), elsewhere, strict=True):
        if elements is None:
            code.accumulate(total, words_of(tensors.read(piece)), at)
        else:
            there.append((elements, at))
    code.accumulate_resident(total, there)
