"""How many words an event strikes, and how many words are wrong after some time.

Events come independently of each other (a Poisson process), and each strikes some words of 32
bits: one if a particle flips a bit, hundreds if a row of memory fails. The number of wrong words is
compound Poisson. Words that are struck twice are counted twice, so that what follows errs on the
safe side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.arguments import real_number, require, whole_number
from parimend.errors import SpecError
from parimend.record import Record

_MOST = 1 << 48  # words, a petabyte
_SUM = 1e-6  # how far shares may be from a sum of one
_LARGEST = 12  # so many of the largest events are summed up one by one, the rest is bounded
_FAR = 12.0  # standard deviations


class Tails(NamedTuple):
    """Probabilities of the number of wrong words.

    Attributes:
        exactly: (t + 1,) of exactly e.
        more: (t + 1,) of more than e, from above.
    """

    exactly: NDArray[np.float64]
    more: NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Events(Record):
    """Sizes of events.

    Attributes:
        sizes: words of 32 bits that one event strikes, increasing.
        shares: of all events, which have these sizes; they add up to one.

    Example:
        >>> events = Events.of({1: 0.85, 2: 0.10, 8: 0.05})
        >>> events.largest, round(events.mean, 2)
        (8, 1.45)
        >>> round(float(events.tails(expected=0.1, errors=8).more[8]), 6)
        0.000463
    """

    sizes: tuple[int, ...] = (1,)
    shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        require(self.sizes, "sizes", "a tuple; Events.of takes {1: 0.9, 2: 0.1}", Sequence)
        require(self.shares, "shares", "a tuple; Events.of takes {1: 0.9, 2: 0.1}", Sequence)
        if not self.sizes or len(self.sizes) != len(self.shares):
            raise SpecError("events need a share for every size, such as 1:0.85,2:0.15")
        for size in self.sizes:
            whole_number(size, "the size of an event, in words,", least=1, most=_MOST)
        if sorted(set(self.sizes)) != list(self.sizes):
            raise SpecError("sizes of events must increase, each given once")
        for share in self.shares:
            real_number(share, "the share of an event", least=0, most=1)
        if abs((total := math.fsum(self.shares)) - 1.0) > _SUM:
            raise SpecError(f"shares of events must add up to 1, not {total:.6g}")

    @classmethod
    def of(cls, given: Events | Mapping[int, float] | str) -> Events:
        """Events as they are written: ``{1: 0.9, 2: 0.1}`` or ``"1:0.9,2:0.1"``.

        Raises:
            SpecError: if that cannot be.
        """
        if isinstance(given, Events):
            return given
        if isinstance(given, str):
            given = _parsed(given)
        try:
            pairs = sorted((size, float(share)) for size, share in dict(given).items())
        except (TypeError, ValueError):
            raise SpecError(
                f"events must be sizes and shares, such as {{1: 0.9, 2: 0.1}}, not {given!r:.60}"
            ) from None
        return cls(tuple(size for size, _ in pairs), tuple(share for _, share in pairs))

    @property
    def largest(self) -> int:
        """Words that the largest event strikes."""
        return self.sizes[-1]

    @property
    def mean(self) -> float:
        """Words that an event strikes on average."""
        return math.fsum(n * share for n, share in zip(self.sizes, self.shares, strict=True))

    def beyond(self, errors: int) -> float:
        """Share of the events that strike more than ``errors`` words at once."""
        return math.fsum(s for n, s in zip(self.sizes, self.shares, strict=True) if n > errors)

    def drawn(self, uniforms: NDArray[np.float64]) -> list[int]:
        """The size of an event for each number in [0, 1).

        >>> Events.of({1: 0.85, 8: 0.15}).drawn(np.array([0.0, 0.84, 0.85, 0.99]))
        [1, 1, 8, 8]
        """
        which = np.searchsorted(np.cumsum(self.shares), uniforms, side="right")
        return [self.sizes[k] for k in np.minimum(which, len(self.sizes) - 1).tolist()]

    def tails(self, expected: float, errors: int) -> Tails:
        """How probable it is that 0 .. ``errors`` words are wrong, and that more are.

        An event of more than ``errors`` words is more by itself, and those are counted apart. For
        the others the recursion of Panjer is exact (*Recursive evaluation of a family of
        compound distributions*, ASTIN Bulletin 12, 1981), up to a dozen of the largest above
        ``errors``; what lies beyond is bounded (Chernoff).

        Args:
            expected: number of events.
            errors: up to which the number of words is resolved.
        """
        small = np.array(self.sizes) <= errors
        sizes, shares = np.array(self.sizes)[small], np.array(self.shares)[small]
        large = -math.expm1(-expected * self.beyond(errors))
        mean = expected * float(shares @ sizes)
        spread = _FAR * math.sqrt(expected * float(shares @ sizes**2))
        if mean - spread > errors:  # next to certain, and long to sum up
            return Tails(np.zeros(errors + 1), np.ones(errors + 1))
        most = max(errors + _LARGEST * int(sizes.max(initial=0)), math.ceil(mean + spread))
        exactly = kernels.on("compound").compound(expected, sizes, shares, most)
        rest = large + _chernoff(expected * shares, sizes, most)
        above = np.cumsum(exactly[::-1])[::-1]  # the smallest first
        more = np.append(above[1:], 0.0)[: errors + 1] + rest
        return Tails(exactly[: errors + 1], np.minimum(more, 1.0))


def _chernoff(expected: NDArray[np.float64], sizes: NDArray[np.int64], words: int) -> float:
    """An upper bound of the probability that events of some sizes strike more than so many words.

    Args:
        expected: (k,) number of events of every size.
        sizes: (k,).
        words: that are not too many.
    """
    if not sizes.size:
        return 0.0
    s = np.geomspace(1e-3, 60.0, 200)[:, None] / sizes.max()
    moments = (expected * np.expm1(np.minimum(s * sizes, 600.0))).sum(1)
    return math.exp(min(0.0, float((moments - s[:, 0] * (words + 1)).min())))


def _parsed(text: str) -> dict[int, float]:
    shares: dict[int, float] = {}
    for item in text.split(","):
        size, colon, share = item.partition(":")
        try:
            words, part = int(size), float(share) if colon else 1.0
        except ValueError:
            raise SpecError(
                f"events are written as sizes and shares, such as 1:0.85,2:0.15, not {text!r}"
            ) from None
        if words in shares:
            raise SpecError(f"events of {words} words are given twice in {text!r}")
        shares[words] = part
    return shares


def events_in(words: NDArray[np.int64]) -> int:
    """How many events left these wrong words, at least as many as there were but for chance.

    Wrong words that follow each other are one event; others are counted one by one, so that an
    event which strikes here and there counts several times, which errs on the safe side.

    Args:
        words: (k,) indices of wrong words of 32 bits, in any order.

    >>> events_in(np.array([7, 3, 4, 5, 100]))
    3
    """
    return int(np.count_nonzero(np.diff(np.sort(words), prepend=-2) > 1))
