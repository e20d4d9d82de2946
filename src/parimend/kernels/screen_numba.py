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

from parimend.kernels.keeping_numba import kept

_SUMS = {"reassoc", "contract", "nsz"}
LARGE = 1e37
"""A float32 sum of squares beyond this may have overflowed and says nothing about the scale."""
_CHANNELS = 32
"""Channels that are summed before the sum is added to the total: rounding does not pile up."""
_POSITIONS = 512
"""Positions that are handled together: their sums stay in the first-level cache."""


def view(t: Any, dtype: Any) -> NDArray[Any]:
    """A contiguous tensor without history as these kernels take it: of the dtype of the checks."""
    return (t if t.dtype is dtype else t.to(dtype)).numpy()


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


@kept()
def any_suspicious_row(
    y: NDArray[Any], P: NDArray[Any], target: NDArray[Any], tau2: float, least2: float
) -> bool:
    """Whether |P y - target|^2 <= tau2 |y|^2 + least2 fails for a row of y, or cannot be told.

    Args:
        y: (rows, C), C-contiguous, float32 or float64.
        P: (k, C), dtype of y; row 0 is all ones.
        target: (rows, k), dtype of y, or (0, k) for zero.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
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
        if not (energy <= tau2 * np.float64(square) + least2 and square < LARGE):
            return True
    return False


@kept()
def any_suspicious_product(
    y: NDArray[Any],
    P: NDArray[Any],
    x: NDArray[Any],
    PW: NDArray[Any],
    Pb: NDArray[Any],
    tau2: float,
    least2: float,
) -> bool:
    """The same with the target PW x + Pb computed on the way, for y = W x + b in blocks.

    Args:
        y: (rows, blocks * C), C-contiguous, float32 or float64.
        P: (k, C), dtype of y; row 0 is all ones.
        x: (rows, fan-in), C-contiguous, dtype of y.
        PW: (blocks * k, fan-in), dtype of y.
        Pb: (blocks * k,), dtype of y.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
    """
    zero = y.dtype.type(0)
    k, width = P.shape
    for i in range(y.shape[0]):
        for block in range(y.shape[1] // width):
            part = y[i, block * width : (block + 1) * width]
            total, square = _moments(part, zero)
            energy = 0.0
            for r in range(k):
                s = np.float64(total if r == 0 else _dot(P[r], part, zero))
                s -= np.float64(_dot(PW[block * k + r], x[i], zero)) + Pb[block * k + r]
                energy += s * s
            if not (energy <= tau2 * np.float64(square) + least2 and square < LARGE):
                return True
    return False


@nb.njit(nogil=True, inline="always")
def _clear(sums: Any, width: int) -> None:
    """In loops, as all of this: numba takes seconds to compile what is done to slices."""
    for r in range(sums.shape[0]):
        for i in range(width):
            sums[r, i] = 0


@nb.njit(nogil=True, inline="always")
def _add_four(part: Any, P: Any, y: Any, c: int, start: int, width: int) -> None:
    """Adds four channels at a time, so that sums are loaded and stored only once."""
    k = P.shape[0]
    a, b = y[c, start : start + width], y[c + 1, start : start + width]
    d, e = y[c + 2, start : start + width], y[c + 3, start : start + width]
    sums, squares = part[0], part[k]
    for i in range(width):
        sums[i] += (a[i] + b[i]) + (d[i] + e[i])
        squares[i] += (a[i] * a[i] + b[i] * b[i]) + (d[i] * d[i] + e[i] * e[i])
    for r in range(1, k):
        p, q, s, t = P[r, c], P[r, c + 1], P[r, c + 2], P[r, c + 3]
        sums = part[r]
        for i in range(width):
            sums[i] += (p * a[i] + q * b[i]) + (s * d[i] + t * e[i])


@kept()
def any_suspicious_plane(
    y: NDArray[Any], P: NDArray[Any], target: NDArray[Any], tau2: float, least2: float
) -> bool:
    """The same along the middle axis.

    Args:
        y: (outer, C, inner), C-contiguous, float32 or float64.
        P: (k, C), dtype of y; row 0 is all ones.
        target: (outer, k, inner), dtype of y, or (0, k, inner) for zero.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
    """
    outer, channels, inner = y.shape
    k = P.shape[0]
    # Sums of the k checks, and of the squares, of a block of positions.
    part = np.empty((k + 1, _POSITIONS), y.dtype)
    total = np.empty((k + 1, _POSITIONS), y.dtype)
    for n in range(outer):
        for start in range(0, inner, _POSITIONS):
            width = min(_POSITIONS, inner - start)
            _clear(total, width)
            for first in range(0, channels, _CHANNELS):
                _clear(part, width)
                last = min(channels, first + _CHANNELS)
                whole = last - (last - first) % 4
                for c in range(first, whole, 4):
                    _add_four(part, P, y[n], c, start, width)
                for c in range(whole, last):
                    v = y[n, c, start : start + width]
                    for r in range(k):
                        for i in range(width):
                            part[r, i] += P[r, c] * v[i]
                    for i in range(width):
                        part[k, i] += v[i] * v[i]
                for r in range(k + 1):
                    for i in range(width):
                        total[r, i] += part[r, i]
            for i in range(width):
                energy = 0.0
                for r in range(k):
                    s = np.float64(total[r, i])
                    if target.shape[0]:
                        s -= target[n, r, start + i]
                    energy += s * s
                square = total[k, i]
                if not (energy <= tau2 * np.float64(square) + least2 and square < LARGE):
                    return True
    return False
