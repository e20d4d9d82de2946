import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.experiment import Rate
from parimend.propagation.estimates import median, share

numbers = st.floats(0, 1e6)


@given(st.integers(1, 60), st.data())
def test_one_input_a_fault_is_a_plain_wilson_interval(trials, data):
    ones = data.draw(st.integers(0, trials))
    found = share((np.arange(trials) < ones)[:, None])
    low, high = Rate(ones, trials).interval()
    assert found.value == ones / trials
    # With n / (n - 1) in the variance, the number of trials is at most n.
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_inputs_that_agree_are_one_draw_and_inputs_that_do_not_are_many(rng):
    alike = np.repeat(rng.random((40, 1)) < 0.3, 50, axis=1)
    apart = rng.random((40, 50)) < 0.3
    narrow, wide = share(apart), share(alike)
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    low, high = Rate(int(alike[:, 0].sum()), 40).interval()
    assert (wide.low, wide.high) == pytest.approx((low, high), rel=0.05)


def test_a_share_of_nothing_seen_is_bounded_by_the_faults():
    assert share(np.zeros((20, 1000))).high == pytest.approx(Rate(0, 20).interval()[1])
    assert share(np.full((3, 2), np.nan)).high == 1.0
    assert math.isnan(share(np.full((3, 2), np.nan)).value)
    assert [share(np.zeros((n, 1))).low for n in range(1, 50)] == [0.0] * 49
    assert [share(np.ones((n, 1))).high for n in range(1, 50)] == [1.0] * 49


@given(st.lists(numbers, min_size=6, max_size=30))
def test_medians_lie_in_their_intervals(values):
    found = median(np.array(values)[:, None])
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(np.median(values))
    assert {found.low, found.high} <= set(values)


def test_intervals_of_medians_cover(rng):
    hits = 0
    for _ in range(1000):
        found = median(rng.lognormal(0, 2, (15, 1)))
        hits += found.low <= 1 <= found.high
    assert hits >= 950 - 25  # the level is 96.5 %; a binomial with 1,000 trials


def test_medians_of_few_faults_have_no_interval_and_infinity_is_a_value():
    few = median(np.ones((5, 3)))
    assert (few.value, few.low, few.high) == (1, 0, math.inf)
    most = median(np.array([[1.0], [math.inf], [math.inf], [math.inf]]))
    assert most.value == math.inf
    assert math.isnan(median(np.full((4, 1), np.nan)).value)
    assert most.as_dict()["high"] == "inf"
