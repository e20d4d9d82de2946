"""Confidence sequences: they cover the truth at all times at once, and close in on it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from parimend.campaign.confidence import bernoulli, bounded, log_capital, log_mixture

CAMPAIGNS = 10_000
LIMIT = np.log(20.0)  # 95 %


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5])
def test_ten_thousand_campaigns_are_covered_whenever_they_are_looked_at(rng, share):
    trials = 1500
    missed = np.zeros(CAMPAIGNS, bool)
    count = np.zeros(CAMPAIGNS, int)
    for done in range(1, trials + 1):
        count += rng.random(CAMPAIGNS) < share
        reached = log_mixture(np.arange(done + 1), done, share) >= LIMIT  # by whichever count
        missed |= reached[count]
    # At most 5 % of all campaigns may ever exclude the truth, at any of 1,500 looks.
    assert missed.mean() <= 0.05


def test_an_interval_of_fixed_size_would_not_do(rng):
    """The reason for all of this: Wilson's interval, looked at again and again, fails often."""
    trials, share, z = 1500, 0.3, 1.959964
    count, missed = np.zeros(2000), np.zeros(2000, bool)
    for done in range(1, trials + 1):
        count += rng.random(2000) < share
        missed |= np.abs(count / done - share) > z * np.sqrt(share * (1 - share) / done)
    assert missed.mean() > 0.3


@pytest.mark.parametrize("share", [0.01, pytest.param(0.2, marks=pytest.mark.long)])
def test_stopping_by_width_is_covered(rng, share):
    width, outside, stops = 0.05, 0, []
    for _ in range(200):
        count = done = 0
        low, high = 0.0, 1.0
        while high - low > width:
            count += int(rng.binomial(100, share))
            done += 100
            low, high = bernoulli(count, done)
        stops.append(done)
        outside += not low <= share <= high
    assert outside <= 10
    assert len(set(stops)) > 1


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_are_where_the_martingale_reaches_its_limit(case):
    count, trials = case
    low, high = bernoulli(count, trials)
    assert low <= count / trials <= high
    for end in (low, high):
        if 0.0 < end < 1.0:
            assert float(log_mixture(count, trials, end)) == pytest.approx(LIMIT, abs=1e-6)
    inner = bernoulli(count, trials, 0.8)
    assert low <= inner[0] <= inner[1] <= high


@pytest.mark.parametrize(("count", "trials"), [(0, 5), (2, 7), (9, 9)])
def test_the_mixture_is_what_it_says(count, trials):
    def mixed(p):
        prior = 1.0 / (np.pi * np.sqrt(p * (1.0 - p)))
        return prior * p**count * (1.0 - p) ** (trials - count)

    area = quad(mixed, 0.0, 1.0)[0]
    likelihood = 0.3**count * 0.7 ** (trials - count)
    assert float(log_mixture(count, trials, 0.3)) == pytest.approx(np.log(area / likelihood))


def test_the_mixture_is_a_martingale():
    chance = binom.pmf(np.arange(13), 12, 0.2)
    assert np.dot(chance, np.exp(log_mixture(np.arange(13), 12, 0.2))) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["coins", "batches", "skewed"])
def test_ten_thousand_campaigns_of_bounded_numbers_are_covered(rng, kind):
    trials = 150
    if kind == "coins":
        values, mean = (rng.random((CAMPAIGNS, trials)) < 0.1).astype(float), 0.1
    elif kind == "batches":
        values, mean = rng.binomial(20, 0.05, (CAMPAIGNS, trials)) / 20, 0.05
    else:
        values, mean = rng.beta(0.2, 1.8, (CAMPAIGNS, trials)), 0.1
    assert _ever_excluded(values, mean).mean() <= 0.05


def _ever_excluded(values, mean):
    """Plainly, the formulas of the paper, for all campaigns at once."""
    up, down = np.ones(len(values)), np.ones(len(values))
    total = np.full(len(values), 0.5)
    squares = np.full(len(values), 0.25)
    excluded = np.zeros(len(values), bool)
    for t in range(1, values.shape[1] + 1):
        spread = squares / t
        bet = np.sqrt(2.0 * np.log(2.0 / 0.05) / (spread * t * np.log(t + 1.0)))
        x = values[:, t - 1]
        up *= 1.0 + np.minimum(bet, 0.5 / mean) * (x - mean)
        down *= 1.0 - np.minimum(bet, 0.5 / (1.0 - mean)) * (x - mean)
        total += x
        squares += (x - total / (t + 1.0)) ** 2
        excluded |= np.maximum(up, down) / 2.0 >= 20.0
    return excluded


def test_the_capital_is_that_of_the_plain_formulas(rng):
    values = rng.beta(1.0, 4.0, (40, 60))
    for row in values[:5]:
        for mean in (0.05, 0.2, 0.7):
            reached = max(
                float(log_capital(row[:t], np.array([mean]))[0]) for t in range(1, len(row) + 1)
            )
            assert (reached >= LIMIT) == bool(_ever_excluded(row[None], mean)[0])


def test_bounded_numbers_are_closed_in_on(rng):
    low, high = bounded(0.1 + 0.02 * rng.random(2000))
    assert low < 0.11 < high
    assert high - low < 0.01
    assert bounded([]) == (0.0, 1.0)
    assert bounded([0.25] * 10**4)[1] < 0.26
    assert bernoulli(0, 0) == (0.0, 1.0)


def test_a_mean_that_hardly_varies_lies_between_points_of_the_grid():
    low, high = bounded(np.full(40_000, 0.50012))
    assert low <= 0.50012 <= high
    assert high - low < 0.001
