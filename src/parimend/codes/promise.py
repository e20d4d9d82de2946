"""What a code promises: three kinds of statement, which are never mixed.

``guaranteed``: any pattern of so many wrong words is repaired, always; there is a proof.
``bound``: a fixed pattern fails with at most a stated probability over the draw of the seed; there
is a formula that is proven. ``measured``: so it was in a simulation, of a named kind of damage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parimend.record import Record

MEASURED = 1e-3
"""Random damage of the whole budget is not repaired in at most so many cases: what codes without a
proof are dimensioned for, and what ``docs/measurements.md`` says of them."""


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


@dataclass(frozen=True, repr=False)
class Promise(Record):
    """What is known of a word's budget.

    Attributes:
        guaranteed: any so many wrong words of 32 bits are repaired, always; 0 if nothing is proven.
        bound: what is proven of more words, over the draw of the seed.
        measured: what was seen in simulations.
        noticed: any so many wrong words of 32 bits are noticed by a check, always.
        missed: probability that more than these are not, at most.
        erasures: whether e wrong words and f that are known to be bad are repaired, always, if
            2 e + f is at most twice what is guaranteed.
    """

    guaranteed: int
    bound: Chance | None = None
    measured: Chance | None = None
    noticed: int = 0
    missed: float = 0.0
    erasures: bool = False

    @property
    def errors(self) -> int:
        """More wrong words than these are not counted on."""
        return max(self.guaranteed, self.measured.errors if self.measured else 0)

    @property
    def proven(self) -> bool:
        """Whether all of `errors` is guaranteed."""
        return self.guaranteed >= self.errors

    def failing(self) -> NDArray[np.float64]:
        """With which probability e wrong words are not repaired, at most: (errors + 1,), by e.

        A bound is not used: it is for words that do not lie together, as those of a burst do.

        >>> Promise(1, measured=Chance(3, 0.001, "random damage")).failing().tolist()
        [0.0, 0.0, 0.001, 0.001]
        """
        failing = np.zeros(self.errors + 1)
        if self.measured is not None:
            failing[self.guaranteed + 1 :] = self.measured.probability
        return failing
