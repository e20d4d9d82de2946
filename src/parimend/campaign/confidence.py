"""Confidence sequences: intervals that hold at all times at once, so that one may look and stop.

An interval of fixed size (Wilson, Clopper and Pearson) is wrong more often than it says if trials
go on until it looks right. A confidence sequence covers the truth at *every* number of trials, with
the stated probability, so any rule of stopping is allowed. Both here are martingales that start at
1 and, for the true value, exceed 1 / alpha with a probability of at most alpha (Ville 1939).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlog1py, xlogy

Floats = NDArray[np.float64]

_PRIOR = 0.5  # Jeffreys: narrow where the probability is small
_CUT = 0.5  # no bet takes more than this part of what can be lost
_GRID = 4001
_STEPS = 60


def log_mixture(count: Any, trials: Any, share: Any) -> Floats:
    """Logarithm of the beta-binomial mixture martingale against a probability.

    Likelihoods of all probabilities, mixed with a beta distribution, over that of ``share``
    (Robbins, *Statistical methods related to the law of the iterated logarithm*, 1970; Howard,
    Ramdas, McAuliffe and Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence
    sequences*, Annals of Statistics 2021). Exact for independent trials of equal probability.

    Args:
        count: trials in which the event came, so far; any shape.
        trials: so far.
        share: the probability that is held against, in 0 .. 1.

    Example:
        >>> float(log_mixture(0, 0, 0.3))
        0.0
    """
    count, trials = np.asarray(count, np.float64), np.asarray(trials, np.float64)
    mixed = betaln(count + _PRIOR, trials - count + _PRIOR) - betaln(_PRIOR, _PRIOR)
    against: Floats = mixed - xlogy(count, share) - xlog1py(trials - count, -np.asarray(share))
    return against


def bernoulli(count: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence sequence of a probability, after some trials; see `log_mixture`.

    Args:
        count: trials in which the event came.
        trials: all of them.
        confidence: that the truth is never outside, at any number of trials.

    Example:
        >>> low, high = bernoulli(0, 1000)
        >>> low, f"{high:.4f}"
        (0.0, '0.0070')
    """
    if not trials:
        return 0.0, 1.0
    limit, share = -np.log1p(-confidence), count / trials

    def end(outside: float) -> float:
        """Between the observed share, which is inside, and an end of the scale."""
        inside = share
        if inside == outside or log_mixture(count, trials, outside) < limit:
            return outside
        for _ in range(_STEPS):
            middle = (inside + outside) / 2.0
            if log_mixture(count, trials, middle) < limit:
                inside = middle
            else:
                outside = middle
        return outside

    return end(0.0), end(1.0)


def bounded(values: Any, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence sequence of a mean of numbers in 0 .. 1, after the last of them.

    The hedged capital process with predictable plug-in bets (Waudby-Smith and Ramdas, *Estimating
    means of bounded random variables by betting*, Journal of the Royal Statistical Society B 86,
    2024, theorem 3). It needs no more than that each number has the same mean given the ones before
    it; so it holds for weighted sums over strata whose sizes were chosen by what was seen before.
    It is the narrower the less they vary.

    Args:
        values: (k,) in their order.
        confidence: that the truth is never outside.

    Returns:
        The ends; the true mean may be either.

    Example:
        >>> low, high = bounded([0.0] * 500)
        >>> low, high < 0.02
        (0.0, True)
    """
    values = np.asarray(values, np.float64)
    grid = np.linspace(0.0, 1.0, _GRID)
    capital = log_capital(values, grid, confidence)
    inside = np.flatnonzero(capital < -np.log1p(-confidence))
    if not inside.size:  # narrower than the grid: beside the point with the least capital
        inside = np.array([capital.argmin()])
    # The ends lie between the last points inside and the first ones outside.
    first, last = max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 1, _GRID - 1)
    return float(grid[first]), float(grid[last])


def log_capital(values: Floats, means: Floats, confidence: float = 0.95) -> Floats:
    """Logarithm of the hedged capital against each of some means, after all values.

    Args:
        values: (k,) in 0 .. 1.
        means: (g,) in 0 .. 1.
        confidence: that bets are made for; it holds for any.

    Returns:
        (g,) float64.
    """
    bets = _bets(values, 1.0 - confidence)
    with np.errstate(divide="ignore"):
        most_up, most_down = _CUT / means, _CUT / (1.0 - means)
    up, down = np.zeros(len(means)), np.zeros(len(means))
    for value, bet in zip(values.tolist(), bets.tolist(), strict=True):
        gap = value - means
        up += np.log1p(np.minimum(bet, most_up) * gap)
        down += np.log1p(-np.minimum(bet, most_down) * gap)
    capital: Floats = np.maximum(up, down) + np.log(0.5)
    return capital


def _bets(values: Floats, alpha: float) -> Floats:
    """How much is bet on each value, from those before it."""
    count = np.arange(1.0, len(values) + 1.0)
    means = (0.5 + np.cumsum(values)) / (count + 1.0)
    spread = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1.0)
    before = np.concatenate([[0.25], spread[:-1]])
    bets: Floats = np.sqrt(2.0 * np.log(2.0 / alpha) / (before * count * np.log(count + 1.0)))
    return bets
