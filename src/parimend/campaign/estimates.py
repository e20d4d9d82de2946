"""Probabilities and means of trials, stratum by stratum, and differences of paired ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.confidence import bernoulli, bounded
from parimend.campaign.rounds import Rounds, Value, batches, flat
from parimend.campaign.task import Stratum
from parimend.experiment import Estimate, Rate, quantile


def probability(
    samples: Sequence[Rounds], event: Value, confidence: float, sequential: bool
) -> Estimate:
    """How probable an event is.

    Args:
        samples: of one protection, from one or more campaigns, with the same strata.
        event: 1 or 0 for each trial.
        confidence: of the interval.
        sequential: whether what was seen decided how many trials there are.
    """
    values = _by_stratum(samples, event)
    if len(values) > 1:
        share = _weighted(values)
        low, high = bounded([x for rows in samples for x in batches(rows, event)], confidence)
        return Estimate(share, low, high, None if share else high, "sequence")
    (events,) = values.values()
    rate = Rate(int(events.sum()), len(events))
    if sequential:
        low, high = bernoulli(rate.count, rate.trials, confidence)
        return Estimate(rate.share, low, high, None if rate.count else high, "sequence")
    upper = None if rate.count else rate.upper(confidence)
    return Estimate(rate.share, *rate.interval(confidence), upper, "wilson")


def mean(samples: Sequence[Rounds], value: Value, confidence: float) -> Estimate:
    """A mean over strata, with its normal interval; see `probability`."""
    values = _by_stratum(samples, value)
    if any(len(each) < 2 for each in values.values()):
        return Estimate(math.nan, -math.inf, math.inf, None, "normal")
    share = _weighted(values)
    variance = sum(
        stratum.weight**2 * float(each.var(ddof=1)) / len(each) for stratum, each in values.items()
    )
    half = quantile(confidence) * math.sqrt(variance)
    return Estimate(share, share - half, share + half, None, "normal")


def mcnemar(only_a: int, only_b: int) -> float:
    """Probability of a split at least as uneven, were both equally likely."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def bonett_price(only_a: int, only_b: int, trials: int, confidence: float) -> Estimate:
    """Difference of paired proportions (Bonett and Price, Journal of Educational and Behavioral
    Statistics 37, 2012): Wald's interval with one trial more of each kind.
    """
    more, less = (only_a + 1) / (trials + 2), (only_b + 1) / (trials + 2)
    spread = math.sqrt((more + less - (more - less) ** 2) / (trials + 2))
    half = quantile(confidence) * spread
    low, high = max(more - less - half, -1.0), min(more - less + half, 1.0)
    return Estimate((only_a - only_b) / trials, low, high, None, "bonett-price")


def sequence(rows: Rounds, gap: Value, confidence: float) -> Estimate:
    """Difference of paired proportions whose number was chosen by what was seen.

    Args:
        rows: of one protection.
        gap: of the events in each trial of both: 1, 0 or -1.
        confidence: of the interval.
    """
    values = _by_stratum([rows], gap)
    share = _weighted(values)
    halves = batches(rows, lambda row: [(1.0 + x) / 2.0 for x in gap(row)])
    low, high = bounded(halves, confidence)
    return Estimate(share, 2.0 * low - 1.0, 2.0 * high - 1.0, None, "sequence")


def _weighted(values: Mapping[Stratum, NDArray[np.float64]]) -> float:
    """The mean over strata: of ones 1, though weights are rounded; NaN if one has no trials."""
    means = [float(each.mean()) if len(each) else math.nan for each in values.values()]
    return float(np.average(means, weights=[stratum.weight for stratum in values]))


def _by_stratum(samples: Sequence[Rounds], value: Value) -> dict[Stratum, NDArray[np.float64]]:
    found: dict[Stratum, list[float]] = {}
    for sample in samples:
        for stratum, rounds in sample.items():
            found.setdefault(stratum, []).extend(flat(rounds, value))
    return {stratum: np.array(values, np.float64) for stratum, values in found.items()}
