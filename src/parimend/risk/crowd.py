"""Tensors that are no whole number of 32-bit words, close together.

Words begin with every tensor, so that one of a single byte is a word of its own. An event that
strikes some memory in a row may therefore strike more words than that memory has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

from parimend.risk.events import Events

_WORD = 4  # bytes
_ENDS = 2  # words that are struck in part, at the beginning and the end


class Crowd(NamedTuple):
    """What lies in the memory of a protected word.

    What follows a tensor that is no whole number of words is shifted against the words of memory.
    So an event of s >= 2 of those strikes s + 1 protected words nearly everywhere, and one more
    where it holds the last, short word of such a tensor.

    Attributes:
        nbytes: of all tensors; 0 where that is not needed, as all of them are whole words.
        odd: sizes in bytes of those that are no whole words, and how many of each there are.
        shifted: whether such a tensor is in another protected word, which may lie before this one.

    Example:
        >>> crowd = Crowd(10_000, ((2, 1000),))  # scales of 16 bits, in a row
        >>> crowd.words(1024), crowd.words(4)
        (1526, 10)
        >>> crowd.struck_by(Events((1, 4), (0.5, 0.5))).sizes
        (1, 10)
        >>> Crowd(10_000, ((1001, 1),)).struck_by(Events((16,), (1.0,))).sizes
        (17, 18)
    """

    nbytes: int = 0
    odd: tuple[tuple[int, int], ...] = ()
    shifted: bool = False

    def words(self, size: int) -> int:
        """How many words ``size`` of memory in a row strike at most, wherever they are."""
        if not self.odd:
            return size + self.shifted
        room, found = _WORD * size, 0
        for nbytes, count in sorted(self.odd, key=lambda each: each[0] / _words_of(each[0])):
            taken = min(count, room // nbytes)
            found += taken * _words_of(nbytes)
            room -= taken * nbytes
        return found + _words_of(room) + _ENDS

    def most(self, size: int) -> int:
        """How many words an event of several strikes at most, if it is in words of memory."""
        return max(size, self.words(size))

    def near(self, size: int, most: float = math.inf) -> float:
        """The share of places, at most, where an event of this size holds the last word of such a
        tensor, of one of up to ``most`` bytes, and more on both sides of it.
        """
        count = sum(n for nbytes, n in self.odd if nbytes <= most)
        return min(1.0, count * _WORD * size / self.nbytes) if count else 0.0

    def struck_by(self, events: Events, within: bool = False) -> Events:
        """The events, in words of these tensors. One of a single word is that of a flipped bit.

        Args:
            events: in words of memory.
            within: whether their sizes count already that they begin within a word.
        """
        if events.largest == 1 or not (self.odd or self.shifted):
            return events
        return _struck(self, events, within)


@lru_cache(maxsize=1024)
def _struck(crowd: Crowd, events: Events, within: bool) -> Events:
    """Kept, since risks are computed again and again to find what meets a target."""
    shares: defaultdict[int, float] = defaultdict(float)
    for size, share in zip(events.sizes, events.shares, strict=True):
        if size == 1:
            shares[size] += share
            continue
        memory = size - 1 if within else size
        # Only where a whole tensor of that kind lies within there are two such last words.
        near, among = crowd.near(memory), crowd.near(memory, _WORD * memory)
        shares[memory + 1] += share * (1.0 - near)
        shares[memory + 2] += share * (near - among)
        shares[crowd.words(memory)] += share * among
    return Events.of({size: share for size, share in shares.items() if share})


def _words_of(nbytes: int) -> int:
    return -(-nbytes // _WORD)
