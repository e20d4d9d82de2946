"""Small words, read and looked at together: each alone would take longer to call for than to read.

Each is seen as if it were alone: its sums and its SHA-256 are what they always are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.summing import JOINED, grouped, joined
from parimend.codes import SumsCode
from parimend.codes.blocks import BLOCK
from parimend.codes.sums import Sums
from parimend.seal import SealedWord
from parimend.stores.base import Tensors
from parimend.words.bits import WORD
from parimend.words.layout import Part, Word

SMALL = BLOCK
"""Words of 32 bits in the largest small one: more take longer to copy than to call for, and their
blocks have digests."""
Clean = dict[int, bool]
"""Numbers of words that were looked at together, and whether they are seen to be as sealed."""


class Read(NamedTuple):
    """Words that were read together.

    Attributes:
        numbers: of them.
        words: they.
        data: the bytes of every part of each.
    """

    numbers: list[int]
    words: list[Word]
    data: list[list[NDArray[np.uint8]]]

    def sha256(self, at: int) -> bytes:
        """That of the word at a place among them."""
        digest = hashlib.sha256()
        for piece in self.data[at]:
            digest.update(piece.data)
        return digest.digest()

    def sums(self, codes: Sequence[SumsCode], few: bool = False) -> list[Sums]:
        """Those of each in the code of its number, all or `SumsCode.few`; flat."""
        kinds = dict[Hashable, list[int]]()
        for at, number in enumerate(self.numbers):
            kinds.setdefault(codes[number].kind(few), []).append(at)
        found = dict[int, Sums]()
        for mine in kinds.values():
            pieces = list(chain.from_iterable(self.words[at] for at in mine))
            words = joined(pieces, list(chain.from_iterable(self.data[at] for at in mine)))
            # A piece that is alone is not filled up.
            ends = np.minimum(np.cumsum([self.words[at].padded for at in mine]), words.size)
            code = max((codes[self.numbers[at]] for at in mine), key=lambda code: code.n)
            found.update(zip(mine, code.of_each(words, ends, few), strict=True))
        return [found[at].reshape(-1) for at in range(len(self.numbers))]


def together(words: Sequence[Word], tensors: Tensors) -> Iterator[Read]:
    """The small ones among some words, if they are several and in the memory of this process."""
    small = [number for number, word in enumerate(words) if _is_small(word, tensors)]
    if len(small) > 1:
        for group in grouped(small, lambda number: words[number].padded, JOINED // WORD):
            yield _read(group, words, tensors)


def _is_small(word: Word, tensors: Tensors) -> bool:
    small = word.padded <= SMALL and not tensors.spread.several
    return small and not any(map(tensors.is_elsewhere, word.parts))


def _read(numbers: list[int], words: Sequence[Word], tensors: Tensors) -> Read:
    """Read some words, and parts of one tensor that follow each other at once."""
    mine = [words[number] for number in numbers]
    runs, places, last = list[list[Part]](), list[tuple[int, int]](), dict[tuple[str, int], int]()
    for part in chain.from_iterable(mine):
        run = last.get(key := (part.name, part.mask), -1)
        if run < 0 or runs[run][-1].start + runs[run][-1].count != part.start:
            run = last[key] = len(runs)
            runs.append([])
        runs[run].append(part)
        places.append((run, part.start))
    data = [tensors.read(_joint(run)) for run in runs]

    def cut() -> Iterator[NDArray[np.uint8]]:
        for part, (run, start) in zip(chain.from_iterable(mine), places, strict=True):
            at = (start - runs[run][0].start) * part.itemsize
            yield data[run][at : at + part.nbytes]

    pieces = cut()
    return Read(numbers, mine, [[next(pieces) for _ in word.parts] for word in mine])


def _joint(run: list[Part]) -> Part:
    """Parts that follow each other as one."""
    first, last = run[0], run[-1]
    return replace(first, count=last.start + last.count - first.start) if run[1:] else first


def clean_by_sha256(words: Sequence[SealedWord], tensors: Tensors) -> Iterator[Clean]:
    """Which of the small words have the SHA-256 that was sealed, if one was."""
    hashed = [number for number, word in enumerate(words) if word.sha256]
    for read in together([words[number].word for number in hashed], tensors):
        yield {
            (number := hashed[each]): read.sha256(at) == words[number].sha256
            for at, each in enumerate(read.numbers)
        }
