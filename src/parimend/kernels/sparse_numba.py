"""The compiled loops of `parimend.codes.structure`: drawing H, and products with it."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.hashing_numba import below, word
from parimend.kernels.keeping_numba import kept
from parimend.kernels.prefetch_numba import prefetch

_DRAWN = 32  # columns that are drawn before the first of them is looked up
_AHEAD = 512  # elements that are asked of memory before their turn


@nb.njit(inline="always")
def _unsigned(row):
    """An index that cannot count from the end, which saves a fifth of the time of a product."""
    return np.uint64(np.uint32(row))


@nb.njit(inline="always")
def _draw_column(row, a, b, owner, m, load, balanced, key, counter):
    """Draw the checks of a column into ``row[a:b]``, sorted; where the stream of ``key`` is then.

    The first is ``owner``, unless that is negative.
    """
    first, low = a, 0
    if owner >= 0:
        row[a] = owner
        first, low = a + 1, owner + 1
    p = first
    while p < b:
        k = low + np.int64(below(word(key, counter), m - low))
        other = low + np.int64(below(word(key, counter + np.uint64(1)), m - low))
        counter += np.uint64(2)
        # The emptier of two balances the rows; where supports run short, any will do.
        if balanced and load[_unsigned(other)] < load[_unsigned(k)]:
            k = other
        fresh = True
        for r in range(a, p):
            if row[r] == k:
                fresh = False
        if fresh:
            row[p] = k
            p += 1
    for r in range(a + 1, b):  # insertion sort: there are only a few
        p = r
        while p > a and row[p - 1] > row[p]:
            row[p - 1], row[p] = row[p], row[p - 1]
            p -= 1
    return counter


@nb.njit(inline="always")
def _slot_of(seen, mark):
    """Where a fingerprint is in a hash table with linear probing, or the free slot for it."""
    mask = np.uint64(seen.size - 1)
    slot = mark >> np.uint64(1) & mask
    while seen[slot] != 0 and seen[slot] != mark:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kept()
def draw_supports(start, row, m, imposed, own, key, seen):
    """Draw the checks of every column, owned columns first; every row of `row` ends up sorted.

    Columns whose support has been drawn before are drawn again. Of fingerprints in a table larger
    than all caches every look is a wait, so some columns are drawn ahead and looked up together;
    if one is drawn again, those after it have not been.

    Args:
        start, row: the columns; ``row`` is written.
        m, imposed, own: of the code.
        key: of the stream.
        seen: zeros, a power of two of them and at least twice as many as columns, for fingerprints.
    """
    n = start.size - 1
    load = np.zeros(m, np.int64)
    hashed = np.empty(m, np.uint64)
    for check in range(m):
        hashed[check] = word(key, ~np.uint64(check))
    marks, counters = np.empty(_DRAWN, np.uint64), np.empty(_DRAWN, np.uint64)
    mask = np.uint64(seen.size - 1)
    counter = np.uint64(0)
    i, tries, ahead = 0, 0, 1
    while i < n:
        count = min(ahead, n - i)
        touched = np.uint64(0)
        for c in range(count):
            a, b = start[i + c], start[i + c + 1]
            j = (i + c) // own
            owner = j if j < imposed else -1
            counter = _draw_column(row, a, b, owner, m, load, tries < 8 or c > 0, key, counter)
            mark = np.uint64(0)
            for r in range(a, b):
                check = _unsigned(row[r])
                load[check] += 1
                mark += hashed[check]
            marks[c], counters[c] = mark | np.uint64(1), counter
        for c in range(count):  # all of them are on their way from memory before one is needed
            touched |= seen[marks[c] >> np.uint64(1) & mask]
        new = 0
        while new < count:
            slot = _slot_of(seen, marks[new])
            if seen[slot] != 0:
                break
            seen[slot] = marks[new]
            new += 1
        i += new
        tries = 0 if new else tries
        ahead = min(2 * ahead, _DRAWN)
        if new < count:
            for p in range(start[i], start[i + count - new]):
                load[_unsigned(row[p])] -= 1
            counter = counters[new]
            tries, ahead = tries + 1, 1
    return touched


@kept()
def draw_coefficients(count, size, key):
    """Odd numbers from ``size`` to 2 ``size``, with random signs."""
    coefficient = np.empty(count, np.int64)
    for p in range(count):
        bits = word(key, np.uint64(p))
        magnitude = np.int64(np.uint64(size) | (bits & np.uint64(size - 1)) | np.uint64(1))
        coefficient[p] = -magnitude if bits >> np.uint64(63) else magnitude
    return coefficient


@kept()
def permutation(n, key):
    """A random order of 0 .. n - 1 (Fisher and Yates)."""
    order = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = np.int64(below(word(key, np.uint64(i)), i + 1))
        order[i], order[j] = order[j], order[i]
    return order


@kept()
def permute(start, row, order, new_start, new_row):
    """Move column i to position order[i].

    Read where columns come from, and written in a row: a processor waits for many reads at once.
    """
    source = np.empty_like(order)
    for i in range(order.size):
        source[order[i]] = i
    new_start[0] = 0
    for i in range(order.size):
        new_start[i + 1] = new_start[i] + start[source[i] + 1] - start[source[i]]
    for i in range(order.size):
        first, at = np.uint64(start[source[i]]), np.uint64(new_start[i])
        for p in range(np.uint64(new_start[i + 1]) - at):
            new_row[at + p] = row[first + p]


@nb.njit(inline="always")
def _ask(row, coefficient, at):
    """Ask memory for columns some way after the one that begins there."""
    prefetch(row, at + _AHEAD)
    prefetch(coefficient, at + _AHEAD)


@kept()
def multiply(start, row, coefficient, x, y):
    """Add H x to y, in place; integers wrap modulo 2^64."""
    for i in range(start.size - 1):
        _ask(row, coefficient, start[i])
        value = x[i]
        if value != 0:
            for p in range(start[i], start[i + 1]):
                y[_unsigned(row[p])] += coefficient[p] * value
    return y


@kept()
def gram(start, row, coefficient, m, scale):
    """The lower triangle of H H^T, of the scaled coefficients: (m, m) float64, the rest zero."""
    product = np.zeros((m, m))
    for i in range(start.size - 1):
        for p in range(start[i], start[i + 1]):
            at, value = _unsigned(row[p]), coefficient[p] * scale
            for q in range(start[i], p + 1):  # the rows of a column increase
                product[at, _unsigned(row[q])] += value * (coefficient[q] * scale)
    return product


@kept()
def multiply_transposed(start, row, coefficient, y):
    """H^T y, float64."""
    x = np.empty(start.size - 1, np.float64)
    for i in range(start.size - 1):
        _ask(row, coefficient, start[i])
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += coefficient[p] * y[_unsigned(row[p])]
        x[i] = total
    return x


@kept()
def subtract_transposed(start, row, coefficient, y, x):
    """Subtract H^T y from x, in place."""
    for i in range(start.size - 1):
        _ask(row, coefficient, start[i])
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += coefficient[p] * y[_unsigned(row[p])]
        x[i] -= total


@kept()
def multiply_gram(start, row, coefficient, y, scale, out):
    """Add H H^T y, of the scaled coefficients, to out, in place."""
    for i in range(start.size - 1):
        _ask(row, coefficient, start[i])
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += (coefficient[p] * scale) * y[_unsigned(row[p])]
        for p in range(start[i], start[i + 1]):
            out[_unsigned(row[p])] += (coefficient[p] * scale) * total
    return out


class Products:
    """Products of some columns of H with values on the CPU, where and as they are.

    Args:
        pieces: pairs of columns, as `parimend.codes.structure.Columns` keeps them, and the step of
            their values: values / step are what H is multiplied with.
        m: number of rows of H.
        unit: by which coefficients are divided.
        device: where the values are.
    """

    def __init__(self, pieces, m, unit, device):
        self._pieces, self._m, self._unit = list(pieces), m, unit

    def multiply(self, values):
        """H values, (m,) float64, for tensors (k,) of float32 or float64, one for every piece."""
        total = np.zeros(self._m)
        for (columns, step), each in zip(self._pieces, values, strict=True):
            product = multiply(*columns, each.numpy(), np.zeros(self._m))
            total += product / (self._unit * step)
        return total

    def subtract_transposed(self, y, values):
        """Subtract H^T y, with y (m,) float64, from tensors ``values``, in place."""
        for (columns, step), each in zip(self._pieces, values, strict=True):
            subtract_transposed(*columns, y * (step / self._unit), each.numpy())
