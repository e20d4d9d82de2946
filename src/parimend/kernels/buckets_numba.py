"""The compiled loops of `parimend.decoders.buckets`."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.modular import BASE, GROUP
from parimend.kernels.modular_numba import bucket, group_of, multiply


@nb.njit(inline="always")
def _inverse(a, p):
    """1 / a modulo p, by Euclid's algorithm: only the magnitudes, as the signs alternate."""
    r, rest = p, a
    x, y = np.uint64(0), np.uint64(1)
    negative = True
    while rest != 0:
        q = r // rest
        r, rest = rest, r - q * rest
        x, y = y, x + q * y
        negative = not negative
    return p - x if negative else x


@nb.njit(inline="always")
def _name(s0, s1, n, key, excess, band, b, bands, size):
    """The word that bucket ``b`` of ``band`` names, or -1."""
    if s0 == 0 or s1 == 0:
        return np.int64(-1)
    a = multiply(s1, _inverse(s0, np.uint64(BASE) + excess), excess)
    group = group_of(a) if a >> np.uint64(32) == 0 else np.int64(-1)
    if group < 0 or group * GROUP >= n:
        return np.int64(-1)
    lane = b - bucket(key, group, 0, band, bands, size)
    if lane < 0:
        lane += size
    i = group * GROUP + lane
    return i if lane < GROUP and i < n else np.int64(-1)


@nb.njit(inline="always")
def _push(stack, stacked, height, rule, sums, band, b):
    """Put a bucket on the stack of a rule, if it has changed and is not there yet."""
    j = band * sums.shape[2] + b
    if not stacked[rule, j] and (sums[0, band, b] != 0 or sums[1, band, b] != 0):
        stack[rule, height[rule]] = j
        stacked[rule, j] = True
        height[rule] += 1


@kept(error_model="numpy")
def peel(sums, n, key, excess, positions, values, counts):
    """Apply the rules until none applies or ``positions`` is full; changes all the arrays.

    excess: uint64, that of the prime; see `parimend.kernels.modular_numba`.
    sums: (2, bands, Z) uint64; positions, values: room for what is found; counts: by rule.
    """
    _, bands, size = sums.shape
    p = np.uint64(BASE) + excess
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
        i = _name(s0, s1, n, key, excess, band, b, bands, size)
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
            sums[0, k, c] = (sums[0, k, c] + (p - s0)) % p
            sums[1, k, c] = (sums[1, k, c] + (p - s1)) % p
            _push(stack, stacked, height, 0, sums, k, c)
