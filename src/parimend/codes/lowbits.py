"""Sparse codes on bit patterns: checks that are paid for in the lowest mantissa bits.

Words are the 32-bit patterns of float32 weights, as unsigned integers, and H q = c holds modulo
2^64. Coefficients fill 63 bits, so that a wrong word is named by one check in spite of its 32 bits;
imposing a check takes a few dozen units in the last place of the weights that it owns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from parimend.codes.structure import SparseIntegers
from parimend.errors import SpecError
from parimend.words.layout import Word


@dataclass(frozen=True)
class LowBits(SparseIntegers):
    """A sparse code on 32-bit patterns, modulo 2^64; see `SparseIntegers` for the parameters.

    Example:
        >>> code = LowBits.for_errors(5120, 210)
        >>> code.m, code.own
        (319, 12)
    """

    weights: tuple[tuple[int, int], ...] = ((3, 920), (16, 80))
    word_bits: int = 32
    coefficient_bits: int = 63

    family: ClassVar[str] = "lowbits"
    _fewest_owned: ClassVar[int] = 6

    def _check_bits(self, what: str) -> None:
        if (self.word_bits, self.coefficient_bits) != (32, 63):
            raise SpecError(f"{what}: low bits take word_bits=32 and coefficient_bits=63")

    def fits(self, word: Word) -> bool:
        floats = all(part.dtype == "F32" for part in word)
        return self.n == word.elements and not word.masked and floats

    @classmethod
    def _coefficient_bits(cls, word_bits: int, own: int = 12, members: int = 1) -> int:
        return 63

    @classmethod
    def _pairs_possible(cls, n: int, m: int, word_bits: int) -> bool:
        return False  # two unknown words of 32 bits leave nothing of a check of 64
