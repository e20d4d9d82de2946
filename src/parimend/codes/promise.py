"""What a code promises: three kinds of statement, which are never mixed.

``guaranteed``: any pattern of so many wrong words is repaired, always; there is a proof.
``bound``: a fixed pattern fails with at most a stated probability over the draw of the seed; there
is a formula that is proven. ``measured``: so it was in a simulation, of a named kind of damage.

Beside them, what a check notices, whether it can be repaired or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parimend.record import Record

MEASURED = 1e-3
"""Random damage of the whole budget is not repaired in at most so many cases: what codes without a
proof are dimensioned for, and what ``docs/guarantees.md`` says of them."""


CROWDED, SHARE = 1e-2, 8
"""The same of sparse codes where more than one in so many weights may be wrong."""


@dataclass(frozen=True, repr=False)
class Chance(Record):
    """Up to ``errors`` wrong words of 32 bits are not repaired with at most some probability.

    Attributes:
        errors: number of wrong words.
        probability: at most.
        what: which damage, and how that is known.
    """

    errors: int
    probability: float
    what: str

    @property
    def brief(self) -> str:
        """For tables.

        >>> Chance(210, 0.001, "random damage").brief
        '210, failing <= 0.001'
        """
        return f"{self.errors:,}, failing <= {self.probability:.3g}"


@dataclass(frozen=True, repr=False)
class Promise(Record):
    """What is known of a word's budget.

    Attributes:
        guaranteed: any that many wrong words of 32 bits are repaired, always; 0 if nothing is
            proven.
        bound: what is proven of more words, over the draw of the seed.
        measured: what was seen in simulations.
        noticed: any that many wrong words of 32 bits are noticed by a check, always.
        missed: the probability that a check does not notice more of them, at most, if the bits of
            theirs that are protected hold anything with equal chance afterwards.
        erasures: whether e wrong words and f that are known to be bad are repaired, always, if
            2 e + f is at most twice what is guaranteed.
    """

    guaranteed: int = 0
    bound: Chance | None = None
    measured: Chance | None = None
    noticed: int = 0
    missed: float = 1.0
    erasures: bool = False

    @property
    def errors(self) -> int:
        """More wrong words than these are not counted on."""
        return max(self.guaranteed, self.measured.errors if self.measured else 0)

    @property
    def proven(self) -> bool:
        """Whether all of `errors` is guaranteed."""
        return self.guaranteed >= self.errors

    def failing(self, most: int) -> NDArray[np.float64]:
        """With which probability e wrong words are not repaired, at most: by e, for as many as are
        counted on or as there may be, ``most``.

        A bound is not used: it is for words that do not lie together, as those of a burst do.

        >>> Promise(1, measured=Chance(3, 0.001, "random damage")).failing(100).tolist()
        [0.0, 0.0, 0.001, 0.001]
        """
        failing = np.zeros(min(self.errors, most) + 1)
        if self.measured is not None:
            failing[self.guaranteed + 1 :] = self.measured.probability
        return failing

    def assured(self, guaranteed: int) -> Promise:
        """The promise if any that many wrong words were repaired for certain.

        >>> str(Promise(0, measured=Chance(210, 0.001, "random damage")).assured(2))
        '2 guaranteed, 210 measured'
        """
        return replace(self, guaranteed=max(self.guaranteed, guaranteed))

    @property
    def cells(self) -> tuple[str, str, str]:
        """``guaranteed``, ``bound`` and ``measured`` for tables."""
        chances = (each.brief if each else "-" for each in (self.bound, self.measured))
        return (f"{self.guaranteed:,}", *chances)  # type: ignore[return-value]

    def __str__(self) -> str:
        """In a few words.

        >>> str(Promise(3, measured=Chance(210, 0.001, "random damage")))
        '3 guaranteed, 210 measured'
        """
        known = (("bound", self.bound), ("measured", self.measured))
        more = (f", {each.errors:,} {how}" for how, each in known if each)
        return f"{self.guaranteed:,} guaranteed{''.join(more)}"


def weakest(promises: Iterable[Promise]) -> Promise:
    """What is promised of each of several words; of none, nothing.

    >>> measured = Chance(210, 0.001, "random damage")
    >>> str(weakest([Promise(210), Promise(3, measured=measured)]))
    '3 guaranteed, 210 measured'
    """
    every = list(promises)
    if not every:
        return Promise()
    return Promise(
        min(each.guaranteed for each in every),
        _weakest([(each.guaranteed, each.bound) for each in every]),
        _weakest([(each.guaranteed, each.measured) for each in every]),
        min(each.noticed for each in every),
        max(each.missed for each in every),
        all(each.erasures for each in every),
    )


def _weakest(known: list[tuple[int, Chance | None]]) -> Chance | None:
    """What holds of all: of those without a chance because it is guaranteed."""
    chances = [chance for _, chance in known if chance]
    if not chances:
        return None
    errors = min(chance.errors for chance in chances)
    if any(chance is None and guaranteed < errors for guaranteed, chance in known):
        return None
    worst = max(chances, key=lambda chance: chance.probability)
    return Chance(errors, worst.probability, worst.what)
