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
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_inputs_of_one_fault_are_one_draw_and_others_are_many(rng):
    rows = rng.random((40, 50)) < 0.3
    wide, narrow = share(rows), share(rows, alike=False)
    assert wide.value == narrow.value == pytest.approx(rows.mean())
    assert (narrow.low, narrow.high) == pytest.approx(Rate(int(rows.sum()), 2000).interval())
    assert wide.high - wide.low > 6 * (narrow.high - narrow.low)


def test_faults_weigh_what_they_were_seen_on():
    seen = np.full((11, 100), np.nan)
    seen[0], seen[1:, 0] = 1.0, 0.0  # one fault has nearly all of the weight
    found = share(seen)
    assert found.value == pytest.approx(100 / 110)
    assert found.low < 0.2


@pytest.mark.parametrize("faults", [3, 20])
@pytest.mark.parametrize("alike", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("true", [0.02, 0.5])
def test_intervals_of_shares_cover_however_alike_inputs_are(faults, alike, true, rng):
    hits, spread = 0, (1 - alike) / alike
    for _ in range(200):
        of_each = rng.beta(true * spread, (1 - true) * spread, (faults, 1))
        found = share(rng.random((faults, 64)) < of_each)
        hits += found.low <= true <= found.high
    assert hits >= 190 - 14


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
