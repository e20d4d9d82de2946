"""The compiled searches of `parimend.decoders.certificate`: pairs that cancel, stopping sets."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.peeling_numba import U, short_vectors
from parimend.kernels.search_numba import grown

_NEED = 3  # columns in every check of a stopping set
_TWO = 1 << 20  # a check that lacks two: more than any set lacks
_FINDING = 2  # columns that are looked at while those that two checks share are found
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


@nb.njit
def _neighbours(start, row, row_start, column):
    """(starts, checks, columns): the columns of every check with each other check that they are in,
    sorted by that one.
    """
    starts = np.zeros(row_start.size, np.int64)
    for c in range(row_start.size - 1):
        starts[c + 1] = starts[c]
        for q in range(row_start[c], row_start[c + 1]):
            starts[c + 1] += start[column[q] + 1] - start[column[q]] - 1
    end = starts[:-1].copy()
    checks, columns = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    for other in range(row_start.size - 1):
        for q in range(row_start[other], row_start[other + 1]):
            i = column[q]
            for p in range(start[i], start[i + 1]):
                if row[p] != other:
                    checks[end[row[p]]], columns[end[row[p]]] = other, i
                    end[row[p]] += 1
    return starts, checks, columns


@nb.njit(inline="always")
def _scarcest(touched, row_start, count):
    """The touched check that lacks fewest columns, of these the one with the fewest to choose from;
    -1 if none lacks any.
    """
    best, best_count, best_weight = -1, 0, 0
    for c in touched:
        weight = row_start[c + 1] - row_start[c]
        if best_count < count[c] < _NEED or (count[c] == best_count and weight < best_weight):
            best, best_count, best_weight = c, count[c], weight
    return best


@nb.njit(inline="always")
def _lacks(i, lacks, change, start, row, count):
    """What is lacking once column i is there; without branches, which nobody could foretell."""
    for p in range(start[i], start[i + 1]):
        lacks += change[count[row[p]]]
    return lacks


@nb.njit
def _candidates(deficit, rest, touched, excluded, H, near, count, weights, changes, out):
    """The columns that may come next, into ``out``; returns their number. ``rest`` follow them.

    Some column of a check that lacks one has to come; if none does, one that meets the set. Each
    must leave a deficit that the rest can make up. Columns before the first one are excluded.
    """
    start, row, row_start, column = H
    lightest, heaviest = weights
    lacks, change = deficit - heaviest * rest, changes[int(rest == 1)]
    if rest == 1:  # which adds one column to a check: none may lack two then
        for c in touched:
            lacks += _TWO * (count[c] == 1)
    found = 0
    c = _scarcest(touched, row_start, count)
    if c < 0:
        for i in range(start.size - 1):
            if not excluded[i] and _lacks(i, lacks, change, start, row, count) <= 0:
                for p in range(start[i], start[i + 1]):
                    if count[row[p]]:
                        out[found] = i
                        found += 1
                        break
        return found
    starts, checks, columns = near
    # What a column leaves at least, if this is its only check that is not new. Where that is too
    # much, only those in two of the checks are looked at, unless there are as many of them.
    least = lacks + change[count[c]] + change[0] * (lightest - 1)
    shared = (starts[c + 1] - starts[c]) // len(count) + _FINDING
    if least <= 0 or row_start[c + 1] - row_start[c] < shared * len(touched):
        for q in range(row_start[c], row_start[c + 1]):
            i = column[q]
            if not excluded[i] and _lacks(i, lacks, change, start, row, count) <= 0:
                out[found] = i
                found += 1
        return found
    for other in touched:
        if other == c:
            continue
        low, end = starts[c], starts[c + 1]
        while low < end:
            middle = (low + end) // 2
            if checks[middle] < other:
                low = middle + 1
            else:
                end = middle
        for q in range(low, starts[c + 1]):
            if checks[q] != other:
                break
            i = columns[q]
            if not excluded[i] and _lacks(i, lacks, change, start, row, count) <= 0:
                for p in range(start[i], start[i + 1]):
                    if row[p] != c and count[row[p]]:  # the first of several that it is found by
                        if row[p] == other:
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
    H, near = (start, row, row_start, column), _neighbours(start, row, row_start, column)
    n = start.size - 1
    lightest = heaviest = start[1] - start[0]
    for i in range(n):
        lightest = min(lightest, start[i + 1] - start[i])
        heaviest = max(heaviest, start[i + 1] - start[i])
    weights = (lightest, heaviest)
    changes = np.zeros((2, most + 1), np.int64)  # what one more of so many columns of a check adds
    changes[:, 0], changes[:, 1:_NEED] = _NEED - 1, -1
    changes[1, 0] += _TWO
    changes[1, 1] -= _TWO
    count = np.zeros(row_start.size - 1, np.int64)  # chosen columns in every check
    excluded = np.zeros(n, np.uint8)
    chosen = np.empty(most, np.int64)
    deficit = np.zeros(most + 1, np.int64)  # columns that are lacking in checks, after so many
    touched, met = np.empty(most * heaviest, np.int64), np.zeros(most + 1, np.int64)
    candidate = np.empty((most + 1, n), np.int64)
    candidates, tried = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
    out = np.empty((1024, most), np.int64)
    found = taken = 0
    for i in range(n):
        candidate[0, i] = i  # as first column
    candidates[0] = n
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
            lacking = _lacks(i, deficit[depth], changes[0], start, row, count)
            new = met[depth]
            for p in range(start[i], start[i + 1]):
                if count[row[p]] == 0:
                    touched[new] = row[p]
                    new += 1
                count[row[p]] += 1
            depth += 1
            deficit[depth], met[depth] = lacking, new
            if lacking == 0:
                if found == out.shape[0]:
                    out = grown(out)
                for k in range(most):
                    out[found, k] = chosen[k] if k < depth else -1
                found += 1
            tried[depth], candidates[depth] = 0, 0
            if depth < most:
                candidates[depth] = _candidates(
                    lacking, most - depth - 1, touched[:new], excluded, H, near, count,
                    weights, changes, candidate[depth],
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
