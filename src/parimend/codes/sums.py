"""Codes whose checks are sums over 32-bit words: computed in parts, compared, updated.

A few of the sums say whether anything is wrong, all of them say what.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.base import Code
from parimend.errors import SpecError
from parimend.words.bits import WORD
from parimend.words.layout import Word

Sums = NDArray[np.uint64]


class SumsCode(Code):
    """A code on the words of bit patterns; its syndrome is sums, residues modulo a prime."""

    word_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint32)
    syndrome_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint64)

    @property
    @abstractmethod
    def prime(self) -> int:
        """What damage is told modulo; see `restore`."""

    @abstractmethod
    def zeros(self, few: bool = False) -> Sums:
        """The sums of no words, to start `accumulate` with; all, or those of `few`."""

    @abstractmethod
    def few(self, sums: Sums) -> Sums:
        """The sums, among all of them, that say whether anything is wrong at the least cost."""

    @abstractmethod
    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        """Add a part of the words into ``sums``, in place; parts may come in any order.

        Args:
            sums: as `zeros` gives them: all, and then all are summed up, or few.
            words: (k,) uint32: words start .. start + k - 1.
            start: index of the first one, a multiple of 16.

        Returns:
            ``sums``.
        """

    @abstractmethod
    def accumulate_resident(self, sums: Sums, elements: Any, start: int) -> Sums:
        """`accumulate` for elements that are on another device than the CPU, and stay there.

        Args:
            sums: see `accumulate`.
            elements: (k,) tensor of torch, of any dtype with plain bytes; the bytes are filled up
                with zeros to whole words.
            start: index of the first word, a multiple of 16.
        """

    @abstractmethod
    def add(self, a: Sums, b: Sums) -> Sums:
        """a + b, for sums of different words: both all, or both few."""

    @abstractmethod
    def subtract(self, a: Sums, b: Sums) -> Sums:
        """a - b: with the sums of what was received and of the original, what changed."""

    def _require_words(self, words: NDArray[Any], start: int, step: int) -> None:
        """Refuse what cannot be a part of the words, which begins at a multiple of ``step``."""
        if words.dtype != self.word_dtype or words.ndim != 1:
            raise SpecError(f"words must be (k,) uint32, not {words.shape} {words.dtype}")
        if start < 0 or start % step or start + words.size > self.n:
            raise SpecError(
                f"{words.size} words from {start}: the start must be a multiple of {step} and the "
                f"end at most n={self.n}"
            )

    def _syndrome(self, word: NDArray[np.uint32]) -> Sums:
        return self.accumulate(self.zeros(), word)

    def fits(self, word: Word) -> bool:
        return self.n == word.padded

    def most_bytes(self, word: Word) -> int:
        return WORD * self.most_errors


def restore(
    received: NDArray[np.uint32], damage: NDArray[np.int64], prime: int
) -> NDArray[np.uint32] | None:
    """The original words, (received - damage) modulo the prime.

    Args:
        received: (k,) uint32.
        damage: (k,) int64, residues: `Decoding.values`.
        prime: `SumsCode.prime`.

    Returns:
        (k,) uint32, or None if one of them would not be a pattern of 32 bits: then the damage is
        not that of these words and nothing may be changed.
    """
    words = (received.astype(np.int64) - damage) % prime
    return None if (words >> 32).any() else words.astype(np.uint32)
