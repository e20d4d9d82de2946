"""How sparse integer parity-check matrices are built: the same for all families that have one.

H has a few nonzero coefficients per column, odd integers of equal size and random sign. Words are
integers, so syndromes are exact: no threshold, no false alarm, and a check that holds a single
wrong word names it alone, because only the right column divides the syndrome to a small number.

Built in:

* Rows are balanced (each choice of a check takes the emptier of two), and no two columns have the
  same support.
* All checks but the last ``free`` can be imposed exactly, one after the other: check j *owns*
  ``own`` columns whose other checks all come later, so moving them never disturbs an earlier check.
  The last ``free`` checks keep whatever value they get, which is sealed.
* The first two columns that a check owns have coprime coefficients in it, so that every residual
  can be cancelled.
* Columns are permuted, so that bursts of damage fall on unrelated checks.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.arguments import whole_number
from parimend.codes.base import MAX_WORDS, Code
from parimend.codes.promise import CROWDED, MEASURED, SHARE, Chance, Promise
from parimend.codes.sizing import EVEN, FEW, choices, sizes_for
from parimend.errors import SealError, SpecError
from parimend.hashing import stream_key
from parimend.lasting import cached_property
from parimend.words.layout import Word

MAX_CHECKS = (1 << 31) - 1
"""Most checks of a code: their numbers are kept in 32 bits."""
MAX_WEIGHT = 64
"""Largest column weight: a heavier column only makes errors harder to tell apart."""

_SUPPORTS, _ORDER, _COEFFICIENTS = 1, 2, 3  # tags of the three random streams


class Columns(NamedTuple):
    """Columns of H: column i has entries start[i] .. start[i + 1] - 1."""

    start: NDArray[np.int64]
    row: NDArray[np.int32]
    coefficient: NDArray[np.int64]

    def take(self, elements: slice | NDArray[np.int64]) -> Columns:
        """The columns of some elements; those of a slice (with step 1) share the memory of all."""
        if isinstance(elements, slice):
            return Columns(self.start[elements.start : elements.stop + 1], *self[1:])
        lengths = np.diff(self.start)[elements]
        start = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.arange(start[-1]) + np.repeat(self.start[elements] - start[:-1], lengths)
        taken = Columns(start, self.row[entries], self.coefficient[entries])
        for array in taken:  # as those of a code: loops are compiled once for both
            array.setflags(write=False)
        return taken

    def multiply(self, values: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Add to ``y``, (m,), the product of these columns with ``values``, one for each.

        Raises:
            SpecError: if there are more or fewer values.
        """
        self._require_one_each(values)
        return kernels.on("sparse").multiply(*self, values, y)

    def subtract_transposed(self, y: NDArray[np.float64], values: NDArray[Any]) -> None:
        """Subtract from ``values`` the transposed product with ``y``, (m,), in place.

        Raises:
            SpecError: if there are more or fewer values.
        """
        self._require_one_each(values)
        kernels.on("sparse").subtract_transposed(*self, y, values)

    def _require_one_each(self, values: NDArray[Any]) -> None:
        """Compiled loops would go on in memory of others."""
        if values.shape != (self.start.size - 1,):
            raise SpecError(f"{self.start.size - 1} columns have no values of shape {values.shape}")


@dataclass(frozen=True)
class SparseIntegers(Code):
    """A code with a sparse H, on words of integers.

    Args:
        n, m, seed, version: see `Code`.
        weights: pairs (column weight, parts per thousand of the columns), lightest first. The rest
            up to 1,000 goes to the lightest weight.
        own: columns that each imposed check owns. More make the exact rounding gentler.
        free: checks at the end that are not imposed but sealed as they are.
        word_bits: words are integers of magnitude below 2^(word_bits - 1).
        coefficient_bits: coefficients have magnitude 2^(coefficient_bits - 1) and more, but less
            than 2^coefficient_bits.

    Raises:
        SpecError: if no such code exists; the message names the field to change.
    """

    weights: tuple[tuple[int, int], ...] = ((2, 500), (3, 500))
    own: int = 8
    free: int = 16
    word_bits: int = 18
    coefficient_bits: int = 44

    _fewest_owned: ClassVar[int]
    """Columns that a check owns if there are so many: with fewer, coefficients are too short or the
    exact rounding is too rough."""
    word_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)
    syndrome_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)

    def __post_init__(self) -> None:
        super().__post_init__()
        what = f"a {self.family} code with n={self.n}, m={self.m}"
        try:
            # Specs read from JSON carry lists.
            object.__setattr__(self, "weights", tuple((d, f) for d, f in self.weights))
        except (TypeError, ValueError):
            raise SpecError(f"{what}: weights must be pairs, not {self.weights!r}") from None
        degrees = [d for d, _ in self.weights]
        parts = [f for _, f in self.weights]
        numbers = (self.own, self.free, self.word_bits, self.coefficient_bits, *degrees, *parts)
        if any(isinstance(x, bool) or not isinstance(x, int) for x in numbers):
            raise SpecError(f"{what}: all parameters must be integers, not {self}")
        if self.m > MAX_CHECKS or self.n > MAX_WORDS:
            raise SpecError(f"{what}: at most n={MAX_WORDS} and m={MAX_CHECKS}: split the word")
        if not degrees or degrees != sorted(set(degrees)) or not 2 <= degrees[0]:
            raise SpecError(f"{what}: column weights must increase from at least 2, not {degrees}")
        if degrees[-1] > MAX_WEIGHT:
            raise SpecError(f"{what}: a column weight is at most {MAX_WEIGHT}, not {degrees[-1]}")
        if min(parts) < 0 or sum(parts) > 1000:
            raise SpecError(f"{what}: parts per thousand must be >= 0 and sum to 1000, not {parts}")
        self._check_bits(what)
        if self.own < 2 or self.free < 0:
            raise SpecError(f"{what}: needs own >= 2 and free >= 0")
        if degrees[-1] > self.m:
            raise SpecError(f"{what}: columns of weight {degrees[-1]} need at least as many checks")
        light = degrees[0]
        if self.free < self.m and choices(self.free, light - 1, self.own) < self.own:
            raise SpecError(
                f"{what}: the last imposed check must own {self.own} distinct columns: free must "
                f"be larger than {self.free}"
            )
        if (owned := self.imposed * self.own) > (there := self._counts()[0][1]):
            raise SpecError(
                f"{what}: {self.imposed} imposed checks own {owned} columns of weight {light}, but "
                f"there are {there}: lower m or own"
            )
        for d, count in self._counts():
            # Supports are drawn until they differ, which takes long when few are left.
            if 10 * count > 7 * choices(self.m, d, 2 * count):
                raise SpecError(
                    f"{what}: too few distinct supports of weight {d}: raise m or the weight"
                )

    @abstractmethod
    def _check_bits(self, what: str) -> None:
        """Raise a `SpecError` unless words and coefficients of so many bits go together."""

    @classmethod
    @abstractmethod
    def _coefficient_bits(cls, word_bits: int, own: int = 12, members: int = 1) -> int:
        """How long coefficients should be, of checks with so many members."""

    @classmethod
    @abstractmethod
    def _pairs_possible(cls, n: int, m: int, word_bits: int) -> bool:
        """Whether two errors in one check can be told apart."""

    @classmethod
    def for_errors(
        cls,
        n: int,
        errors: int,
        *,
        m: int | None = None,
        word_bits: int | None = None,
        seed: int = 0,
    ) -> Self:
        """The code for words of length ``n`` with any ``errors`` of them wrong.

        The number of checks is the smallest for which simulation found at least 99.9 % of random
        damage repaired (`benchmarks/decoding.py`); 99 % where more than an eighth of the weights
        may be wrong. Up to about 30 weights for an error, and 20,000 in all, two errors in one
        check can be told apart and fewer checks than errors are enough; beyond, it takes 1.4 checks
        for an error.

        Args:
            n: length of the word.
            errors: number of wrong words to repair, 1 or more.
            m: number of checks, instead of the smallest that is enough.
            word_bits: bits of the words, sign included; those of the family by default.
            seed: selects one code.

        Raises:
            SpecError: if n is too small for so many errors, or m does not fit; names an n or the m
                that would do.

        Example:
            >>> from parimend.codes import Sparse
            >>> Sparse.for_errors(5120, 210).m
            173
        """
        errors = whole_number(errors, least=1)
        if n < 1 or (m is not None and m < 1):
            raise SpecError(f"a sparse code needs n >= 1 and m >= 1, not n={n}, m={m}")
        word_bits = cls.word_bits if word_bits is None else word_bits
        sizes = sizes_for(
            n,
            errors,
            m,
            lambda m: cls._pairs_possible(n, m, word_bits),
            least_owned=cls._fewest_owned,
        )
        return cls(
            n,
            sizes.m,
            seed,
            weights=sizes.weights,
            own=sizes.own,
            free=sizes.free,
            word_bits=word_bits,
            # With checks to spare, pairs need not be told apart.
            coefficient_bits=cls._coefficient_bits(
                word_bits, sizes.own if sizes.has_spare else 12, sizes.members
            ),
        )

    def promise(self, errors: int, word: Word) -> Promise:
        """See `Code.promise`. A single wrong weight always changes a check, as coefficients are
        odd. A check that finds no sum changed compares the SHA-256, which tells the rest; but not
        of weights that are sharded over processes.
        """
        weights = word.elements_within(errors)
        most = CROWDED if SHARE * weights > self.n else MEASURED
        measured = Chance(errors, most, "random damage") if self._is_usual(weights) else None
        alone = int(word.elements_within(1) == 1)
        return Promise(0, measured=measured, noticed=alone, missed=2.0**-256)

    def _is_usual(self, errors: int) -> bool:
        """Whether it has what was found to be enough for so many wrong weights: checks,
        coefficients as long as codes with so many checks have now, and columns that no check owns.
        """
        fewest, alike = (
            _usual(type(self), self.n, errors, self.word_bits, m) for m in (None, self.m)
        )
        if fewest is None or alike is None:
            return False
        enough = self.m >= fewest.m and self.coefficient_bits >= alike.coefficient_bits
        pairs = self._pairs_possible(self.n, self.m, self.word_bits)
        even = pairs or self.m <= FEW or self.imposed * self.own <= self.n * EVEN // 1000
        return enough and self.own <= alike.own and even

    def _counts(self) -> list[tuple[int, int]]:
        """(column weight, number of columns of that weight), lightest first."""
        heavy = [(d, self.n * f // 1000) for d, f in self.weights[1:]]
        return [(self.weights[0][0], self.n - sum(count for _, count in heavy)), *heavy]

    @property
    def most_errors(self) -> int:
        """Half of the words, at most: so the rest of a word is there before H is made for it."""
        return min(super().most_errors, self.n // 2)

    @property
    def imposed(self) -> int:
        """Number of checks that are imposed on the word; the remaining `free` ones are sealed."""
        return max(self.m - self.free, 0)

    @cached_property
    def _structure(self) -> tuple[Columns, NDArray[np.int64]]:
        drawn, loops = _starts(self._counts()), kernels.on("sparse")
        row = np.empty(drawn[-1], np.int32)
        # Made here and not by the kernel: numpy asks the system for large pages.
        seen = np.zeros(1 << (2 * self.n - 1).bit_length(), np.uint64)
        loops.draw_supports(
            drawn, row, self.m, self.imposed, self.own, stream_key(self.seed, _SUPPORTS), seen
        )
        del seen
        order = loops.permutation(self.n, stream_key(self.seed, _ORDER))
        permuted, start = np.empty_like(row), np.empty_like(drawn)
        loops.permute(drawn, row, order, start, permuted)
        row = permuted
        size = 1 << (self.coefficient_bits - 1)
        coefficient = loops.draw_coefficients(len(row), size, stream_key(self.seed, _COEFFICIENTS))
        owned = order[: self.imposed * self.own].reshape(self.imposed, self.own)
        first, second = start[owned[:, :2]].T  # supports are sorted and the owner comes first
        coefficient[first] = _coprime(coefficient[first], coefficient[second], size)
        for array in (start, row, coefficient, owned):
            array.setflags(write=False)
        return Columns(start, row, coefficient), owned

    @property
    def columns(self) -> Columns:
        """H by columns; read only."""
        return self._structure[0]

    @property
    def owned(self) -> NDArray[np.int64]:
        """(imposed, own): the columns that each imposed check owns; read only."""
        return self._structure[1]

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, row, coefficient = self.columns
        part = slice(start[i], start[i + 1])
        return row[part].astype(np.int64), coefficient[part].copy()

    def _syndrome(self, word: NDArray[Any]) -> NDArray[Any]:
        return self.columns.multiply(word, np.zeros(self.m, np.int64))

    def pack(self, target: NDArray[np.int64]) -> bytes:
        """The free checks as little-endian int64; the others are zero."""
        return target[self.imposed :].astype("<i8").tobytes()

    def unpack(self, data: bytes | memoryview) -> NDArray[np.int64]:
        free = np.frombuffer(data, "<i8") if memoryview(data).nbytes % 8 == 0 else None
        if self.m > self.n or free is None or free.size != self.m - self.imposed:
            raise SealError(f"its {self.m} checks are more than its words, or not all there")
        target = np.zeros(self.m, np.int64)
        target[self.imposed :] = free
        return target

    @property
    def packed_bytes(self) -> int:
        """Length of what `pack` returns."""
        return 8 * (self.m - self.imposed)


@lru_cache(maxsize=1024)
def _usual(
    family: type[SparseIntegers], n: int, errors: int, word_bits: int, m: int | None
) -> SparseIntegers | None:
    """What was found to be enough, with ``m`` checks or as few as are; None if nothing is."""
    try:
        return family.for_errors(n, errors, m=m, word_bits=word_bits)
    except SpecError:
        return None


def _starts(counts: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Where columns begin, and the end: of ``counts`` pairs (entries of a column, columns).

    >>> _starts([(2, 3), (5, 1)])
    array([ 0,  2,  4,  6, 11])
    """
    parts, at = [np.zeros(1, np.int64)], 0
    for entries, count in counts:
        parts.append(np.arange(at + entries, at + entries * count + 1, entries))
        at += entries * count
    return np.concatenate(parts)


def _coprime(first: NDArray[np.int64], second: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``first``, with those that share a factor with their partner in ``second`` replaced by the
    next odd number in size, in a cycle from ``size`` to 2 ``size``.
    """
    first = first.copy()
    while (shared := np.gcd(first, second) != 1).any():
        grown = np.abs(first[shared]) + 2
        first[shared] = np.sign(first[shared]) * np.where(grown < 2 * size, grown, size + 1)
    return first
