"""Clearing the imposed checks of a word one after the other: over the integers, and modulo 2^64."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.lattice_numba import shorten


@nb.njit(inline="always")
def _move(start, row, coefficient, columns, v, word, syndrome):
    """Move the words of some columns, and the syndrome with them."""
    for c in range(columns.size):
        i = columns[c]
        word[i] += v[c]
        for p in range(start[i], start[i + 1]):
            syndrome[row[p]] += coefficient[p] * v[c]


@kept()
def clear_exactly(start, row, coefficient, owned, own, bases, units, word, syndrome):
    """Clear the checks over the integers; see `parimend.impose.rounding`. Moves ``word``."""
    checks, k = owned.shape
    v = np.empty(k, np.int64)
    for j in range(checks):
        # Spread the residual in the reals, then settle the integer rest in the lattice.
        a = own[j]
        rest = -syndrome[j]
        norm = 0.0
        for c in range(k):
            norm += np.float64(a[c]) * a[c]
        share = rest / norm
        for c in range(k):
            v[c] = np.int64(np.rint(share * a[c]))
        for c in range(k):
            rest -= a[c] * v[c]
        for c in range(k):
            v[c] += rest * units[j, c]
        shorten(bases[j], v)
        _move(start, row, coefficient, owned[j], v, word, syndrome)


@kept()
def clear_modulo(start, row, coefficient, owned, inverse, bases, word, syndrome):
    """Clear the checks modulo 2^64; see `parimend.impose.lowering`. Moves ``word``."""
    checks, k = owned.shape
    for j in range(checks):
        # (t, 0, .., 0) clears the check. Shortening it at once would overflow: its upper half is
        # replaced by that many times a short vector that is worth (2^32, 0, .., 0).
        t = np.int64(np.uint64(-syndrome[j]) * inverse[j])
        v = np.zeros(k, np.int64)
        v[0] = np.int64(1) << np.int64(32)
        shorten(bases[j], v)
        v *= t >> np.int64(32)
        v[0] += t & np.int64(0xFFFFFFFF)
        shorten(bases[j], v)
        _move(start, row, coefficient, owned[j], v, word, syndrome)
