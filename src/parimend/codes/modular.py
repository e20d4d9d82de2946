"""Sums of bit patterns modulo a prime: checks that name their own errors, for data of any type.

Words are raw 32-bit patterns. Nothing is imposed on them; their sums are kept beside the data, and
the difference of two sets of sums tells which words changed, and by how much.

Words are summed into buckets, a group of 16 words (one cache line) at a time: word l of group g
goes to bucket (start_k(g) + l) mod Z in each of a few bands k. A bucket keeps two sums over its
words q, modulo a prime above 2^32, so that each 32-bit pattern is a residue of its own:

    S0 = sum q,    S1 = sum a_g q,    a_g a nonlinear bijection of the 32 bits of g.

A bucket with one wrong word, wrong by e, changes by (e, a_g e): the ratio names the group, the
bucket then names the lane, and the other bands confirm or contradict. So decoding never looks at
the words, and what it takes depends on the number of errors, not on that of words.

The structure is that of an invertible Bloom lookup table (Goodrich, Mitzenmacher, *Invertible Bloom
lookup tables*, Allerton 2011), with three changes: sums are linear, so that they can be computed in
parts, compared and updated; the sum that holds the key also checks it; and words are hashed in
groups, which makes the pass over the words a matter of adding vectors, and keeps the words of a
burst apart, as the words of a group always fall into different buckets.

The prime of version 1 is the smallest above 2^32, p = 2^32 + 15. Version 2 has that of the power
sums, p = 2^32 + 24,577: what is found in sums of one kind can be taken out of those of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.arguments import whole_number
from parimend.codes.base import MAX_WORDS
from parimend.codes.promise import MEASURED, Chance
from parimend.codes.stopping import stopping_bound
from parimend.codes.sums import Sums, SumsCode
from parimend.errors import SpecError
from parimend.hashing import stream_key
from parimend.kernels.field import PRIME
from parimend.kernels.modular import BASE, GROUP, most_groups

PRIMES = {1: (1 << 32) + 15, 2: PRIME}
"""p, by version."""

_STARTS = 1  # tag of the random stream
_LOAD = {3: 1.222, 4: 1.295, 5: 1.425}  # buckets per error that peeling needs, by bands
_FAST_BYTES = 1 << 17  # accumulators up to this size are kept in 8 phases, see `add_groups`


@dataclass(frozen=True)
class Modular(SumsCode):
    """Two sums modulo a prime in each of m buckets, over hashed groups of 16 words.

    Args:
        n: number of 32-bit words, at most 2^36 - 16.
        m: number of buckets, a multiple of ``bands``, at least 16 of them per band.
        seed: see `Code`.
        version: 1, modulo 2^32 + 15; 2, modulo 2^32 + 24,577.
        bands: every word is in one bucket of each band; 2 .. 8.

    `column` and `dense` give the coefficients a_g, an (m, n) matrix H with bands x Z rows, band by
    band: S1 = H q, and S0 is the same with all coefficients replaced by 1.

    Raises:
        SpecError: if no such code exists.

    Example:
        >>> code = Modular.for_errors(n=1_000_000, errors=10)
        >>> words = np.arange(1_000_000, dtype=np.uint32)
        >>> sums = code.syndrome(words)
        >>> words[123_456] ^= 1 << 31
        >>> changed = code.subtract(code.syndrome(words), sums)
        >>> changed.shape, int(np.count_nonzero(changed[0]))  # one bucket in every band
        ((2, 5, 18), 5)
    """

    bands: int = 4

    family: ClassVar[str] = "modular"
    versions: ClassVar[tuple[int, ...]] = tuple(PRIMES)

    def __post_init__(self) -> None:
        super().__post_init__()
        bands = self.bands
        if isinstance(bands, bool) or not isinstance(bands, int) or not 2 <= bands <= 8:
            raise SpecError(f"bands of a modular code must be an integer in 2 .. 8, not {bands!r}")
        if self.m % bands or self.m < GROUP * bands:
            raise SpecError(
                f"m of a modular code with {bands} bands must be a multiple of {bands} and at "
                f"least {GROUP * bands}, not {self.m}: the words of a group need separate buckets"
            )
        if self.n > MAX_WORDS or self.m >= 1 << 32:
            raise SpecError(
                f"a modular code has at most n={MAX_WORDS} words and m={(1 << 32) - 1} buckets, "
                f"not n={self.n}, m={self.m}: split the data"
            )

    @classmethod
    def for_errors(cls, n: int, errors: int, seed: int = 0) -> Modular:
        """The smallest code from which any ``errors`` wrong words can be expected to be repaired.

        For t errors and d bands of Z buckets two bounds are met; the d with fewest buckets wins:

        * t^2 / (2 Z^d) <= 3e-5: the probability that two wrong words share all their buckets, in
          which case neither is ever alone.
        * d Z >= c_d t + 5 sqrt(t) + 14, where c_d is the number of buckets per error from which
          peeling ends almost surely as t grows (Goodrich and Mitzenmacher, table 1). The root
          covers smaller t, measured for bursts, whose groups of 16 scatter most.

        Both are raised by n / 2^37, as in very long codes buckets name more words by accident. How
        often damage of all kinds is then repaired is measured by ``benchmarks/sidecar.py``: above
        99.99 % for up to 10 errors, 99.9 % for all others.

        Raises:
            SpecError: if ``errors`` is not positive.

        Example:
            >>> [Modular.for_errors(17_200_000, t).packed_bytes for t in (1, 10, 210, 1000)]
            [528, 743, 3218, 12111]
        """
        errors = whole_number(errors, least=1)
        t = min(errors, n)
        slack = 1 + n / 2**37

        def buckets(d: int) -> int:
            capacity = (_LOAD[d] * t + 5 * math.sqrt(t) + 14) / d
            return d * max(GROUP, math.ceil(slack * max(capacity, (t * t / 6e-5) ** (1 / d))))

        bands = min(_LOAD, key=buckets)
        return cls(n, buckets(bands), seed, bands=bands)

    def bound(self, errors: int, left: int = 0) -> float:
        """Bound on the probability that peeling leaves more than ``left`` of some wrong words.

        Over the draw of the seed, for any fixed wrong words in different groups of 16; the starts
        of groups are taken for random, and words that buckets name by accident are left out, see
        docs/proofs.md. Damage within groups, such as bursts, is measured.

        Args:
            errors: so many words are wrong.
            left: so many may be left.

        Returns:
            A probability; 1 where the bound says nothing.

        Raises:
            SpecError: if one of them is negative.

        Example:
            >>> code = Modular.for_errors(n=17_200_000, errors=10_000)
            >>> [f"{code.bound(errors, left=4):.0e}" for errors in (1000, 5000, 8000)]
            ['3e-23', '5e-19', '9e-18']
        """
        if errors < 0 or left < 0:
            raise SpecError(f"numbers of words are not negative: errors={errors}, left={left}")
        return stopping_bound(errors, self.bands, self.size, left)

    @property
    def guaranteed(self) -> int:
        """One: of two, all buckets may be the same."""
        return 1

    @property
    def noticed(self) -> int:
        """Two: in a bucket of one band they would have to be of one group, as factors differ, and
        the words of a group are in different buckets.
        """
        return 2

    def measured(self, errors: int) -> Chance | None:
        if self.m < Modular.for_errors(self.n, errors).m:
            return None
        return Chance(errors, MEASURED, "random damage and bursts")

    @property
    def size(self) -> int:
        """Z, the number of buckets in a band."""
        return self.m // self.bands

    @property
    def syndrome_shape(self) -> tuple[int, ...]:
        """(2, bands, Z): S0 and S1 of every bucket."""
        return (2, self.bands, self.size)

    @property
    def key(self) -> np.uint64:
        """Key of the random stream that the starts come from."""
        return stream_key(self.seed, _STARTS)

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        buckets, a = kernels.on("modular").place(self.key, i, self.bands, self.size)
        rows = buckets + self.size * np.arange(self.bands)
        return rows, np.full(self.bands, a, np.uint64)

    @property
    def prime(self) -> int:
        return PRIMES[self.version]

    @property
    def excess(self) -> np.uint64:
        """p - 2^32, as the kernels take it."""
        return np.uint64(self.prime - BASE)

    @property
    def few_shape(self) -> tuple[int, ...]:
        return (2, 1, self.size)

    def few(self, sums: Sums) -> Sums:
        """The sums of one band. One or two wrong words always show in it; so do more that hold any
        bits with equal chance, but for one of 2^-64 that they cancel in both sums of a bucket.
        """
        return sums[:, :1]

    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        """See `SumsCode.accumulate`; ``sums`` may be those of any number of first bands."""
        self._checked(sums, self._shape_of(sums))
        self._require_words(words, start, GROUP)
        # One compiled variant serves all: read-only, aligned and contiguous.
        words = np.require(np.asarray(words), requirements=["C", "A"]).view()
        words.flags.writeable = False
        whole, group = words.size // GROUP, start // GROUP
        bands = sums.shape[1]
        if whole:
            sums[...] = self.add(sums, self._add_up(words[: GROUP * whole], group, bands))
        if words.size % GROUP:
            tail = np.zeros(GROUP, np.uint32)
            tail[: words.size % GROUP] = words[GROUP * whole :]
            tail.flags.writeable = False
            sums[...] = self.add(sums, self._add_up(tail, group + whole, bands))
        return sums

    def accumulate_resident(self, sums: Sums, pieces: Iterable[tuple[Any, int]]) -> Sums:
        return self._accumulate_there("modular", sums, pieces, self, sums.shape[1])

    def _add_up(self, words: NDArray[np.uint32], group: int, bands: int) -> NDArray[np.uint64]:
        """The sums of whole groups, the first of which is ``group``, in the first bands."""
        row = -(-(self.size + GROUP - 1) // 8) * 8
        phases = 8 if 8 * 2 * bands * row * 8 <= _FAST_BYTES else 1
        room = np.empty(2 * bands * phases * row + 7, np.uint64)
        skip = -room.ctypes.data // 8 % 8  # to a multiple of 64 bytes
        partial = room[skip : skip + room.size - 7]
        total = np.zeros((2, bands, self.size), np.uint64)
        shape = ((self.bands + 1) // 2, bands, self.size, phases, row)
        most, loops = most_groups(int(self.excess)), kernels.on("modular")
        for a in range(0, words.size // GROUP, most):
            part = words[GROUP * a : GROUP * (a + most)]
            partial[:] = 0
            loops.add_groups(part, group + a, self.key, self.excess, *shape, partial)
            loops.collect(partial, self.excess, phases, row, total)
        return total

    def sums_of(self, positions: Any, values: Any) -> Sums:
        positions, residues = self._damage(positions, values)
        total = self.zeros()
        kernels.on("modular").add_words(positions, residues, self.key, self.excess, total)
        return total

    def _shape_of(self, sums: Sums) -> tuple[int, ...]:
        """Sums may be those of any number of first bands."""
        if sums.ndim == 3 and 1 <= sums.shape[1] <= self.bands:
            return (2, sums.shape[1], self.size)
        return self.syndrome_shape
