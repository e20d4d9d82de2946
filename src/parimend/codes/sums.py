"""Codes whose checks are sums over 32-bit words: computed in parts, compared, updated.

A few of the sums say whether anything is wrong, all of them say what.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes import residues
from parimend.codes.base import Code
from parimend.codes.promise import Chance, Promise
from parimend.errors import SpecError
from parimend.words.bits import WORD
from parimend.words.layout import Word

Sums = NDArray[np.uint64]
_SMALLEST = 1022  # powers of two down to this one are not rounded to zero


class SumsCode(Code):
    """A code on the words of bit patterns; its syndrome is sums, residues modulo a prime."""

    word_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint32)
    syndrome_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint64)

    @property
    @abstractmethod
    def prime(self) -> int:
        """What damage is told modulo; see `restore`."""

    @property
    @abstractmethod
    def guaranteed(self) -> int:
        """Any that many wrong words are repaired."""

    @property
    @abstractmethod
    def noticed(self) -> int:
        """Any that many wrong words change some sum of `few`; of more that hold any bits with equal
        chance, so many words would have to hold the only ones that leave all of these as they are.
        """

    def bounded(self, errors: int) -> Chance | None:
        """What is proven, over the draw of the seed, of a budget that is not guaranteed."""
        return None

    def measured(self, errors: int) -> Chance | None:
        """What simulations say of a budget that is not guaranteed."""
        return None

    def promise(self, errors: int, word: Word) -> Promise:
        each = word.words_within(1)
        missed = math.ldexp(1.0, -min(word.bits_beyond(self.noticed), _SMALLEST))
        known = Promise(
            self.guaranteed // each,
            noticed=self.noticed // each,
            missed=missed,
            erasures=self.erasures,
        )
        if self.guaranteed >= min(each * errors, self.n):
            return replace(known, guaranteed=errors)
        measured = self.measured(each * errors)
        if each > 1:  # two of a group, of which no bound is known
            return replace(known, measured=measured and replace(measured, errors=errors))
        return replace(known, bound=self.bounded(errors), measured=measured)

    @property
    @abstractmethod
    def few_shape(self) -> tuple[int, ...]:
        """Shape of what `few` gives."""

    def zeros(self, few: bool = False) -> Sums:
        """The sums of no words, to start `accumulate` with; all, or those of `few`."""
        return np.zeros(self.few_shape if few else self.syndrome_shape, np.uint64)

    @abstractmethod
    def few(self, sums: Sums) -> Sums:
        """The sums, among all of them, that say whether anything is wrong at the least cost."""

    @abstractmethod
    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        """Add a part of the words into ``sums``, in place.

        Parts may come in any order, and sums of different parts may be added with `add`: the result
        is exact, so it does not depend on the order. Words that come in no part count as zero.

        Args:
            sums: as `zeros` gives them: all, and then all are summed up, or few.
            words: (k,) uint32: words start .. start + k - 1.
            start: index of the first one, a multiple of 16. (A part that is followed by another
                one has therefore a multiple of 16 words too.)

        Returns:
            ``sums``.

        Raises:
            SpecError: if shapes, dtypes or ``start`` do not fit.

        Example:
            >>> from parimend.codes import sums_for
            >>> code, words = sums_for(100, errors=4), np.arange(100, dtype=np.uint32)
            >>> sums = code.zeros()
            >>> for start in range(0, 100, 48):
            ...     sums = code.accumulate(sums, words[start : start + 48], start)
            >>> bool((sums == code.syndrome(words)).all())
            True
        """

    def kind(self, few: bool = False) -> Hashable:
        """What is the same for codes that have the same sums of the same words, all or `few`,
        however long they are.
        """
        return self

    def of_each(
        self, words: NDArray[np.uint32], ends: NDArray[np.int64], few: bool = False
    ) -> Sums:
        """The sums of several words of codes of this `kind`, of each as a word of its own.

        Args:
            words: (ends[-1],) uint32: one after the other.
            ends: (k,): where each ends, n or fewer after the one before.
            few: whether those of `few` are enough.

        Returns:
            (k, ...) uint64: for each what `accumulate` gives.

        Raises:
            SpecError: if ``ends`` are not those of words of this kind.

        Example:
            >>> from parimend.codes import sums_for
            >>> code, words = sums_for(64, errors=4), np.arange(128, dtype=np.uint32)
            >>> a, b = code.of_each(words, np.array([64, 128]))
            >>> np.array_equal(a, code.syndrome(words[:64])), np.array_equal(b, a)
            (True, False)
        """
        self._require_each(words, ends)
        each = np.split(words, ends[:-1])
        return np.stack([self.accumulate(self.zeros(few), mine) for mine in each])

    @abstractmethod
    def accumulate_resident(self, sums: Sums, pieces: Iterable[tuple[Any, int]]) -> Sums:
        """`accumulate` for elements that are on other devices than the CPU, and stay there.

        Args:
            sums: see `accumulate`.
            pieces: elements and the index of their first word, a multiple of 16. Elements are a
                (k,) tensor of torch, of any dtype with plain bytes; the bytes are filled up with
                zeros to whole words.
        """

    def prepare_resident(
        self, pieces: Sequence[tuple[Any, int]], few: bool = False
    ) -> Callable[[], list[Any]] | None:
        """`accumulate_resident` for elements that stay where they are, again and again.

        Args:
            pieces: see `accumulate_resident`; at least one.
            few: whether those of `few` are enough.

        Returns:
            A function that begins to compute, waits for nothing, and gives tensors of int64 on the
            device: all sums, one after the other, to be reduced modulo the prime. The first tensor
            holds those of `few`, and is the only one if these are asked for. None if there are no
            such kernels for this code and the devices of the pieces.
        """
        return None

    @abstractmethod
    def sums_of(self, positions: Any, values: Any) -> Sums:
        """The syndrome of a few words, all others being zero: what damage does to the sums.

        Args:
            positions: (k,) integers in 0 .. n - 1.
            values: (k,) integers, taken modulo the prime.

        Returns:
            `syndrome_shape` uint64.

        Raises:
            SpecError: if the shapes do not fit or a position is out of range.
        """

    def _accumulate_there(
        self, operation: str, sums: Sums, pieces: Iterable[tuple[Any, int]], *arguments: Any
    ) -> Sums:
        """Add what the kernels of an operation find in pieces, on every type of device.

        Kernels may begin before the last piece is known.
        """
        for device, mine in groupby(pieces, lambda piece: piece[0].device.type):
            sums[...] = self.add(sums, kernels.on(operation, device).sums_of(*arguments, mine))
        return sums

    def add(self, a: Sums, b: Sums) -> Sums:
        """a + b, for sums of different words: both all, or both few."""
        shape = self._shape_of(a)
        return (self._checked(a, shape) + self._checked(b, shape)) % np.uint64(self.prime)

    def subtract(self, a: Sums, b: Sums) -> Sums:
        """a - b: with the sums of what was received and of the original, what changed."""
        negative = np.uint64(self.prime) - self._checked(b)
        return (self._checked(a) + negative) % np.uint64(self.prime)

    def pack(self, target: Sums) -> bytes:
        """All sums as bytes, 33 bits each; see `parimend.codes.residues`."""
        return residues.pack(self._checked(target))

    def unpack(self, data: bytes | memoryview) -> Sums:
        """The inverse of `pack`.

        Raises:
            SealError: if the length is not that of this code, or a value cannot be one of its sums.
        """
        count = math.prod(self.syndrome_shape)
        return residues.unpack(data, count, self.prime).reshape(self.syndrome_shape)

    @property
    def packed_bytes(self) -> int:
        """Length of what `pack` returns."""
        return residues.packed_size(math.prod(self.syndrome_shape))

    def _require_words(self, words: NDArray[Any], start: int, step: int) -> None:
        """Refuse what cannot be a part of the words, which begins at a multiple of ``step``."""
        if words.dtype != self.word_dtype or words.ndim != 1:
            raise SpecError(f"words must be (k,) uint32, not {words.shape} {words.dtype}")
        if start < 0 or start % step or start + words.size > self.n:
            raise SpecError(
                f"{words.size} words from {start}: the start must be a multiple of {step} and the "
                f"end at most n={self.n}"
            )

    def _require_each(self, words: NDArray[Any], ends: NDArray[np.int64]) -> None:
        """Refuse what cannot be several words that follow each other, as kernels would not."""
        lengths = np.diff(ends, prepend=0)
        fit = ends.size and ends[-1] == words.size and 0 < lengths.min() <= lengths.max() <= self.n
        if not fit or ends.dtype != np.int64:
            raise SpecError(
                f"words of this code have 1 to n={self.n} words of 32 bits, and the last of them "
                f"ends with the {words.size} given: {ends} is not where such words end"
            )
        self._require_words(words[:0], 0, 1)

    def _shape_of(self, sums: Sums) -> tuple[int, ...]:
        """The shape that these sums have to have: that of few, if they are few, or that of all."""
        return self.few_shape if sums.shape == self.few_shape else self.syndrome_shape

    def _checked(self, sums: Sums, shape: tuple[int, ...] | None = None) -> Sums:
        """The sums, if they are residues of this shape; by default that of all."""
        shape = shape or self.syndrome_shape
        if sums.shape != shape or sums.dtype != np.uint64:
            raise SpecError(
                f"sums of this code have shape {shape} and dtype uint64, not {sums.shape} and "
                f"{sums.dtype}"
            )
        if sums.max() >= self.prime:
            raise SpecError(f"sums of this code are residues, below 2^32 + {self.prime - 2**32}")
        return sums

    def _damage(self, positions: Any, values: Any) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Positions of words, and what they change by as residues."""
        positions, values = np.asarray(positions, np.int64), np.asarray(values, np.int64)
        if positions.ndim != 1 or positions.shape != values.shape:
            raise SpecError(f"{positions.shape} positions do not go with {values.shape} values")
        if positions.size and not 0 <= positions.min() <= positions.max() < self.n:
            raise SpecError(f"positions must lie in 0 .. {self.n - 1}")
        return positions, (values % self.prime).astype(np.uint64)

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
