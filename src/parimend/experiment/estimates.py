"""How often something came, and numbers with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from parimend.record import Record


@dataclass(frozen=True, repr=False)
class Estimate(Record):
    """A number that was observed, and what is known of it.

    Attributes:
        value: as it was seen; NaN if nothing was.
        low, high: two-sided interval; infinite where too little was seen for an end.
        upper: one-sided bound of a probability where nothing was seen; else None.
        method: of the interval: ``wilson``, ``bonett-price``, ``sequence`` (it holds at any number
            of trials), ``normal`` or ``order-statistics``; empty where it is not said.

    >>> print(Estimate(0.25, *wilson(0.25, 400), method="wilson"))
    0.25 (0.21 - 0.295)
    """

    value: float
    low: float
    high: float
    upper: float | None = None
    method: str = ""

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} - {self.high:.3g})"

    def scaled(self, factor: float) -> Estimate:
        """All of it times a factor, such as 100 for per cent."""
        upper = None if self.upper is None else factor * self.upper
        ends = factor * self.low, factor * self.high
        return Estimate(factor * self.value, *ends, upper, self.method)


@dataclass(frozen=True)
class Rate:
    """``count`` out of ``trials`` independent trials.

    >>> rate = Rate(0, 1000)
    >>> f"{rate.upper():.4f}"
    '0.0030'
    """

    count: int
    trials: int

    @property
    def share(self) -> float:
        """The observed rate; NaN without trials."""
        return self.count / self.trials if self.trials else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the rate; see `wilson`."""
        return wilson(self.share, self.trials, confidence)

    def upper(self, confidence: float = 0.95) -> float:
        """One-sided exact upper bound of the rate (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest  # takes half a second to load

        if not self.trials:
            return 1.0
        test = binomtest(self.count, self.trials, alternative="less")
        return float(test.proportion_ci(confidence, "exact").high)


def wilson(share: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a probability; 0 to 1 without trials.

    Args:
        share: of the trials, in which the event came.
        trials: of which there may be an effective number, that is not whole.
        confidence: that the interval holds the probability.
    """
    if not trials:
        return 0.0, 1.0
    z = quantile(confidence)
    center = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Rounding may not take the ends off 0 and 1.
    low, high = (center - half) / scale, (center + half) / scale
    return 0.0 if share == 0 else max(low, 0.0), 1.0 if share == 1 else min(high, 1.0)


def quantile(confidence: float) -> float:
    """Standard deviations to both sides of the mean that hold so much of a normal distribution.

    >>> f"{quantile(0.95):.3f}"
    '1.960'
    """
    return -NormalDist().inv_cdf((1.0 - confidence) / 2)  # of a tail, which is never 0
