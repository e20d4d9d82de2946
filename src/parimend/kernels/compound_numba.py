"""Panjer's recursion: probabilities of a compound Poisson variable."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from parimend.kernels.keeping_numba import kept

_LARGE = 1e200


@kept()
def compound(
    expected: float, sizes: NDArray[np.int64], shares: NDArray[np.float64], most: int
) -> NDArray[np.float64]:
    """Probabilities that the sum of a Poisson number of sizes is 0 .. ``most``.

    The recursion runs on numbers that are scaled down on the way, so that none vanishes early:
    with 1,000 expected, the first probability is below the smallest float.

    Args:
        expected: mean of the Poisson number.
        sizes: (k,) positive, increasing.
        shares: (k,) probabilities of the sizes.
        most: largest sum.

    Returns:
        (most + 1,) float64.
    """
    scaled, logs = np.zeros(most + 1), np.empty(most + 1)
    scaled[0], logs[0], log = 1.0, -expected, -expected
    for e in range(1, most + 1):
        total = 0.0
        for k in range(sizes.size):
            if sizes[k] > e:
                break
            before = scaled[e - sizes[k]]
            if logs[e - sizes[k]] != log:
                before *= math.exp(logs[e - sizes[k]] - log)
            total += expected * shares[k] * sizes[k] * before
        value = total / e
        if value > _LARGE:
            value /= _LARGE
            log += math.log(_LARGE)
        scaled[e], logs[e] = value, log
    return scaled * np.exp(logs)
