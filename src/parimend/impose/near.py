"""Integers within bounds, near to a word and so near to a code that little is left to be cleared.

H stands for the imposed checks alone; free checks need not be zero. The x' within bounds with
H x' = 0 that is nearest to x is clip(x - H^T y) for some multipliers y.
Steps y += (H H^T)^-1 H clip(x - H^T y) lead there: the gradient of the dual problem divided by the
largest curvature that it can have, so that no step goes too far. As zero is within bounds, there
always is an x'.

Rounding leaves in a check of k weights a residual of about sqrt(k / 12). It is a part of every
step, so that the next one clears that, too, by the few weights that are closest to being rounded
the other way. About the fourth root of k is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend.codes.sparse import Sparse
from parimend.codes.structure import Columns
from parimend.stores.spread import Spread

_MOST_STEPS = 200  # mostly 1 to 10, and 20 where half of all weights are at their bounds


def near(
    code: Sparse,
    columns: Columns,
    x: NDArray[np.float64],
    edges: NDArray[np.float64],
    spread: Spread,
) -> NDArray[np.int64]:
    """The integers near ``x`` whose imposed checks are nearly zero.

    Args:
        code: of the word.
        columns: of the elements that are held here.
        x: (k,) float64, these elements in grid steps.
        edges: (k,) float64, the largest magnitude of every element.
        spread: how the word is spread over processes.

    Returns:
        (k,) int64.

    Example:
        >>> code = Sparse.for_errors(500, 4, word_bits=8)
        >>> x = np.random.default_rng(0).choice([-128.0, 127.0], 500)
        >>> q = near(code, code.columns, x, np.full(500, 127.0), Spread())
        >>> bool(np.abs(q).max() == 127 and np.abs(code.matvec(q))[: code.imposed].max() < 20)
        True
    """
    moved, left = x.copy(), (len(code.columns.row) / code.m) ** 0.25
    for _ in range(_MOST_STEPS):
        q = np.rint(np.clip(moved, -edges, edges))
        checks = spread.sum(columns.multiply(q, np.zeros(code.m))) / code.unit
        imposed = checks[: code.imposed]
        if np.linalg.norm(imposed) <= left * np.sqrt(code.imposed):
            break
        y = code.filled(code.solve_gram(imposed))
        columns.subtract_transposed(y / code.unit, moved)
    return q.astype(np.int64)
