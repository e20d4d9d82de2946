"""How likely some hashed words are to leave peeling stuck: a union bound over stopping sets.

Each of e words is in one bucket of each of d bands, Z buckets in a band, all drawn evenly and
independently. A *stopping set* is a set of words that leaves no bucket with exactly one of them,
and peeling ends with the largest one. A given set of s words is one with probability q_s^d, where

    q_s = P(s words in Z buckets: none holds one alone) = s! / Z^s [x^s] (e^x - x)^Z,

so that more than ``left`` words remain with probability sum_{s > left} C(e, s) q_s^d at most. The
proof is in docs/proofs.md.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_TERMS = 128  # later ones are below 8^128 / 128! = 1e-99 of the sum


@lru_cache(maxsize=256)
def stopping_bound(words: int, bands: int, size: int, left: int) -> float:
    """Bound on the probability that more than ``left`` of so many words remain.

    Args:
        words: e, in different groups.
        bands: d, at most 8.
        size: Z.
        left: so many may remain.

    Returns:
        A probability; 1 where the bound says nothing, as close to the threshold of peeling.

    Example:
        >>> [f"{stopping_bound(e, 4, 3366, left=4):.1g}" for e in (1000, 8000, 10_000)]
        ['3e-23', '9e-18', '1']
    """
    if words <= left:
        return 0.0
    if words > bands * size:
        return 1.0
    s = np.arange(left + 1, words + 1)
    factorials = _log_factorials(words)
    sets = factorials[words] - factorials[s] - factorials[words - s]
    terms = sets + bands * log_none_alone(size, words)[left + 1 :]
    return 1.0 if terms.max() > 0 else min(1.0, float(np.exp(terms).sum()))


def log_none_alone(size: int, most: int) -> NDArray[np.float64]:
    """log q_s for s = 0 .. most, or a bound on it where s > 2 Z.

    With p = e^x - x, (p^Z)' p = Z p' p^Z compares coefficients of x^s, and gives
    q_s = sum_{k >= 2} C(s, k) Z^-k (k Z - s + k) q_{s-k} / s.

    >>> [round(float(q), 4) for q in np.exp(log_none_alone(size=3, most=4))]
    [1.0, 0.0, 0.3333, 0.1111, 0.2593]
    """
    log_q = np.full(most + 1, -np.inf)
    log_q[0] = 0.0
    terms = np.arange(2, _TERMS)
    fixed = -_log_factorials(_TERMS)[terms] - terms * np.log(size)
    factorials = _log_factorials(most)
    exact = min(most, 2 * size)  # from there on the sum would have terms of both signs
    for i in range(2, exact + 1):
        k = terms[: i - 1]
        logs = factorials[i] - factorials[i - k] + fixed[: k.size] + log_q[i - k]
        top = logs.max()
        log_q[i] = top + np.log((np.exp(logs - top) * (k * size - i + k)).sum() / i)
    if exact < most:
        s = np.arange(exact + 1, most + 1)
        log_q[s] = np.minimum(factorials[s] - s * np.log(size) + _log_coefficients(s, size), 0.0)
    return log_q


def _log_coefficients(s: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Bounds on log [x^s] (e^x - x)^Z: it is at most (e^r - r)^Z / r^s, for any r > 0.

    The best r has Z r (e^r - 1) / (e^r - r) = s; it is found by halving.
    """
    low, high = np.zeros(s.size), s / size
    for _ in range(50):
        r = (low + high) / 2
        above = size * r * np.expm1(r) / (np.exp(r) - r) > s
        low, high = np.where(above, low, r), np.where(above, r, high)
    return size * np.log(np.exp(high) - high) - s * np.log(high)


def _log_factorials(most: int) -> NDArray[np.float64]:
    """log i! for i = 0 .. most; scipy's take longer to load than a file to check."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
