"""Integers that fill the range of their dtype."""

import numpy as np


def filled(code, share, rng):
    """Integers of which a share is at the ends of the range of two's complement."""
    limit = 1 << (code.word_bits - 1)
    q = np.clip(np.rint(rng.normal(size=code.n) * limit / 3), -limit, limit - 1)
    at = rng.random(code.n) < share
    q[at] = rng.choice([-limit, limit - 1], np.count_nonzero(at))
    return q
