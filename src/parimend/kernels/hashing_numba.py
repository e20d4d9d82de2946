"""`parimend.hashing` for compiled loops, which draw one word at a time."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend import hashing
from parimend.hashing import GOLDEN

mix64 = nb.njit(inline="always")(hashing.mix64)


@nb.njit(inline="always")
def word(key, i):
    """Word i of stream ``key``."""
    return mix64(key + (np.uint64(i) + np.uint64(1)) * GOLDEN)


@nb.njit(inline="always")
def below(x, bound):
    """Map the upper 32 bits of ``x`` to 0 .. bound - 1 (bound < 2^32; bias below bound / 2^32)."""
    return ((x >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)
