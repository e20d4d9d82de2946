"""A few power sums beside another code on sums.

A check needs no more than the few: any `first` wrong words change one of them, always, and more, in
disorder or orderly, but for a chance of p^-first, which is 2^-128 for four. They cost less than any
other sums do. A repair needs all sums, and a decoding counts only if it explains the few as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.codes.power import PowerSums
from parimend.codes.sums import Sums, SumsCode
from parimend.errors import SpecError
from parimend.hashing import stream_key
from parimend.kernels.field import PRIME

_SCREEN = 1  # tag of the random stream
_READ_AGAIN = 1 << 20  # words that are still in the caches for the second code


@dataclass(frozen=True)
class Beside(SumsCode):
    """``first`` power sums beside m - ``first`` other sums modulo the same prime, made flat.

    Args:
        n, m, seed, version: see `Code`; m counts all sums.
        first: even; so many sums are computed for a check.

    Raises:
        SpecError: if no such code exists.
    """

    first: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.first
        if isinstance(first, bool) or not isinstance(first, int) or not 2 <= first < self.m:
            raise SpecError(f"first must be a number of sums below m={self.m}, not {first!r}")
        _ = self.parts  # raises

    @property
    @abstractmethod
    def parts(self) -> tuple[PowerSums, SumsCode]:
        """`_screen` and the code of the other sums."""

    @property
    def _screen(self) -> PowerSums:
        """The code of the first sums; its points are not those of other power sums of this seed."""
        return PowerSums(self.n, self.first, int(stream_key(self.seed, _SCREEN)))

    @property
    def noticed(self) -> int:
        """``first``, see `PowerSums.noticed`."""
        return self.first

    @property
    def prime(self) -> int:
        return PRIME

    def split(self, sums: Sums) -> tuple[Sums, Sums]:
        """The first sums and the others, in the shapes of their codes, sharing the memory."""
        return sums[: self.first], sums[self.first :].reshape(self.parts[1].syndrome_shape)

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        coefficients = self.sums_of([i], [1])
        rows = np.flatnonzero(coefficients)
        return rows, coefficients[rows]

    @property
    def few_shape(self) -> tuple[int, ...]:
        return (self.first,)

    def few(self, sums: Sums) -> Sums:
        return sums[: self.first]

    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        given = self._given(sums)
        step = _READ_AGAIN if len(given) > 1 else max(words.size, 1)
        for first in range(0, words.size, step):
            for part, mine in given:
                part.accumulate(mine, words[first : first + step], start + first)
        return sums

    def kind(self, few: bool = False) -> Hashable:
        return tuple(part.kind() for part in self._of(few))

    def of_each(
        self, words: NDArray[np.uint32], ends: NDArray[np.int64], few: bool = False
    ) -> Sums:
        each = [part.of_each(words, ends) for part in self._of(few)]
        return np.concatenate([sums.reshape(ends.size, -1) for sums in each], axis=1)

    def accumulate_resident(self, sums: Sums, pieces: Iterable[tuple[Any, int]]) -> Sums:
        for (part, mine), some in zip(self._given(sums), tee(pieces), strict=False):
            part.accumulate_resident(mine, some)
        return sums

    def prepare_resident(
        self, pieces: Sequence[tuple[Any, int]], few: bool = False
    ) -> Callable[[], list[Any]] | None:
        starts = [part.prepare_resident(pieces) for part in self._of(few)]
        ready = [start for start in starts if start is not None]
        if len(ready) < len(starts):
            return None
        return lambda: [sums for start in ready for sums in start()]

    def sums_of(self, positions: Any, values: Any) -> Sums:
        return np.concatenate([part.sums_of(positions, values).ravel() for part in self.parts])

    def _of(self, few: bool) -> tuple[SumsCode, ...]:
        """The codes of all sums, or of those of `few`."""
        return self.parts[: 1 if few else 2]

    def _given(self, sums: Sums) -> list[tuple[SumsCode, Sums]]:
        """The parts that sums are given of, and their own."""
        if self._checked(sums, self._shape_of(sums)).size == self.first:
            return [(self.parts[0], sums)]
        return list(zip(self.parts, self.split(sums), strict=True))
