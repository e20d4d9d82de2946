"""The numbers of `parimend.codes.modular`, modulo p = 2^32 + c; c is called the ``excess``."""

import numpy as np

GROUP = 16
"""Words in a group: 64 bytes."""
BASE = 1 << 32
"""p less its excess."""
MIX_A, MIX_B = np.uint64(0x7FEB352D), np.uint64(0x846CA68B)
"""Odd multipliers of the mix that makes a number out of a group's index."""


def most_groups(excess: int) -> int:
    """So many groups may be added up before the sums are reduced, to stay below 2^64.

    >>> most_groups(15) >> 20, most_groups(24_577) >> 10
    (255, 170)
    """
    return (1 << 64) // (BASE + excess * (BASE + excess))
