"""Tensors that are no whole number of 32-bit words, close together.

Words begin with every tensor, so that one of a single byte is a word of its own. An event that
strikes some memory in a row may therefore strike more words than that memory has.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from parimend.risk.events import Events

_WORD = 4  # bytes
_ENDS = 2  # words that are struck in part, at the beginning and the end


class Crowd(NamedTuple):
    """What lies in the memory of a protected word.

    Attributes:
        nbytes: of all tensors; 0 where that is not needed, as all of them are whole words.
        odd: sizes in bytes of those that are no whole words, and how many of each there are.

    Example:
        >>> crowd = Crowd(10_000, ((2, 1000),))  # scales of 16 bits, in a row
        >>> crowd.words(1024), crowd.words(4)
        (1526, 10)
        >>> crowd.struck_by(Events((1, 4), (0.5, 0.5))).sizes
        (1, 10)
    """

    nbytes: int = 0
    odd: tuple[tuple[int, int], ...] = ()

    def words(self, size: int) -> int:
        """How many words ``size`` of memory in a row strike at most, near tensors that fit in."""
        room, found = _WORD * size, 0
        for nbytes, count in sorted(self.odd, key=lambda each: each[0] / _words_of(each[0])):
            taken = min(count, room // nbytes)
            found += taken * _words_of(nbytes)
            room -= taken * nbytes
        return found + _words_of(room) + _ENDS

    def near(self, size: int) -> float:
        """The share of places, at most, where an event of this size reaches some that fit in."""
        reached = sum(n * (b + _WORD * size) for b, n in self.odd if b <= _WORD * size)
        return min(1.0, reached / self.nbytes)

    def struck_by(self, events: Events) -> Events:
        """The events, in words of these tensors. One of a single word is that of a flipped bit."""
        return _struck(self, events) if self.odd and events.largest > 1 else events


@lru_cache(maxsize=1024)
def _struck(crowd: Crowd, events: Events) -> Events:
    """Kept, since risks are computed again and again to find what meets a target."""
    shares = Counter[int]()
    for size, share in zip(events.sizes, events.shares, strict=True):
        more = crowd.words(size)
        near = crowd.near(size) if size > 1 and more > size else 0.0
        shares[size] += share * (1.0 - near)  # type: ignore[assignment]
        shares[more] += share * near  # type: ignore[assignment]
    return Events.of({size: share for size, share in shares.items() if share})


def _words_of(nbytes: int) -> int:
    return -(-nbytes // _WORD)
