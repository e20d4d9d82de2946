"""The compiled loops of `parimend.decoders.elimination`."""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from parimend.kernels.keeping_numba import kept
from parimend.kernels.peeling_numba import odd_inverse


@kept()
def components(start, row, suspects, m):
    """Label of every suspect: suspects that share a check share a label (union-find on checks)."""
    parent = np.arange(m)
    for i in suspects:
        a = row[start[i]]
        while parent[a] != a:
            a = parent[a]
        for p in range(start[i], start[i + 1]):
            b = row[p]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            parent[b] = a
    label = np.empty(suspects.size, np.int64)
    for k in range(suspects.size):
        a = row[start[suspects[k]]]
        while parent[a] != a:
            a = parent[a]
        label[k] = a
    return label


@kept()
def eliminate(A, b, limit):
    """Solve A x = b modulo 2^64: (whether exactly one x is below limit, x). Changes A and b.

    Even numbers have no inverse, so the pivot of a column is an entry with the fewest factors of 2,
    of which the others are multiples. Every row operation is then exact, and a pivot with v of them
    leaves 64 - v bits of its x.
    """
    zero, one = np.uint64(0), np.uint64(1)
    rows, columns = A.shape
    x = np.zeros(columns, np.int64)
    twos = np.zeros(columns, np.uint64)
    inverse = np.zeros(columns, np.uint64)
    for k in range(columns):
        pivot, least = -1, zero
        for r in range(k, rows):
            lowest = A[r, k] & (~A[r, k] + one)  # 2^v
            if lowest != zero and (pivot < 0 or lowest < least):
                pivot, least = r, lowest
        if pivot < 0:
            return False, x
        while one << twos[k] < least:
            twos[k] += one
        if pivot != k:
            for c in range(k, columns):
                A[k, c], A[pivot, c] = A[pivot, c], A[k, c]
            b[k], b[pivot] = b[pivot], b[k]
        inverse[k] = odd_inverse(A[k, k] >> twos[k])
        for r in range(k + 1, rows):
            if A[r, k] != zero:
                factor = (A[r, k] >> twos[k]) * inverse[k]
                for c in range(k, columns):
                    A[r, c] -= factor * A[k, c]
                b[r] -= factor * b[k]
    for r in range(columns, rows):
        if b[r] != zero:
            return False, x
    for k in range(columns - 1, -1, -1):
        rest = b[k]
        for c in range(k + 1, columns):
            rest -= A[k, c] * np.uint64(x[c])
        if rest & ((one << twos[k]) - one):
            return False, x
        x[k] = np.int64((rest >> twos[k]) * inverse[k] << twos[k]) >> np.int64(twos[k])
        if not -limit < x[k] < limit or (limit - 1) >> (np.int64(63) - np.int64(twos[k])):
            return False, x
    return True, x
