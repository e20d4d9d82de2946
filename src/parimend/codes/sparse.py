"""Sparse integer codes for weights on a fixed-point grid.

Words are small integers, so that checks of 62 bits say much about them, also of two wrong ones at
once. The weights are these integers times a step: the constraint is linear in them, and can be
projected onto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.base import RealCode
from parimend.codes.gram import Gram
from parimend.codes.sizing import lightest
from parimend.codes.structure import SparseIntegers
from parimend.errors import SpecError
from parimend.lasting import cached_property
from parimend.words.grid import Grid
from parimend.words.layout import Word


@dataclass(frozen=True)
class Sparse(SparseIntegers, RealCode):
    """A sparse integer parity-check code; see `SparseIntegers` for the parameters.

    Example:
        >>> code = Sparse(n=5120, m=320)
        >>> rows, coefficients = code.column(0)
        >>> bool((code.syndrome(np.zeros(5120, np.int64)) == 0).all())
        True
    """

    family: ClassVar[str] = "sparse"
    _fewest_owned: ClassVar[int] = 7

    def _check_bits(self, what: str) -> None:
        if not (2 <= self.word_bits <= 32 and 3 <= self.coefficient_bits):
            raise SpecError(f"{what}: needs word_bits in 2 .. 32 and coefficient_bits >= 3")
        if self.word_bits + self.coefficient_bits > 62:
            raise SpecError(
                f"{what}: word_bits + coefficient_bits = "
                f"{self.word_bits + self.coefficient_bits} exceeds 62, so a check with two wrong "
                "words could overflow"
            )

    @classmethod
    def _coefficient_bits(cls, word_bits: int, own: int = 12, members: int = 1) -> int:
        """Long coefficients tell errors apart but cost longer moves to impose, about
        2^(bits / (own - 1)): of a float weight's many steps a few dozen are nothing, of an int8
        weight's 127 they are too much. Yet few of the members of a check may explain it by chance,
        and of pairs of them hardly any.
        """
        least = word_bits + 4 + members.bit_length()
        bits = 62 - word_bits if word_bits >= 16 else max(2 * word_bits + 4, least)
        return min(bits, 62 - word_bits, max(6 * (own - 1) - 2, 16))

    @classmethod
    def _pairs_possible(cls, n: int, m: int, word_bits: int) -> bool:
        """Whether two errors in one check can be told apart: few pairs, much said about each."""
        weight = (lightest(n, m, 2) + 0.5) * n / m
        pairs = weight**2 / 2
        # Expected in all checks together: a single false pair can spoil the word.
        wrong = m * pairs * 2.0 ** (word_bits + 1 - cls._coefficient_bits(word_bits))
        return pairs <= 6_000 and m * pairs <= 2e6 and wrong < 0.5

    def fits(self, word: Word) -> bool:
        grids = (Grid(self.word_bits, part.exponent).holds(part.dtype) for part in word)
        return self.n == word.elements and not word.masked and all(grids)

    @property
    def unit(self) -> float:
        """Size of a coefficient: the syndrome of a word q is `unit` * `matvec` (q)."""
        return float(2**self.coefficient_bits)

    def matvec(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        y = self.columns.multiply(np.asarray(x, np.float64), np.zeros(self.m, np.float64))
        return y / self.unit

    def rmatvec(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        y = np.asarray(y, np.float64)
        if y.shape != (self.m,):  # compiled loops would read memory of others
            raise SpecError(f"a code of {self.m} checks has no multipliers of shape {y.shape}")
        return kernels.on("sparse").multiply_transposed(*self.columns, y / self.unit)

    def _solve_gram(self, residual: NDArray[np.float64], rtol: float) -> NDArray[np.float64]:
        return self.gram.solve(residual, rtol)

    @cached_property
    def gram(self) -> Gram:
        """H H^T."""
        return Gram([(self.columns, 1.0 / self.unit)], self.m)
