"""Exact rounding: from real numbers near a code to an integer word inside it.

Rounding to the grid leaves a residual of a few units in every check. The checks are then cleared
one after the other: each moves the columns that it owns by a short integer vector that cancels its
residual exactly and, because the other checks of those columns come later, disturbs no check that
is already clear.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from parimend.codes.sparse import Sparse
from parimend.errors import WordError
from parimend.impose.lattice import kernel, shorten


class Rounded(NamedTuple):
    """An integer word inside a code.

    Attributes:
        word: (n,) int64.
        target: (m,) int64, its syndrome: zero but for the last `Sparse.free` checks.
        moved: root of the summed squares of word - x, in grid steps.
    """

    word: NDArray[np.int64]
    target: NDArray[np.int64]
    moved: float


def round_into(code: Sparse, x: NDArray[np.float64]) -> Rounded:
    """The integer word of the code near ``x``.

    Args:
        code: a sparse code.
        x: (n,) float64, in grid steps; best a real codeword (`Sparse.project`).

    Raises:
        WordError: if an entry leaves the range of the code's words.

    Example:
        >>> code = Sparse(n=2000, m=64)
        >>> x = code.project(np.random.default_rng(0).normal(size=2000) * 1e5)
        >>> rounded = round_into(code, x)
        >>> int(np.abs(code.syndrome(rounded.word)[: code.imposed]).max())
        0
    """
    word = np.rint(x).astype(np.int64)
    syndrome = code.syndrome(word)
    own = _own_coefficients(code)
    bases = np.empty((code.imposed, code.own - 1, code.own), np.int64)
    units = np.empty((code.imposed, code.own), np.int64)
    for j in range(code.imposed):
        bases[j], units[j] = kernel(own[j])
    _clear(*code.columns, code.owned, own, bases, units, word, syndrome)
    limit = 1 << (code.word_bits - 1)
    if (worst := int(np.abs(word).max(initial=0))) >= limit:
        raise WordError(
            f"a weight needs {worst} grid steps, but words of this code stay below {limit}: use a "
            "larger step"
        )
    return Rounded(word, syndrome, float(np.linalg.norm(word - x)))


def _own_coefficients(code: Sparse) -> NDArray[np.int64]:
    """(imposed, own): the coefficient of every owned column in the check that owns it."""
    start, _, coefficient = code.columns
    # Supports are sorted and the owner comes first.
    return coefficient[start[code.owned]]


@nb.njit(cache=True)
def _clear(start, row, coefficient, owned, own, bases, units, word, syndrome):  # type: ignore[no-untyped-def]
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
        for c in range(k):
            i = owned[j, c]
            word[i] += v[c]
            for p in range(start[i], start[i + 1]):
                syndrome[row[p]] += coefficient[p] * v[c]
