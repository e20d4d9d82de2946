"""The compiled searches of `parimend.decoders.certificate`: pairs that cancel, stopping sets."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.peeling_numba import U, short_vectors

_NEED = 3  # columns in every check of a stopping set
# A search is given up where it takes six times as many steps as its share of first columns would
# (the first ones, which have the most candidates, take up to five times as many), and not before
# so many of them.
_SHARE = 6.0
_SOONEST = 0.01


@kept()
def closest_pair(row_start, column, entry, inverse, coefficient):
    """(size, i, k): the pair of columns with the least first short vector among all that meet in a
    check, and the larger entry of that vector, in magnitude; see `peeling_numba.short_vectors`.
    """
    best, one, other = np.int64(1) << 62, -1, -1
    for j in range(row_start.size - 1):
        for p in range(row_start[j], row_start[j + 1]):
            for r in range(p + 1, row_start[j + 1]):
                ratio = U(coefficient[entry[r]]) * inverse[p]
                size = np.int64(1)  # coefficients of equal size cancel with x = +-y
                if ratio + U(1) > U(2):
                    u, v, _, _ = short_vectors(ratio)
                    size = max(abs(u), abs(v))
                if size < best:
                    best, one, other = size, column[p], column[r]
    return best, one, other


@nb.njit(inline="always")
def _deficit_with(i, deficit, start, row, count):
    """How many columns the touched checks lack once column i is there."""
    for p in range(start[i], start[i + 1]):
        if count[row[p]] == 0:
            deficit += _NEED - 1
        elif count[row[p]] < _NEED:
            deficit -= 1
    return deficit


@nb.njit(inline="always")
def _scarcest(chosen, start, row, row_start, count):
    """The touched check that lacks most columns, of these the one with the fewest to choose from;
    -1 if none lacks any.
    """
    best, best_count, best_weight = -1, _NEED, 0
    for i in chosen:
        for p in range(start[i], start[i + 1]):
            c = row[p]
            weight = row_start[c + 1] - row_start[c]
            if count[c] < best_count or (count[c] == best_count < _NEED and weight < best_weight):
                best, best_count, best_weight = c, count[c], weight
    return best


@nb.njit
def _candidates(deficit, left, chosen, excluded, H, count, heaviest, out):
    """The columns that may come next, into ``out``; returns their number.

    Some column of a check that lacks one has to come; if none does, one that meets the set. Later
    columns than the first are candidates. Each must leave a deficit that the rest can make up.
    """
    start, row, row_start, column = H
    found = 0
    c = _scarcest(chosen, start, row, row_start, count)
    if c >= 0:
        for q in range(row_start[c], row_start[c + 1]):
            i = column[q]
            if i <= chosen[0] or excluded[i]:
                continue
            if _deficit_with(i, deficit, start, row, count) <= heaviest * (left - 1):
                out[found] = i
                found += 1
        return found
    for i in range(chosen[0] + 1, start.size - 1):
        if excluded[i] or _deficit_with(i, deficit, start, row, count) > heaviest * (left - 1):
            continue
        for p in range(start[i], start[i + 1]):
            if count[row[p]]:
                out[found] = i
                found += 1
                break
    return found


@kept()
def stopping_sets(start, row, row_start, column, most, steps):
    """All connected sets of at most ``most`` columns that every check they touch holds three of.

    A set grows from its first column. At every step one candidate is taken after the other, and
    those taken before are excluded, so that every set is reached once.

    Returns:
        ((sets, most) columns, -1 for none; whether the search ended within ``steps`` steps, and
        did not look from early on as if it would not).
    """
    H = (start, row, row_start, column)
    n = start.size - 1
    heaviest = 0
    for i in range(n):
        heaviest = max(heaviest, start[i + 1] - start[i])
    count = np.zeros(row_start.size - 1, np.int64)  # chosen columns in every check
    excluded = np.zeros(n, np.uint8)
    chosen = np.empty(most, np.int64)
    deficit = np.zeros(most + 1, np.int64)  # after so many columns
    candidate = np.empty((most + 1, n), np.int64)
    candidates, tried = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
    out = np.full((1024, most), -1, np.int64)
    found = taken = 0
    candidate[0], candidates[0] = np.arange(n), n  # as first column
    depth = 0
    while depth >= 0:
        if tried[depth] < candidates[depth]:
            taken += 1
            if taken > steps * min(1.0, _SHARE * max(tried[0] / n, _SOONEST)):
                return out[:found], False
            i = candidate[depth, tried[depth]]
            tried[depth] += 1
            excluded[i] = 1
            chosen[depth] = i
            deficit[depth + 1] = _deficit_with(i, deficit[depth], start, row, count)
            for p in range(start[i], start[i + 1]):
                count[row[p]] += 1
            depth += 1
            if deficit[depth] == 0:
                if found == out.shape[0]:
                    larger = np.full((2 * found, most), -1, np.int64)
                    larger[:found] = out
                    out = larger
                out[found, :depth] = chosen[:depth]
                found += 1
            tried[depth], candidates[depth] = 0, 0
            left = most - depth
            if left and deficit[depth] <= heaviest * left:
                candidates[depth] = _candidates(
                    deficit[depth], left, chosen[:depth], excluded, H, count, heaviest,
                    candidate[depth],
                )  # fmt: skip
        else:
            for k in range(candidates[depth]):
                excluded[candidate[depth, k]] = 0
            depth -= 1
            if depth >= 0:
                i = chosen[depth]
                for p in range(start[i], start[i + 1]):
                    count[row[p]] -= 1
    return out[:found], True
