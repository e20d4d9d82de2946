"""Peeling buckets of `Modular` codes: a bucket that holds one wrong word names it.

A bucket changed by (S0, S1) names group g if S1 / S0 = a_g modulo p for a group that exists, and
lane l = bucket - start(g) if that is 0 .. 15. If it holds no other wrong word, that one is wrong by
S0; it is taken out of its buckets in all bands, which may leave other words alone there.

Another band *agrees* if the word's bucket there has changed by the same (S0, S1), and *contradicts*
if its bucket there has not changed at all. A word that more bands contradict than agree to is never
taken out. Of the others, those that a band agrees to go first, as they are safer; those that stand
alone follow when nothing else is left.

What can go wrong, for n words and bands of Z buckets: the ratio of a bucket with several wrong
words is a random residue, so the bucket names a word by accident with probability n / (2^32 Z),
5e-5 for n = 17 million and Z = 78. All other bands must then hold wrong words where that word would
be, or must agree, which takes two words that share two buckets, and another factor 1 / Z. A word
that was taken out wrongly adds errors elsewhere; these are found like any others, and when it is
named again with the opposite damage, the two cancel.

The answer counts only if every sum ends at zero. A wrong one does so if its difference from the
truth is a nonzero word with all sums zero. The likeliest way is that two of t wrong words share
their buckets in all d bands, with probability t^2 / (2 Z^d), and that the word they name by
accident shares them too: another n / (2^32 Z) x Z^(1 - d), in all 1e-17 for t = 210, d = 5. Whoever
repairs should compare a hash of the result besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba as nb
import numpy as np
from numpy.typing import NDArray

from parimend.codes._modular import GROUP, PRIME, bucket, group_of, multiply
from parimend.codes.modular import Modular
from parimend.decoders.base import Decoder, Prepared, nothing
from parimend.errors import SpecError
from parimend.records import Decoding, Verdict

_RULES = ("agree", "alone")
_P = np.uint64(PRIME)


@dataclass(frozen=True)
class Buckets(Decoder):
    """Peeling for `Modular` codes.

    ``values`` are residues, received - original modulo p, see `parimend.codes.modular.restore`.
    Knowing that a word is wrong does not help, as words name themselves: an erasure costs as much
    as an error. ``unexplained`` counts buckets.

    Example:
        >>> code = Modular.for_errors(n=1_000_000, errors=10)
        >>> changed = code.sums_of(np.array([3, 77_777]), np.array([1, PRIME - 5]))
        >>> decoding = Buckets().prepare(code).decode(changed)
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [3, 77777], [1, 4294967306])
    """

    name: ClassVar[str] = "buckets"
    families: ClassVar[tuple[str, ...]] = ("modular",)

    def _prepare(self, code: Modular) -> PreparedBuckets:
        return PreparedBuckets(code)


class PreparedBuckets(Prepared):
    """A `Buckets` made ready for one code."""

    code: Modular

    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        code = self.code
        if noise:
            raise SpecError("sums of bit patterns carry no rounding noise: noise must be 0")
        if int(syndrome.max()) >= PRIME:
            raise SpecError("sums of a modular code are residues, below 2^32 + 15")
        # Even at the highest load that can be peeled at all, a bucket holds less than one word.
        positions = np.empty(2 * code.m, np.int64)
        values = np.empty(2 * code.m, np.uint64)
        counts = np.zeros(len(_RULES), np.int64)
        _peel(syndrome, code.n, code.key, positions, values, counts)
        steps = dict(zip(_RULES, counts.tolist(), strict=True))
        if left := int(np.count_nonzero(syndrome.any(axis=0))):
            return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=left, steps=steps)
        found = counts.sum()
        merged, where = np.unique(
            np.concatenate([positions[:found], erasures]), return_inverse=True
        )
        damage = np.zeros(merged.size, np.int64)
        np.add.at(damage, where[:found], values[:found].astype(np.int64))
        damage %= PRIME
        keep = (damage != 0) | np.isin(merged, erasures)
        return Decoding(Verdict.CORRECTED, merged[keep], damage[keep], steps=steps)


@nb.njit(inline="always")
def _inverse(a):  # type: ignore[no-untyped-def]
    """1 / a modulo p, by Euclid's algorithm: only the magnitudes, as the signs alternate."""
    r, rest = _P, a
    x, y = np.uint64(0), np.uint64(1)
    negative = True
    while rest != 0:
        q = r // rest
        r, rest = rest, r - q * rest
        x, y = y, x + q * y
        negative = not negative
    return _P - x if negative else x


@nb.njit(inline="always")
def _name(s0, s1, n, key, band, b, bands, size):  # type: ignore[no-untyped-def]
    """The word that bucket ``b`` of ``band`` names, or -1."""
    if s0 == 0 or s1 == 0:
        return np.int64(-1)
    a = multiply(s1, _inverse(s0))
    group = group_of(a) if a >> np.uint64(32) == 0 else np.int64(-1)
    if group < 0 or group * GROUP >= n:
        return np.int64(-1)
    lane = b - bucket(key, group, 0, band, bands, size)
    if lane < 0:
        lane += size
    i = group * GROUP + lane
    return i if lane < GROUP and i < n else np.int64(-1)


@nb.njit(inline="always")
def _push(stack, stacked, height, rule, sums, band, b):  # type: ignore[no-untyped-def]
    """Put a bucket on the stack of a rule, if it has changed and is not there yet."""
    j = band * sums.shape[2] + b
    if not stacked[rule, j] and (sums[0, band, b] != 0 or sums[1, band, b] != 0):
        stack[rule, height[rule]] = j
        stacked[rule, j] = True
        height[rule] += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _peel(sums, n, key, positions, values, counts):  # type: ignore[no-untyped-def]
    """Apply the rules until none applies or ``positions`` is full; changes all the arrays."""
    _, bands, size = sums.shape
    # One stack of changed buckets per rule.
    stack = np.empty((2, bands * size), np.int64)
    stacked = np.zeros((2, bands * size), np.bool_)
    height = np.zeros(2, np.int64)
    places = np.empty(bands, np.int64)
    found, before = 0, -1
    while found < positions.size:
        rule = 0 if height[0] else 1
        if height[rule] == 0:
            # The rounds end with one in which no bucket names a word.
            if found == before:
                break
            before = found
            for j in range(bands * size):
                _push(stack, stacked, height, 0, sums, j // size, j % size)
            continue
        height[rule] -= 1
        j = stack[rule, height[rule]]
        stacked[rule, j] = False
        band, b = j // size, j % size
        s0, s1 = sums[0, band, b], sums[1, band, b]
        i = _name(s0, s1, n, key, band, b, bands, size)
        if i < 0:
            continue
        agree, contradict = 0, 0
        for k in range(bands):
            places[k] = bucket(key, i // GROUP, i % GROUP, k, bands, size)
            t0, t1 = sums[0, k, places[k]], sums[1, k, places[k]]
            if k != band:
                agree += t0 == s0 and t1 == s1
                contradict += t0 == 0 and t1 == 0
        if contradict > agree:
            continue
        if agree == 0 and rule == 0:
            _push(stack, stacked, height, 1, sums, band, b)
            continue
        positions[found], values[found] = i, s0
        found += 1
        counts[0 if agree else 1] += 1
        for k in range(bands):
            c = places[k]
            sums[0, k, c] = (sums[0, k, c] + (_P - s0)) % _P
            sums[1, k, c] = (sums[1, k, c] + (_P - s1)) % _P
            _push(stack, stacked, height, 0, sums, k, c)
