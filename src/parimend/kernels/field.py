"""The field of p = 2^32 + 24,577 numbers, see `parimend.kernels.field_numba`."""

PRIME = (1 << 32) + 24_577


def element(x: int) -> float:
    """The element of the field that is congruent to an integer and closest to zero.

    >>> element(PRIME - 1), element(3)
    (-1.0, 3.0)
    """
    return float((x + PRIME // 2) % PRIME - PRIME // 2)
