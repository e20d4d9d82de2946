"""A fixed, portable stream of random numbers.

numpy keeps the raw output of its bit generators for ever but not what its sampling functions make
of it, so sampling is written out here, on the raw 64-bit output of Philox4x64-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC11). Only integer operations and correctly rounded
floating-point ones (+ - * / sqrt) are used, one numpy call each, so every platform draws the same
numbers, bit for bit. The tests pin them: a change here would silently change every recorded seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import seed_of

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476


class Stream:
    """Random numbers that depend on a seed and a purpose alone.

    Each request continues where the last one ended. What is rejected along the way is replaced by
    what follows in the stream, so no number depends on how requests are batched inside.

    Args:
        seed: 0 <= seed < 2^64; the low word of the Philox key.
        purpose: any text; its BLAKE2b-64 digest (little-endian) is the high word, so that
            streams of one seed for different purposes have nothing in common.

    Raises:
        SpecError: if the seed is none.

    Example:
        >>> Stream(0, "example").integers(6, 5).tolist()
        [4, 4, 5, 1, 5]
    """

    def __init__(self, seed: int, purpose: str) -> None:
        digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
        key = np.array([seed_of(seed), int.from_bytes(digest, "little")], dtype=np.uint64)
        self._philox = np.random.Philox(key=key)

    def raw(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` raw 64-bit outputs, shape (count,)."""
        return np.asarray(self._philox.random_raw(count), dtype=np.uint64)

    def integers(self, bound: int, count: int) -> NDArray[np.uint64]:
        """Integers uniform over range(bound), 1 <= bound <= 2^64, shape (count,).

        The top bits of each raw output, as many as ``bound - 1`` has; those >= bound are dropped.
        Exactly uniform.
        """
        width = (bound - 1).bit_length()
        if width == 0:
            return np.zeros(count, dtype=np.uint64)
        kept: list[NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
        missing = count
        while missing:
            drawn = self.raw(missing) >> np.uint64(64 - width)
            drawn = drawn[drawn <= np.uint64(bound - 1)]
            kept.append(drawn)
            missing -= drawn.size
        return np.concatenate(kept)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1), equally likely, shape (count,)."""
        return self.integers(1 << 53, count).astype(np.float64) * 2.0**-53

    def distinct(self, bound: int, count: int) -> NDArray[np.int64]:
        """Distinct integers of range(bound), in random order, 0 <= count <= bound < 2^63.

        Memory and time grow with ``count``, not with ``bound``: while at most an eighth of the
        range is asked for, integers are drawn and repeats dropped (exactly uniform); beyond that,
        the range is sorted by raw outputs (uniform but for ties, of probability below
        bound^2 / 2^65).

        Example:
            >>> Stream(0, "example").distinct(10**10, 3).tolist()
            [9290341624, 4250491533, 7384590598]
        """
        if 8 * count > bound:
            return np.argsort(self.raw(bound), kind="stable")[:count].astype(np.int64)
        chosen = np.empty(0, dtype=np.int64)
        while chosen.size < count:
            more = self.integers(bound, count - chosen.size).astype(np.int64)
            chosen = np.concatenate([chosen, more])
            first = np.unique(chosen, return_index=True)[1]
            chosen = chosen[np.sort(first)]
        return chosen

    def shuffled(self, bound: int, batch: int) -> Iterator[NDArray[np.int64]]:
        """All of range(bound) in random order, in batches: ``batch`` first, then doubling sizes.

        Made for searches that mostly end within the first batch; a search that comes near an
        eighth of the range is given the rest of it at once.
        """
        seen = np.empty(0, dtype=np.int64)
        while seen.size < bound:
            left = bound - seen.size
            ranks = self.distinct(left, min(batch, left))
            # The r-th unseen integer is r plus the number of seen ones below it.
            unseen_below = seen - np.arange(seen.size)
            fresh = ranks + np.searchsorted(unseen_below, ranks, side="right")
            yield fresh
            seen = np.sort(np.concatenate([seen, fresh]))
            batch = 2 * batch if 16 * batch <= bound else bound

    def normals(self, count: int) -> NDArray[np.float64]:
        """Standard normal deviates, shape (count,).

        Marsaglia's polar method on pairs of raw outputs (top 53 bits each, mapped to [-1, 1)).
        """
        kept: list[NDArray[np.float64]] = [np.empty(0)]
        missing = -(-count // 2)
        while missing:
            pairs = self.raw(2 * missing).reshape(-1, 2) >> np.uint64(11)
            points = pairs.astype(np.float64) * 2.0**-52 - 1.0
            radius = points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]
            inside = (radius > 0) & (radius < 1)
            points, radius = points[inside], radius[inside]
            factor = np.sqrt(-2.0 * log(radius) / radius)
            kept.append((points * factor[:, None]).reshape(-1))
            missing -= radius.size
        return np.concatenate(kept)[:count]


def log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of positive normal numbers, error at most two units in the last place.

    Library logarithms differ between platforms in the last bit; this one cannot. With
    x = m 2^e and t = (m - 1) / (m + 1), log m = 2 (t + t^3/3 + t^5/5 + ...), |t| < 0.172.
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, 2.0 * mantissa, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    t = (mantissa - 1.0) / (mantissa + 1.0)
    square = t * t
    series = np.full_like(t, 1.0 / 23.0)
    for odd in range(21, 0, -2):
        series = series * square + 1.0 / odd
    return exponent.astype(np.float64) * _LN2 + 2.0 * t * series
