"""The compiled loops of `parimend.impose.lattice` and `parimend.decoders.lattice`."""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from parimend.kernels.keeping_numba import kept


@kept()
def _orthogonalize(basis, k, ortho, mu, norm):
    """Gram-Schmidt for row k, given those above it."""
    columns = basis.shape[1]
    for c in range(columns):
        ortho[k, c] = basis[k, c]
    for i in range(k):
        dot = 0.0
        for c in range(columns):
            dot += ortho[k, c] * ortho[i, c]
        mu[k, i] = dot / norm[i]
        for c in range(columns):
            ortho[k, c] -= mu[k, i] * ortho[i, c]
    norm[k] = 0.0
    for c in range(columns):
        norm[k] += ortho[k, c] * ortho[k, c]


@kept()
def reduce(basis):
    """LLL in place. Rows join one by one, so that entries are short before the dimension grows and
    float64 carries the Gram-Schmidt coefficients.

    Where the lattice has no short basis float64 may not carry them, and rows could change for ever:
    then the work is cut off. The result is a basis in any case.
    """
    rows, columns = basis.shape
    ortho = np.zeros((rows, columns))
    mu = np.zeros((rows, rows))
    norm = np.zeros(rows)
    _orthogonalize(basis, 0, ortho, mu, norm)
    left = 10_000 * rows
    for end in range(1, rows):
        k = end
        while k <= end and left > 0:
            left -= 1
            for _ in range(8):  # rounding errors of long rows need more than one pass
                changed = False
                _orthogonalize(basis, k, ortho, mu, norm)
                for i in range(k - 1, -1, -1):
                    # Not 0.5: an exact half would go back and forth with the rounding errors.
                    if abs(mu[k, i]) > 0.501:
                        q = np.rint(mu[k, i])
                        changed = True
                        for c in range(columns):
                            basis[k, c] -= np.int64(q) * basis[i, c]
                        for c in range(i):
                            mu[k, c] -= q * mu[i, c]
                        mu[k, i] -= q
                if not changed:
                    break
            if norm[k] >= (0.99 - mu[k, k - 1] ** 2) * norm[k - 1]:
                k += 1
            else:
                for c in range(columns):
                    basis[k, c], basis[k - 1, c] = basis[k - 1, c], basis[k, c]
                k = max(k - 1, 1)
                _orthogonalize(basis, k - 1, ortho, mu, norm)


@kept()
def shorten(basis, v):
    """Subtract from v, in place, a lattice vector near it."""
    rows, columns = basis.shape
    ortho = np.zeros((rows, columns))
    mu = np.zeros((rows, rows))
    norm = np.zeros(rows)
    for k in range(rows):
        _orthogonalize(basis, k, ortho, mu, norm)
    for _ in range(3):  # float64 cannot do it at once when v is long
        for i in range(rows - 1, -1, -1):
            dot = 0.0
            for c in range(columns):
                dot += v[c] * ortho[i, c]
            q = np.int64(np.rint(dot / norm[i]))
            for c in range(columns):
                v[c] -= q * basis[i, c]
