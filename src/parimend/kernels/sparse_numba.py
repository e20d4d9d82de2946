"""The compiled loops of `parimend.codes.structure`: drawing H, and products with it."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.hashing_numba import below, word


@nb.njit(cache=True)
def draw_supports(start, row, m, imposed, own, key):
    """Draw the checks of every column, owned columns first; every row of `row` ends up sorted."""
    n = start.size - 1
    load = np.zeros(m, np.int64)
    # Fingerprints of the supports in use, in a hash table with linear probing; 0 marks a free slot.
    size = 4
    while size < 2 * n:
        size *= 2
    seen = np.zeros(size, np.uint64)
    mask = np.uint64(size - 1)
    hashed = np.empty(m, np.uint64)
    for check in range(m):
        hashed[check] = word(key, ~np.uint64(check))
    counter = np.uint64(0)
    for i in range(n):
        a, b = start[i], start[i + 1]
        j = i // own
        first, low = a, np.int64(0)
        if j < imposed:
            row[a] = j
            first, low = a + 1, np.int64(j + 1)
        tries = 0
        while True:
            p = first
            while p < b:
                k = low + np.int64(below(word(key, counter), m - low))
                other = low + np.int64(below(word(key, counter + np.uint64(1)), m - low))
                counter += np.uint64(2)
                # The emptier of two balances the rows; where supports run short, any will do.
                if tries < 8 and load[other] < load[k]:
                    k = other
                fresh = True
                for r in range(a, p):
                    if row[r] == k:
                        fresh = False
                if fresh:
                    row[p] = k
                    p += 1
            mark = np.uint64(0)
            for r in range(a, b):
                mark += hashed[row[r]]
            mark |= np.uint64(1)
            slot = mark >> np.uint64(1) & mask
            while seen[slot] != 0 and seen[slot] != mark:
                slot = (slot + np.uint64(1)) & mask
            if seen[slot] == 0:
                seen[slot] = mark
                break
            tries += 1
        for r in range(a, b):
            load[row[r]] += 1
        for r in range(a + 1, b):  # insertion sort: there are only a few
            p = r
            while p > a and row[p - 1] > row[p]:
                row[p - 1], row[p] = row[p], row[p - 1]
                p -= 1


@nb.njit(cache=True)
def draw_coefficients(count, size, key):
    """Odd numbers from ``size`` to 2 ``size``, with random signs."""
    coefficient = np.empty(count, np.int64)
    for p in range(count):
        bits = word(key, np.uint64(p))
        magnitude = np.int64(np.uint64(size) | (bits & np.uint64(size - 1)) | np.uint64(1))
        coefficient[p] = -magnitude if bits >> np.uint64(63) else magnitude
    return coefficient


@nb.njit(cache=True)
def permutation(n, key):
    """A random order of 0 .. n - 1 (Fisher and Yates)."""
    order = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = np.int64(below(word(key, np.uint64(i)), i + 1))
        order[i], order[j] = order[j], order[i]
    return order


@nb.njit(cache=True)
def permute(start, row, order):
    """Move column i to position order[i]."""
    n = order.size
    new_start = np.zeros(n + 1, np.int64)
    for i in range(n):
        new_start[order[i] + 1] = start[i + 1] - start[i]
    new_start = np.cumsum(new_start)
    new_row = np.empty_like(row)
    for i in range(n):
        a = new_start[order[i]]
        for p in range(start[i], start[i + 1]):
            new_row[a + p - start[i]] = row[p]
    return new_start, new_row


@nb.njit(inline="always")
def _unsigned(row):
    """An index that cannot count from the end, which saves a fifth of the time of a product."""
    return np.uint64(np.uint32(row))


@nb.njit(cache=True)
def multiply(start, row, coefficient, x, y):
    """Add H x to y, in place; integers wrap modulo 2^64."""
    for i in range(start.size - 1):
        value = x[i]
        if value != 0:
            for p in range(start[i], start[i + 1]):
                y[_unsigned(row[p])] += coefficient[p] * value
    return y


@nb.njit(cache=True)
def gram(start, row, coefficient, m, scale):
    """H H^T of the scaled coefficients, (m, m) float64."""
    product = np.zeros((m, m))
    for i in range(start.size - 1):
        for p in range(start[i], start[i + 1]):
            for q in range(start[i], start[i + 1]):
                product[row[p], row[q]] += (coefficient[p] * scale) * (coefficient[q] * scale)
    return product


@nb.njit(cache=True)
def multiply_transposed(start, row, coefficient, y):
    """H^T y, float64."""
    x = np.empty(start.size - 1, np.float64)
    for i in range(start.size - 1):
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += coefficient[p] * y[_unsigned(row[p])]
        x[i] = total
    return x


@nb.njit(cache=True)
def subtract_transposed(start, row, coefficient, y, x):
    """Subtract H^T y from x, in place."""
    for i in range(start.size - 1):
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += coefficient[p] * y[_unsigned(row[p])]
        x[i] -= total


@nb.njit(cache=True)
def multiply_gram(start, row, coefficient, y, scale, out):
    """Add H H^T y, of the scaled coefficients, to out, in place."""
    for i in range(start.size - 1):
        total = 0.0
        for p in range(start[i], start[i + 1]):
            total += (coefficient[p] * scale) * y[_unsigned(row[p])]
        for p in range(start[i], start[i + 1]):
            out[_unsigned(row[p])] += (coefficient[p] * scale) * total
    return out


class Products:
    """Products of some columns of H with values on the CPU.

    Args:
        start, row, coefficient: the columns, as `parimend.codes.structure.Columns` keeps them.
        m: number of rows of H.
        device: where the values are.
    """

    def __init__(self, start, row, coefficient, m, device):
        self._columns, self._m = (start, row, coefficient), m

    def multiply(self, values):
        """H values, (m,) float64, for a tensor (k,) of float32 or float64."""
        return multiply(*self._columns, values.numpy(), np.zeros(self._m))

    def subtract_transposed(self, y, values):
        """Subtract H^T y, with y (m,) float64, from the tensor ``values``, in place."""
        subtract_transposed(*self._columns, y, values.numpy())
