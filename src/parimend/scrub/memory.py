"""Memory that fails again and again: which 32-bit words of it, and since when that is known."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from parimend.carriers.finding import Place
from parimend.seal import SealedWord

FAILURES = 3
"""So many repairs of a place, among the last ones, make it one that fails again and again."""

_RECENT = 64, 100
"""So many of the last repairs are remembered at least; of more words one in so many. Then chance
hardly ever strikes a place three times."""


class Memory:
    """Places that were repaired, and those that are stuck.

    A place is stuck once it was repaired `FAILURES` times among the last repairs, or did not hold
    what was written to it.

    Args:
        words: that are protected.

    Attributes:
        stuck: places by word, in the order in which they were found.
    """

    def __init__(self, words: Sequence[SealedWord]) -> None:
        least, share = _RECENT
        recent = max(least, sum(word.word.padded for word in words) // share)
        self._recent = deque[tuple[SealedWord, Place]](maxlen=recent)
        self._repairs = Counter[tuple[SealedWord, Place]]()
        self.stuck: dict[SealedWord, list[Place]] = {}

    def __len__(self) -> int:
        """Number of stuck places."""
        return sum(map(len, self.stuck.values()))

    def stuck_in(self, word: SealedWord) -> Sequence[Place]:
        """Those of a word."""
        return self.stuck.get(word, ())

    def note(
        self, word: SealedWord, repaired: Iterable[Place], failed: Iterable[Place]
    ) -> list[Place]:
        """Note places that were repaired, and some that did not hold it; returns what is new."""
        known = set(self.stuck_in(word))
        new = [place for place in failed if place not in known]
        for place in repaired:
            if place not in known and self._count(word, place) >= FAILURES:
                new.append(place)
        if new:
            self.stuck.setdefault(word, []).extend(new)
        return new

    def _count(self, word: SealedWord, place: Place) -> int:
        if len(self._recent) == self._recent.maxlen:
            oldest = self._recent[0]
            self._repairs[oldest] -= 1
            if not self._repairs[oldest]:
                del self._repairs[oldest]
        self._recent.append((word, place))
        self._repairs[word, place] += 1
        return self._repairs[word, place]

    def forget(self, tensors: Iterable[str]) -> None:
        """Tensors lie elsewhere now: what is known of their places is of other memory."""
        gone = set(tensors)

        def elsewhere(word: SealedWord, place: Place) -> bool:
            return word.parts[place.part].name in gone

        kept = [each for each in self._recent if not elsewhere(*each)]
        self._recent = deque(kept, self._recent.maxlen)
        self._repairs = Counter(kept)
        for word, places in list(self.stuck.items()):
            left = [place for place in places if not elsewhere(word, place)]
            self.stuck[word] = left
            if not left:
                del self.stuck[word]
