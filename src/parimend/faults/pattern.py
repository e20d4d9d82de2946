"""The base of all patterns: what a struck word becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from parimend.faults.formats import Bits
from parimend.faults.stream import Stream
from parimend.faults.words import Words

__all__ = ["Pattern"]

_ROUNDS = 1000


class Pattern(ABC):
    """One kind of change to single words, bound to one tensor.

    A subclass takes the tensor, and its options as keyword arguments, and checks both at
    construction. It implements :meth:`_draw`, and :meth:`changeable` where some words can stay
    as they are.

    Args:
        words: the tensor that the pattern will strike.

    Raises:
        FaultError: the pattern does not suit the dtype, or an option is out of range.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.format = words.format

    def changeable(self, before: Bits) -> npt.NDArray[np.bool_]:
        """Which of these present patterns the damage can change: bool, same shape."""
        return np.ones(before.shape, dtype=np.bool_)

    def damage(self, before: Bits, stream: Stream) -> Bits:
        """New patterns for words that :meth:`changeable` allows; every one differs from before.

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
