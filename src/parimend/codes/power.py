"""Power sums of 32-bit words: the code that keeps a promise for any damage, wherever it falls.

The words w_i are elements of the field of p = 2^32 + 24,577 numbers, every word has a point x_i of
its own in it and a factor u_i that is not zero, and the m = 2 t checks are the sums
S_j = sum_i w_i u_i x_i^j for j < 2 t. This is a generalized Reed-Solomon code (I. S. Reed,
G. Solomon, "Polynomial codes over certain finite fields", Journal of the SIAM 8, 1960): any 2 t
columns of H are those of a Vandermonde matrix times factors, so independent, as all x_i differ.
Hence any 2 t wrong words change some sum, and any e wrong words and f erased ones with
2 e + f <= 2 t are repaired, always; no code with as many checks can do more (the Singleton bound).

p is above 2^32, so that every word is its own residue, and 2^13 divides p - 1, so that sums come
from Fourier transforms: words are taken in tiles of B rows of 8, and the word in tile s, row c,
lane l has x = g^-(8 s + l) w^c, with a primitive root g and w of order B >= 2 t. The transform
along the rows gives sum_c w_c w^(c j) for all j at once, in about log2(B) / 2 products a word
instead of 2 t.

Factors are x_i times a random number of the word's place in its tile. Without the random numbers
damage that is the same in all rows of a tile would vanish in the transform, and without the x_i
tiles that change places would leave S_0 as it is: orderly damage of many words has to be seen, too.

All points differ: if g^-r w^c = g^-r' w^c', the B-th power gives g^(B r) = g^(B r'), so
r = r' modulo (p - 1) / B, and as r < n / B + 8 is below that, r = r'; then w^c = w^c', so c = c'.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.sums import Sums, SumsCode
from parimend.errors import SpecError
from parimend.hashing import stream_key
from parimend.kernels.field import PRIME, element
from parimend.kernels.points import LANES, LINE, SIZES, Points
from parimend.lasting import cached_property

MAX_ERRORS = SIZES[-1] // 2
"""Largest t."""
LONGEST = PRIME - 1 - LANES * LANES * SIZES[-1]
"""Words of the longest code: 16 GiB of data, less what the last tile may be filled up with."""
_FACTORS = (2, 29, 101, 179)  # of p - 1 = 2^13 29 101 179
_SMALLEST = 3  # primitive root
_GENERATOR, _FACTOR = 1, 2  # tags of random streams


class _Tables(NamedTuple):
    """What the pass needs; see `parimend.kernels.power_numba`."""

    factor: NDArray[np.float64]
    factor_ratio: NDArray[np.float64]
    root: NDArray[np.float64]
    ratio: NDArray[np.float64]
    turn: NDArray[np.float64]
    turn_ratio: NDArray[np.float64]
    place: NDArray[np.int64]


@dataclass(frozen=True)
class PowerSums(SumsCode):
    """m power sums of n words, which repair any m / 2 wrong ones.

    Args:
        n: number of 32-bit words, at most `LONGEST`.
        m: number of sums, even, at most 2 `MAX_ERRORS`.
        seed: selects the primitive root that the points are powers of.
        version: see `Code`.

    Raises:
        SpecError: if no such code exists.

    Example:
        >>> code = PowerSums.for_errors(n=1_000_000, errors=4)
        >>> code.m, code.packed_bytes, code.guaranteed
        (8, 33, 4)
        >>> words = np.arange(1_000_000, dtype=np.uint32)
        >>> sums = code.syndrome(words)
        >>> words[123_456] ^= 1 << 31
        >>> changed = code.subtract(code.syndrome(words), sums)
        >>> bool((changed == code.sums_of([123_456], [1 << 31])).all())
        True
    """

    family: ClassVar[str] = "power"
    erasures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m % 2 or self.m > 2 * MAX_ERRORS:
            raise SpecError(
                f"power sums come in pairs, 2 to {2 * MAX_ERRORS} of them, not m={self.m}: "
                "ask for fewer errors"
            )
        if self.n > LONGEST:
            raise SpecError(f"power sums hold {LONGEST} words, not {self.n}: split the data")

    @classmethod
    def for_errors(cls, n: int, errors: int, seed: int = 0) -> PowerSums:
        """The code that repairs any ``errors`` wrong words.

        Raises:
            SpecError: if ``errors`` is not in 1 .. `MAX_ERRORS`.
        """
        if not 1 <= errors <= MAX_ERRORS:
            raise SpecError(f"power sums are for 1 to {MAX_ERRORS} errors, not {errors}")
        return cls(n, 2 * errors, seed)

    @property
    def guaranteed(self) -> int:
        """t: any that many wrong words are repaired; with f erasures, any t - f / 2."""
        return self.m // 2

    @property
    def noticed(self) -> int:
        """m: any m columns are independent."""
        return self.m

    @cached_property
    def rows(self) -> int:
        """B, rows of a tile."""
        return next(size for size in SIZES if size >= self.m)

    @cached_property
    def tile(self) -> int:
        """Words in a tile."""
        return LANES * self.rows

    @property
    def generator(self) -> int:
        """g, a primitive root."""
        return self.places.generator

    @property
    def _tables(self) -> _Tables:
        return _tables(self.places, self.m)

    @property
    def places(self) -> Points:
        """What says where the words lie."""
        return _places(self.seed, self.rows)

    def points(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """x_i of words, (k,) float64 elements of the field."""
        return self.places.of(np.ascontiguousarray(positions, np.int64))

    def factors(
        self, positions: NDArray[np.int64], points: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint64]:
        """u_i of words, (k,) uint64 residues; ``points`` are theirs, if these are at hand."""
        return self.places.factors(np.ascontiguousarray(positions, np.int64), points)

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        where = np.array([i])
        x, u = int(self.points(where)[0]), int(self.factors(where)[0])
        powers = [u * pow(x, j, PRIME) % PRIME for j in range(self.m)]
        return np.arange(self.m), np.array(powers, np.uint64)

    @property
    def prime(self) -> int:
        return PRIME

    @property
    def few_shape(self) -> tuple[int, ...]:
        return self.syndrome_shape

    def few(self, sums: Sums) -> Sums:
        return sums

    def accumulate(self, sums: Sums, words: NDArray[np.uint32], start: int = 0) -> Sums:
        """See `SumsCode.accumulate`; ``start`` is a multiple of 8 here.

        A part that does not begin with a tile costs up to one more.
        """
        self._checked(sums)
        self._require_words(words, start, LANES)
        first, skipped = divmod(start, self.tile)
        head = min(-skipped % self.tile, words.size)
        if head:
            tile = np.zeros(skipped + head, np.uint32)
            tile[skipped:] = words[:head]
            self._add_each(tile, np.array([tile.size]), first, sums.reshape(1, -1))
        if rest := words.size - head:
            first += bool(skipped)
            self._add_each(words[head:], np.array([rest]), first, sums.reshape(1, -1))
        return sums

    def accumulate_resident(self, sums: Sums, pieces: Iterable[tuple[Any, int]]) -> Sums:
        self._checked(sums)
        return self._accumulate_there("power", sums, map(_placed, pieces), self.places, self.m)

    def prepare_resident(
        self, pieces: Sequence[tuple[Any, int]], few: bool = False
    ) -> Callable[[], list[Any]] | None:
        loops = kernels.on("power", pieces[0][0].device.type)
        start = loops.prepare(self.places, self.m, pieces)
        return None if start is None else lambda: [start()]

    def kind(self, few: bool = False) -> Hashable:
        return self.seed, self.m

    def of_each(
        self, words: NDArray[np.uint32], ends: NDArray[np.int64], few: bool = False
    ) -> NDArray[np.uint64]:
        self._require_each(words, ends)
        sums = np.zeros((ends.size, self.m), np.uint64)
        self._add_each(words, ends, 0, sums)
        return sums

    @cached_property
    def _inverse(self) -> float:
        """1 / g."""
        return element(pow(self.generator, -1, PRIME))

    def _add_each(
        self, words: NDArray[np.uint32], ends: NDArray[np.int64], first: int, sums: Sums
    ) -> None:
        """Add the sums of words, whose first tile is that with this number, to rows of ``sums``."""
        words = np.require(words, requirements=["C", "A"]).view()
        words.flags.writeable = False  # one compiled variant serves all
        kernels.on("power").add_each(words, ends, first, *self._tables, self._inverse, sums)

    def sums_of(self, positions: Any, values: Any) -> NDArray[np.uint64]:
        positions, residues = self._damage(positions, values)
        total = self.zeros()
        points, loops = self.points(positions), kernels.on("points")
        weighted = loops.products(residues, self.factors(positions, points))
        loops.add_powers(points, weighted.astype(np.float64), total)
        return total


# Codes of many words differ only in their lengths, which these do not depend on.


@lru_cache(maxsize=256)
def _places(seed: int, rows: int) -> Points:
    """The points of codes; g is a large primitive root, as with small ones bursts lie on points
    that are related.
    """
    exponent = int(stream_key(seed, _GENERATOR)) % (PRIME - 1)
    while any(exponent % factor == 0 for factor in _FACTORS):
        exponent += 1
    return Points(pow(_SMALLEST, exponent, PRIME), int(stream_key(seed, _FACTOR)), rows)


@lru_cache(maxsize=16)
def _tables(places: Points, m: int) -> _Tables:
    g, B = places.generator, places.rows
    root = np.zeros(B, np.int64)
    half = 1
    while half < B:
        step, x = pow(g, (PRIME - 1) // (2 * half), PRIME), 1
        for i in range(half):
            root[half + i] = element(x)
            x = x * step % PRIME
        half *= 2
    bits = B.bit_length() - 1
    reverse = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(B)]
    turn = np.array([element(pow(g, LANES * (j + 1), PRIME)) for j in reverse])
    factor = places.factors(np.arange(places.tile)).astype(np.float64)
    factor[factor > PRIME // 2] -= PRIME
    roots = root.astype(np.float64)
    pairs = (each for table in (factor, roots, turn) for each in (table, table / PRIME))
    return _Tables._make([*map(_aligned, pairs), np.array(reverse[:m])])


def _aligned(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy that begins with a line of the processor's caches, so that no vector is in two."""
    room = np.empty(numbers.size + LINE // 8)
    first = -room.ctypes.data % LINE // 8
    copy = room[first : first + numbers.size].reshape(numbers.shape)
    copy[...] = numbers
    return copy


def _placed(piece: tuple[Any, int]) -> tuple[Any, int]:
    """A piece of elements that begins where one may."""
    if piece[1] < 0 or piece[1] % LANES:
        raise SpecError(f"words must begin at a multiple of {LANES}, not at {piece[1]}")
    return piece
