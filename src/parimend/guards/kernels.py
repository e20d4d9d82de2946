"""The check itself, in one pass over the outputs: syndrome, norm and comparison.

A layer as small as 784 x 512 takes 60 us for one input; four PyTorch calls and a host
synchronization would add 15 us to that, one call of these kernels adds 2 us. Sums are reassociated
so that they vectorize, but never under the assumption that there is no NaN.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

_SUMS = {"reassoc", "contract", "nsz"}
LARGE = 1e37
"""A float32 sum of squares beyond this may have overflowed and says nothing about the scale."""
_CHANNELS = 32
"""Channels that are summed before the sum is added to the total: rounding does not pile up."""
_POSITIONS = 256
"""Positions that are handled together: their sums stay in the first-level cache."""


@nb.njit(nogil=True, fastmath=_SUMS, inline="never")
def _moments(y: Any, zero: Any) -> Any:
    total, square = zero, zero
    for j in range(y.shape[0]):
        total += y[j]
        square += y[j] * y[j]
    return total, square


@nb.njit(nogil=True, fastmath=_SUMS, inline="never")
def _dot(p: Any, y: Any, zero: Any) -> Any:
    total = zero
    for j in range(y.shape[0]):
        total += p[j] * y[j]
    return total


@nb.njit(cache=True, nogil=True)
def any_suspicious_row(y: NDArray[Any], P: NDArray[Any], target: NDArray[Any], tau2: float) -> bool:
    """Whether |P y - target|^2 <= tau2 |y|^2 fails for one of the rows y, or cannot be told.

    Args:
        y: (rows, C), C-contiguous, float32 or float64.
        P: (k, C), dtype of y; row 0 is all ones.
        target: (rows, k), dtype of y, or (0, k) for zero.
        tau2: square of the threshold.
    """
    zero = y.dtype.type(0)
    for i in range(y.shape[0]):
        total, square = _moments(y[i], zero)
        energy = 0.0
        for r in range(P.shape[0]):
            s = np.float64(total if r == 0 else _dot(P[r], y[i], zero))
            if target.shape[0]:
                s -= target[i, r]
            energy += s * s
        if not (energy <= tau2 * np.float64(square) and square < LARGE):
            return True
    return False


@nb.njit(cache=True, nogil=True)
def any_suspicious_plane(
    y: NDArray[Any], P: NDArray[Any], target: NDArray[Any], tau2: float
) -> bool:
    """The same along the middle axis.

    Args:
        y: (outer, C, inner), C-contiguous, float32 or float64.
        P: (k, C), dtype of y; row 0 is all ones.
        target: (outer, k, inner), dtype of y, or (0, k, inner) for zero.
        tau2: square of the threshold.
    """
    outer, channels, inner = y.shape
    k = P.shape[0]
    # Sums of the k checks, and of the squares, of a block of positions.
    part = np.empty((k + 1, _POSITIONS), y.dtype)
    total = np.empty((k + 1, _POSITIONS), y.dtype)
    for n in range(outer):
        for start in range(0, inner, _POSITIONS):
            width = min(_POSITIONS, inner - start)
            total[:] = 0
            for first in range(0, channels, _CHANNELS):
                part[:] = 0
                for c in range(first, min(channels, first + _CHANNELS)):
                    v = y[n, c, start : start + width]
                    sums, squares = part[0], part[k]
                    for i in range(width):
                        sums[i] += v[i]
                        squares[i] += v[i] * v[i]
                    for r in range(1, k):
                        p, sums = P[r, c], part[r]
                        for i in range(width):
                            sums[i] += p * v[i]
                total += part
            for i in range(width):
                energy = 0.0
                for r in range(k):
                    s = np.float64(total[r, i])
                    if target.shape[0]:
                        s -= target[n, r, start + i]
                    energy += s * s
                square = total[k, i]
                if not (energy <= tau2 * np.float64(square) and square < LARGE):
                    return True
    return False
