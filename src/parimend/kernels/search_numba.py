"""Every explanation of a syndrome by a few wrong words; see `parimend.decoders.peeling`.

Loops stand here for what arrays are sorted, compared and copied with: numba takes seconds to
compile each of these.
"""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.peeling_numba import U, solve_pair


@nb.njit(inline="always")
def grown(array):
    """An array of twice the length that begins with ``array``."""
    larger = np.empty((2 * array.shape[0], array.shape[1]), array.dtype)
    for i in range(array.shape[0]):
        for k in range(array.shape[1]):
            larger[i, k] = array[i, k]
    return larger


@nb.njit
def _add(columns, values, sign, H, rest):
    """Add ``sign`` times what wrong words do to the checks; column -1 is none."""
    start, row, coefficient = H[0], H[1], H[2]
    for k in range(columns.size):
        i = columns[k]
        if i >= 0:
            for p in range(start[i], start[i + 1]):
                rest[row[p]] += sign * coefficient[p] * values[k]


@nb.njit
def _single_names(j, s, H, limit, names, sizes):
    """The words that alone would leave syndrome s in check j."""
    inverse, row_start, column = H[3], H[4], H[5]
    count = 0
    for p in range(row_start[j], row_start[j + 1]):
        x = np.int64(U(s) * inverse[p])
        if -limit < x < limit:
            if count < names.shape[0]:
                names[count, 0], sizes[count, 0] = column[p], x
            count += 1
    return count


@nb.njit
def _pair_names(j, s, H, pairs, limit, names, sizes):
    """The pairs of words that would leave syndrome s in check j."""
    _, _, coefficient, inverse, row_start, column, entry = H
    first, multiplier = pairs
    begin, end = row_start[j], row_start[j + 1]
    bound = U(limit) << U(33)  # as in `peeling_numba`
    at, count = first[j], 0
    for p in range(begin, end):
        for r in range(p + 1, end):
            short = multiplier[at]
            at += 1
            if short * U(s) + bound >= bound + bound or short == 0:
                continue
            a, b = coefficient[entry[p]], coefficient[entry[r]]
            found, x, y = solve_pair(s, a, inverse[p], b, inverse[r], limit)
            if found and x != 0 and y != 0:
                if count < names.shape[0]:
                    names[count, 0], sizes[count, 0] = column[p], x
                    names[count, 1], sizes[count, 1] = column[r], y
                count += 1
    return count


@nb.njit
def _names(j, s, together, H, pairs, limit, names, sizes):
    """What check j names: words, or pairs of them, and their damage, into ``names`` and ``sizes``.

    Returns their number, which may be larger than the room.
    """
    if together == 1:
        return _single_names(j, s, H, limit, names, sizes)
    return _pair_names(j, s, H, pairs, limit, names, sizes)


@nb.njit
def _holds(columns, names, together):
    """Whether one of the named words is in the explanation."""
    held = False
    for k in range(together):
        for i in columns:
            held |= i == names[k]
    return held


@nb.njit
def _sort(columns, values):
    """Sort a few words by their columns, in place."""
    for end in range(1, columns.size):
        for k in range(end, 0, -1):
            if columns[k - 1] <= columns[k]:
                break
            columns[k - 1], columns[k] = columns[k], columns[k - 1]
            values[k - 1], values[k] = values[k], values[k - 1]


@nb.njit
def _differ(a, b):
    """Whether two arrays of one length differ."""
    different = False
    for k in range(a.size):
        different |= a[k] != b[k]
    return different


@kept()
def explanations(start, row, coefficient, inverse, row_start, column, entry, first, multiplier,
                 syndrome, erased, limit, most):  # fmt: skip
    """Explain the syndrome by at most ``most`` wrong words, erased ones counted, in every way.

    Partial explanations are extended by every word, and every pair of words, that a check which is
    still unexplained names.

    Returns:
        (how many explanations there are, 2 if several; columns, (most,) with -1 for none; values).
    """
    H = (start, row, coefficient, inverse, row_start, column, entry)
    pairs = (first, multiplier)
    rest = syndrome.copy()
    heaviest, known = 0, 0
    for i in range(start.size - 1):
        heaviest = max(heaviest, start[i + 1] - start[i])
        known += erased[i]
    names, sizes = np.empty((64, 2), np.int64), np.empty((64, 2), np.int64)
    stack = np.full((64, most), -1, np.int64)
    stack_values = np.zeros((64, most), np.int64)
    top, found = 1, 0
    largest = 2 if multiplier.size else 1  # words that one check may name
    answer = np.full(most, -1, np.int64)
    answer_values = np.zeros(most, np.int64)
    while top:
        top -= 1
        columns, values = stack[top].copy(), stack_values[top].copy()
        words, others = 0, 0  # in the explanation; of them not erased
        for i in columns:
            if i >= 0:
                words += 1
                others += 1 - erased[i]
        if others + known > most:
            continue
        _add(columns, values, -1, H, rest)
        wrong = np.flatnonzero(rest)
        if wrong.size == 0:
            _sort(columns, values)
            if found and (_differ(columns, answer) or _differ(values, answer_values)):
                return 2, answer, answer_values
            answer, answer_values, found = columns, values, 1
        elif wrong.size <= heaviest * (most - words):
            for together in range(1, min(largest, most - words) + 1):
                for j in wrong:
                    count = _names(j, rest[j], together, H, pairs, limit, names, sizes)
                    if count > names.shape[0]:
                        names = np.empty((count, 2), np.int64)
                        sizes = np.empty((count, 2), np.int64)
                        _names(j, rest[j], together, H, pairs, limit, names, sizes)
                    for c in range(count):
                        if _holds(columns, names[c], together):
                            continue
                        if top == stack.shape[0]:
                            stack, stack_values = grown(stack), grown(stack_values)
                        for k in range(most):
                            stack[top, k], stack_values[top, k] = columns[k], values[k]
                        for k in range(together):
                            stack[top, words + k] = names[c, k]
                            stack_values[top, words + k] = sizes[c, k]
                        top += 1
        _add(columns, values, 1, H, rest)
    return found, answer, answer_values
