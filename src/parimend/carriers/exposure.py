"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from parimend.codes import Code, Promise, SumsCode
from parimend.risk.chance import Exposed
from parimend.risk.crowd import Crowd
from parimend.words.bits import WORD
from parimend.words.layout import Word


class Protected(NamedTuple):
    """A protected word, as far as risks depend on it.

    Attributes:
        nbytes: of the bits that are protected.
        length: of its code.
        promise: what is repaired.
        odd: see `crowded`.
    """

    nbytes: int
    length: int
    promise: Promise
    odd: tuple[tuple[int, int], ...] = ()


def crowded(code: Code, word: Word) -> tuple[tuple[int, int], ...]:
    """The tensors that lie closer together than words of 32 bits; see `Word.odd`. A carrier that
    counts weights takes them one after the other, whatever tensor they are in.
    """
    return word.odd if isinstance(code, SumsCode) else ()


def exposed(words: Iterable[Protected]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: that are protected.

    >>> large, small = Protected(100, 25, Promise(4)), Protected(60, 15, Promise(4))
    >>> [word.times for word in exposed([large, small, large])]
    [2, 1]
    """
    alike = Counter(words)
    # Words of 32 bits, at most: some lie at the end of a tensor, and are not full.
    sizes = [max(-(-word.nbytes // WORD), word.length) for word in alike]
    largest = max(sizes, default=0)
    return [
        Exposed(
            bits=8.0 * word.nbytes,
            failing=word.promise.failing(largest),
            noticed=word.promise.noticed,
            missed=word.promise.missed,
            erasures=word.promise.erasures,
            times=times,
            words=size,
            crowd=Crowd(word.nbytes, word.odd) if word.odd else Crowd(),
        )
        for (word, times), size in zip(alike.items(), sizes, strict=True)
    ]
