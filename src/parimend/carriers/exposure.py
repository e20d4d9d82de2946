"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from parimend.codes import Code, Promise, SumsCode
from parimend.risk.crowd import Crowd
from parimend.risk.exposed import Exposed
from parimend.words.bits import WORD
from parimend.words.layout import Word


class Protected(NamedTuple):
    """A protected word, as far as risks depend on it.

    Attributes:
        nbytes: of the bits that are protected.
        length: of its code.
        promise: what is repaired.
        crowd: see `crowded`.
    """

    nbytes: int
    length: int
    promise: Promise
    crowd: Crowd = Crowd()


def crowded(code: Code, word: Word) -> Crowd:
    """The memory of a word where events strike more in it than they do in other words: tensors that
    lie closer together than words of 32 bits (a carrier that counts weights takes them one after
    the other, whatever tensor they are in), and planes.
    """
    if isinstance(code, SumsCode) and (word.odd or word.masked):
        return Crowd(sum(part.nbytes for part in word), word.odd)
    return Crowd()


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
            crowd=word.crowd,
            spread=max(1.0, word.crowd.nbytes / word.nbytes) if word.nbytes else 1.0,
        )
        for (word, times), size in zip(alike.items(), sizes, strict=True)
    ]
