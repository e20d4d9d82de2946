"""Medians and shares of observations that come in clusters, with 95 % intervals.

One fault in a weight reaches all inputs, so what these inputs show is one draw and not many. Every
function here takes a row for each fault and treats the row as what was drawn. NaN stands for
nothing observed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.experiment import Estimate, wilson

Rows = NDArray[Any]
"""(faults, inputs) float64 or bool."""

_TAIL = 0.025
_RANKS = "order-statistics"


def median(rows: Rows) -> Estimate:
    """The median over faults of what is the median over the inputs of each.

    The interval is between two order statistics: it holds for any distribution (Hahn and Meeker,
    Statistical Intervals, 5.2), and exists from six faults on.

    Args:
        rows: (faults, inputs), not negative; infinity is a value like others.

    Example:
        >>> print(median(np.arange(1.0, 10.0)[:, None]))
        5 (2 - 8)
    """
    from scipy.stats import binom  # takes half a second to load

    kept = rows[~np.isnan(rows).all(1)]
    if not len(kept):
        return Estimate(math.nan, 0.0, math.inf, method=_RANKS)
    with np.errstate(invalid="ignore"):  # the middle of two infinities is one of them
        ranked = np.sort([_middle(row[~np.isnan(row)]) for row in kept])
        value = _middle(ranked)
    rank = int(binom.ppf(_TAIL, len(ranked), 0.5))
    if not rank:
        return Estimate(value, 0.0, math.inf, method=_RANKS)
    return Estimate(value, float(ranked[rank - 1]), float(ranked[-rank]), method=_RANKS)


def share(rows: Rows, alike: bool = True) -> Estimate:
    """The share of ones among zeros and ones, with a Wilson interval.

    Where the inputs of one fault are alike, nothing that few faults show tells how much: a rare one
    that reaches all inputs is easily not among them. So the number of trials is that of the faults,
    as if all inputs of each said the same; if they say it of different numbers of inputs, what
    weighs as much (L. Kish, *Survey Sampling*, 1965). Else every observation is a trial.

    Args:
        rows: (faults, inputs), zeros and ones.
        alike: whether one fault is what all inputs of a row met.

    Example:
        >>> rows = np.repeat([[1.0], [0.0], [0.0], [0.0]], 100, axis=1)  # four faults, not 400
        >>> print(share(rows))
        0.25 (0.0456 - 0.699)
        >>> print(share(rows, alike=False))
        0.25 (0.21 - 0.295)
    """
    rows = np.asarray(rows, np.float64)
    counts = (~np.isnan(rows)).sum(1)
    trials = int(counts.sum())
    if not trials:
        return Estimate(math.nan, 0.0, 1.0, method="wilson")
    effective = trials**2 / float(np.square(counts).sum()) if alike else trials
    p = float(np.nansum(rows) / trials)
    return Estimate(p, *wilson(p, effective), method="wilson")


def _middle(values: Rows) -> float:
    """The median; of infinities, too."""
    ranked = np.sort(values)
    low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    return float(low if low == high else (low + high) / 2)
