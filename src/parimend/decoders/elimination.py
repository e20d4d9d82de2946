"""Elimination on what peeling leaves: few checks, few columns that may still be wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.structure import SparseIntegers

_LARGEST = 1500
"""Columns up to which a component is solved; so many take seconds if they fill up."""


def solve_components(
    code: SparseIntegers,
    syndrome: NDArray[np.int64],
    damage: NDArray[np.int64],
    erased: NDArray[np.uint8],
    limit: int,
) -> int:
    """Solve every connected component of suspects that has one solution in small integers.

    A column is suspect if it is erased or if all its checks are unexplained. Components are solved
    modulo 2^64, as checks with several wrong words wrap. `syndrome`, `damage` and `erased` are
    updated.

    Returns:
        The number of components solved.
    """
    start, row, _ = code.columns
    explained = np.add.reduceat((syndrome == 0)[row].astype(np.int64), start[:-1])
    solved = 0
    for suspects in (np.flatnonzero(erased), np.flatnonzero((explained == 0) | (erased > 0))):
        if not len(suspects):
            continue
        label = kernels.on("elimination").components(start, row, suspects, code.m)
        order = np.argsort(label, kind="stable")
        cuts = np.flatnonzero(np.diff(label[order])) + 1
        for columns in np.split(suspects[order], cuts):
            solved += _solve(code, columns, syndrome, damage, erased, limit)
        if solved:
            break
    return solved


def _solve(
    code: SparseIntegers,
    columns: NDArray[np.int64],
    syndrome: NDArray[np.int64],
    damage: NDArray[np.int64],
    erased: NDArray[np.uint8],
    limit: int,
) -> bool:
    if len(columns) > min(code.m, _LARGEST):  # as all may be, beyond the budget
        return False
    entries = [code.column(int(i)) for i in columns]
    checks = np.unique(np.concatenate([rows for rows, _ in entries]))
    if len(columns) > len(checks):
        return False
    A = np.zeros((len(checks), len(columns)), np.uint64)
    for k, (rows, coefficients) in enumerate(entries):
        A[np.searchsorted(checks, rows), k] = coefficients.view(np.uint64)
    solved, x = kernels.on("elimination").eliminate(A, syndrome[checks].view(np.uint64), 2 * limit)
    if not solved or (np.abs(damage[columns] + x) >= limit).any():
        return False
    damage[columns] += x
    erased[columns] = 0
    syndrome[checks] = 0
    return True
