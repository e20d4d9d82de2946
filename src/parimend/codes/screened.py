"""Many power sums that say what is wrong, and beside them a few that say whether anything is.

A check needs no more than the few: any `first` wrong words change one of them, always, and more, in
disorder or orderly, but for a chance of p^-first, which is 2^-128 for four. They cost a fifth of
what all sums cost. A decoding counts only if it explains the few as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.modular import Modular
from parimend.codes.power import PowerSums
from parimend.codes.sums import Sums, SumsCode
from parimend.errors import SpecError
from parimend.hashing import stream_key
from parimend.kernels.field_numba import PRIME

MOST_POWER = 1000
"""So many errors at most are met with power sums: with more, hashed sums are faster and smaller."""
_SCREEN = 1  # tag of the random stream


@dataclass(frozen=True)
class Screened(SumsCode):
    """``first`` power sums beside m - ``first`` others.

    Args:
        n, m, seed, version: see `Code`; m counts all sums.
        first: even; so many sums are computed for a check.

    Raises:
        SpecError: if no such code exists.

    Example:
        >>> code = Screened(n=17_200_000, m=424)
        >>> code.guaranteed, code.packed_bytes
        (210, 1749)
    """

    first: int = 4

    family: ClassVar[str] = "screened"

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.first
        if isinstance(first, bool) or not isinstance(first, int) or not 2 <= first < self.m:
            raise SpecError(f"first must be a number of sums below m={self.m}, not {first!r}")
        _ = self.parts  # raises

    @cached_property
    def parts(self) -> tuple[PowerSums, PowerSums]:
        """The first sums and the others."""
        apart = int(stream_key(self.seed, _SCREEN))
        return PowerSums(self.n, self.first, apart), PowerSums(
            self.n, self.m - self.first, self.seed
        )

    @property
    def guaranteed(self) -> int:
        """Any so many wrong words are repaired."""
        return self.parts[1].guaranteed

    @property
    def proves(self) -> bool:
        return self.first >= 4

    @property
    def prime(self) -> int:
        return PRIME

    def split(self, sums: Sums) -> tuple[Sums, Sums]:
        """The first sums and the others, sharing the memory."""
        return sums[: self.first], sums[self.first :]

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        first, others = (part.column(i)[1] for part in self.parts)
        return np.arange(self.m), np.concatenate([first, others])

    @property
    def few_shape(self) -> tuple[int, ...]:
        return (self.first,)

    def few(self, sums: Sums) -> Sums:
        return self.split(sums)[0]

    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        for part, mine in self._given(sums):
            part.accumulate(mine, words, start)
        return sums

    def accumulate_resident(self, sums: Sums, pieces: Sequence[tuple[Any, int]]) -> Sums:
        for part, mine in self._given(sums):
            part.accumulate_resident(mine, pieces)
        return sums

    def sums_of(self, positions: Any, values: Any) -> Sums:
        """The syndrome of a few words, all others being zero; see `PowerSums.sums_of`."""
        return np.concatenate([part.sums_of(positions, values) for part in self.parts])

    def _given(self, sums: Sums) -> list[tuple[PowerSums, Sums]]:
        """The parts that sums are given of, and their own."""
        self._checked(sums, self._shape_of(sums))
        return [
            (p, mine) for p, mine in zip(self.parts, self.split(sums), strict=True) if mine.size
        ]


def sums_for(n: int, errors: int, seed: int = 0) -> SumsCode:
    """The code on sums that repairs any ``errors`` wrong ones of n words at the least cost.

    Up to `MOST_POWER` errors that is proven, see `parimend.codes.power`; beyond, it is measured,
    see `Modular.for_errors`.

    Raises:
        SpecError: if ``errors`` is not positive, or n is too large.

    Example:
        >>> [type(sums_for(10**6, t)).__name__ for t in (4, 210, 10_000)]
        ['Screened', 'Screened', 'Modular']
    """
    if errors < 1:
        raise SpecError(f"a code must be made for at least one error, not {errors}")
    t = min(errors, n)
    if t > MOST_POWER:
        return Modular.for_errors(n, errors, seed)
    return Screened(n, 2 * t + 4, seed)
