"""Patterns that act on bits, whatever number they stand for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from parimend.faults.errors import FaultError
from parimend.faults.formats import Bits
from parimend.faults.pattern import Pattern
from parimend.faults.stream import Stream
from parimend.faults.words import Words

__all__ = ["BitFlip", "MultiFlip", "RandomBits", "Sign", "Zero"]


class BitFlip(Pattern):
    """One bit of the word, uniformly chosen, is inverted."""

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        bit = stream.integers(self.format.width, before.size).astype(before.dtype)
        return before ^ (before.dtype.type(1) << bit)


class MultiFlip(Pattern):
    """Several distinct bits of the word are inverted.

    Args:
        words: any dtype.
        fewest: least number of bits, at least 1.
        most: greatest number of bits, at most the width of the words. The number is uniform
            between the two, and so is the choice of that many bits.

    Raises:
        FaultError: not 1 <= fewest <= most <= width.
    """

    def __init__(self, words: Words, *, fewest: int = 2, most: int = 8) -> None:
        super().__init__(words)
        if not 1 <= fewest <= most <= self.format.width:
            raise FaultError(
                f"tensor {words.name!r}: fewest={fewest}, most={most} do not fit {words.dtype}; "
                f"take 1 <= fewest <= most <= {self.format.width}"
            )
        self.fewest = fewest
        self.most = most

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        choices = self.most - self.fewest + 1
        missing = stream.integers(choices, before.size).astype(np.int64) + self.fewest
        mask = np.zeros_like(before)
        while (open_ := np.flatnonzero(missing)).size:
            bit = stream.integers(self.format.width, open_.size).astype(before.dtype)
            flip = before.dtype.type(1) << bit
            missing[open_] -= (mask[open_] & flip) == 0
            mask[open_] |= flip
        return before ^ mask


class Sign(Pattern):
    """The sign bit of a float is inverted; a signed integer is negated (two's complement).

    Integers that are their own negatives (0 and the least one) cannot be changed.

    Raises:
        FaultError: unsigned integers have no sign.
    """

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        if self.format.family == "unsigned":
            raise FaultError(
                f"tensor {words.name!r}: {words.dtype} words have no sign; "
                f"select other tensors with only=, or take bitflip"
            )

    def changeable(self, before: Bits) -> npt.NDArray[np.bool_]:
        return np.asarray(self._negative(before) != before)

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return self._negative(before)

    def _negative(self, before: Bits) -> Bits:
        if self.format.is_float:
            return before ^ before.dtype.type(self.format.sign_bit)
        return ~before + before.dtype.type(1)


class Zero(Pattern):
    """Every bit is cleared. Words that are zero already (-0.0 is not) cannot be changed."""

    def changeable(self, before: Bits) -> npt.NDArray[np.bool_]:
        return np.asarray(before != 0)

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return np.zeros_like(before)


class RandomBits(Pattern):
    """The word is overwritten with a uniformly random bit pattern (other than its own)."""

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return stream.integers(1 << self.format.width, before.size).astype(before.dtype)
