"""Patterns: what a struck word becomes.

Here are those that act on bits, whatever number they stand for; see `numeric` for the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from parimend.dtypes import Bits
from parimend.errors import FaultError
from parimend.faults.words import Words
from parimend.rng import Stream

_ROUNDS = 1000


class Pattern(ABC):
    """One kind of change to single words, bound to one tensor.

    A subclass takes the tensor, and its options as keyword arguments, and checks both when it is
    made. It implements `_draw`, and `changeable` where some words cannot be changed.

    Args:
        words: the tensor that the pattern will strike.

    Raises:
        FaultError: if the pattern does not suit the dtype, or an option is out of range.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.format = words.format

    def changeable(self, before: Bits) -> NDArray[np.bool_]:
        """Which of these patterns the damage can change: bool, same shape."""
        return np.ones(before.shape, dtype=np.bool_)

    def damage(self, before: Bits, stream: Stream) -> Bits:
        """New patterns for words that are `changeable`; every one differs from before.

        A draw that happens to give a word its present pattern is repeated for that word.
        """
        after = self._draw(before, stream)
        for _ in range(_ROUNDS):
            same = np.flatnonzero(after == before)
            if not same.size:
                return after
            after[same] = self._draw(before[same], stream)
        raise RuntimeError(f"{type(self).__name__} calls words changeable that it never changes")

    @abstractmethod
    def _draw(self, before: Bits, stream: Stream) -> Bits:
        """Damaged patterns in a new array; words may keep theirs by chance."""


class BitFlip(Pattern):
    """One bit of the word, uniformly chosen, is inverted.

    Args:
        words: any dtype.
        lowest: the least bit that may be struck, counted from 0, the least significant one.
        highest: the greatest one; by default the last of the word.

    Raises:
        FaultError: unless 0 <= lowest <= highest < width.
    """

    def __init__(self, words: Words, *, lowest: int = 0, highest: int | None = None) -> None:
        super().__init__(words)
        highest = self.format.bits - 1 if highest is None else highest
        if not 0 <= lowest <= highest < self.format.bits:
            raise FaultError(
                f"tensor {words.name!r}: lowest={lowest}, highest={highest} do not fit "
                f"{words.dtype}; take 0 <= lowest <= highest < {self.format.bits}"
            )
        self.lowest, self.choices = lowest, highest - lowest + 1

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        bit = stream.integers(self.choices, before.size) + np.uint64(self.lowest)
        return before ^ (before.dtype.type(1) << bit.astype(before.dtype))


class MultiFlip(Pattern):
    """Several distinct bits of the word are inverted.

    Args:
        words: any dtype.
        fewest: least number of bits, at least 1.
        most: greatest number of bits, at most the width of the words. The number is uniform
            between the two, and so is the choice of that many bits.

    Raises:
        FaultError: unless 1 <= fewest <= most <= width.
    """

    def __init__(self, words: Words, *, fewest: int = 2, most: int = 8) -> None:
        super().__init__(words)
        if not 1 <= fewest <= most <= self.format.bits:
            raise FaultError(
                f"tensor {words.name!r}: fewest={fewest}, most={most} do not fit {words.dtype}; "
                f"take 1 <= fewest <= most <= {self.format.bits}"
            )
        self.fewest = fewest
        self.most = most

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        choices = self.most - self.fewest + 1
        missing = stream.integers(choices, before.size).astype(np.int64) + self.fewest
        mask = np.zeros_like(before)
        while (open_ := np.flatnonzero(missing)).size:
            bit = stream.integers(self.format.bits, open_.size).astype(before.dtype)
            flip = before.dtype.type(1) << bit
            missing[open_] -= (mask[open_] & flip) == 0
            mask[open_] |= flip
        return before ^ mask


class DoubleByte(Pattern):
    """Two bytes of the word, side by side, take other values, uniformly chosen.

    Raises:
        FaultError: for words of one byte.
    """

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        if self.format.bits < 16:
            raise FaultError(
                f"tensor {words.name!r}: {words.dtype} elements have one byte; select other "
                "tensors with only=, or take random"
            )

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        place = stream.integers(self.format.bits // 8 - 1, before.size)
        low, high = (stream.integers(255, before.size) + np.uint64(1) for _ in range(2))
        both = (low | high << np.uint64(8)) << (np.uint64(8) * place)
        return before ^ both.astype(before.dtype)


class Sign(Pattern):
    """The sign bit of a float is inverted; a signed integer is negated (two's complement).

    Integers that are their own negatives (0 and the least one) cannot be changed.

    Raises:
        FaultError: for unsigned integers, which have no sign.
    """

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        if not self.format.sign_bit:
            raise FaultError(
                f"tensor {words.name!r}: {words.dtype} elements have no sign; "
                f"select other tensors with only=, or take bitflip"
            )

    def changeable(self, before: Bits) -> NDArray[np.bool_]:
        return np.asarray(self._negative(before) != before)

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return self._negative(before)

    def _negative(self, before: Bits) -> Bits:
        if self.format.is_float:
            return before ^ before.dtype.type(self.format.sign_bit)
        return ~before + before.dtype.type(1)


class Zero(Pattern):
    """Every bit is cleared. Words that are zero already (-0.0 is not) cannot be changed."""

    def changeable(self, before: Bits) -> NDArray[np.bool_]:
        return np.asarray(before != 0)

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return np.zeros_like(before)


class RandomBits(Pattern):
    """The word is overwritten with a uniformly random bit pattern (other than its own)."""

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return stream.integers(1 << self.format.bits, before.size).astype(before.dtype)
