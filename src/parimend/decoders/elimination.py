"""Elimination on what peeling leaves: few checks, few columns that may still be wrong."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from parimend.codes.sparse import Sparse

_PRIME = (1 << 31) - 1
_LARGEST = 1500


def solve_components(
    code: Sparse,
    syndrome: NDArray[np.int64],
    damage: NDArray[np.int64],
    erased: NDArray[np.uint8],
    limit: int,
) -> int:
    """Solve every connected component of suspects that has one solution in small integers.

    A column is suspect if it is erased or if all its checks are unexplained. Components are solved
    modulo 2^31 - 1, where a solution below `limit` is unique, and verified exactly. `syndrome`,
    `damage` and `erased` are updated.

    Returns:
        The number of components solved.
    """
    start, row, coefficient = code.columns
    explained = np.add.reduceat((syndrome == 0)[row].astype(np.int64), start[:-1])
    solved = 0
    for suspects in (np.flatnonzero(erased), np.flatnonzero((explained == 0) | (erased > 0))):
        if not len(suspects):
            continue
        label = _components(start, row, suspects, code.m)
        order = np.argsort(label, kind="stable")
        cuts = np.flatnonzero(np.diff(label[order])) + 1
        for columns in np.split(suspects[order], cuts):
            solved += _solve(code, columns, syndrome, damage, erased, limit)
        if solved:
            break
    return solved


def _solve(
    code: Sparse,
    columns: NDArray[np.int64],
    syndrome: NDArray[np.int64],
    damage: NDArray[np.int64],
    erased: NDArray[np.uint8],
    limit: int,
) -> bool:
    entries = [code.column(int(i)) for i in columns]
    checks = np.unique(np.concatenate([rows for rows, _ in entries]))
    if len(columns) > min(len(checks), _LARGEST):
        return False
    A = np.zeros((len(checks), len(columns)), np.int64)
    for k, (rows, coefficients) in enumerate(entries):
        A[np.searchsorted(checks, rows), k] = coefficients
    s = syndrome[checks]
    unique, x = _eliminate(A % _PRIME, s % _PRIME)
    if not unique or (A @ x != s).any() or (np.abs(damage[columns] + x) >= limit).any():
        return False
    damage[columns] += x
    erased[columns] = 0
    syndrome[checks] = 0
    return True


@nb.njit(cache=True)
def _components(start: Any, row: Any, suspects: Any, m: int) -> Any:
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


@nb.njit(cache=True)
def _eliminate(A: Any, b: Any) -> Any:
    """Solve A x = b modulo 2^31 - 1: (whether there is exactly one solution, the solution)."""
    p = np.int64(_PRIME)
    rows, columns = A.shape
    x = np.zeros(columns, np.int64)
    for k in range(columns):
        pivot = k
        while pivot < rows and A[pivot, k] == 0:
            pivot += 1
        if pivot == rows:
            return False, x
        if pivot != k:
            for c in range(k, columns):
                A[k, c], A[pivot, c] = A[pivot, c], A[k, c]
            b[k], b[pivot] = b[pivot], b[k]
        inverse, base, power = np.int64(1), A[k, k], p - 2
        while power:
            if power & 1:
                inverse = inverse * base % p
            base = base * base % p
            power >>= 1
        for c in range(k, columns):
            A[k, c] = A[k, c] * inverse % p
        b[k] = b[k] * inverse % p
        for r in range(rows):
            if r != k and A[r, k] != 0:
                factor = A[r, k]
                for c in range(k, columns):
                    A[r, c] = (A[r, c] - factor * A[k, c]) % p
                b[r] = (b[r] - factor * b[k]) % p
    for r in range(columns, rows):
        if b[r] != 0:
            return False, x
    for k in range(columns):
        x[k] = b[k] if b[k] <= p // 2 else b[k] - p
    return True, x
