"""How many words are wrong: against sums over all ways, and against drawing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import SpecError
from parimend.risk import Events


def by_hand(events, expected, most):
    """Probabilities of 0 .. most words, from all numbers of events of every size."""
    found = np.zeros(most + 1)
    ranges = [range(most // size + 1) for size in events.sizes]
    for counts in itertools.product(*ranges):
        total = sum(n * size for n, size in zip(counts, events.sizes, strict=True))
        if total <= most:
            chance = 1.0
            for n, share in zip(counts, events.shares, strict=True):
                mean = expected * share
                chance *= math.exp(-mean) * mean**n / math.factorial(n)
            found[total] += chance
    return found


@given(
    expected=st.floats(0.0, 20.0),
    sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3),
    weights=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    errors=st.integers(0, 12),
)
def test_they_are_the_sum_over_all_ways(expected, sizes, weights, errors):
    weights = weights[: len(sizes)]
    events = Events.of({n: w / sum(weights) for n, w in zip(sorted(sizes), weights, strict=True)})
    exactly, more = events.tails(expected, errors)
    truth = by_hand(events, expected, errors)
    np.testing.assert_allclose(exactly, truth, rtol=1e-9, atol=1e-300)
    beyond = 1.0 - np.cumsum(truth)
    assert (more >= beyond - 1e-12).all()  # from above
    np.testing.assert_allclose(more, beyond, rtol=1e-6, atol=1e-9)


def test_small_tails_are_exact():
    """One word an event: the Poisson distribution, far below what 1 - sum can tell."""
    more = Events().tails(1e-3, 6).more
    truth = sum(math.exp(-1e-3) * 1e-3**e / math.factorial(e) for e in range(7, 20))
    assert more[6] == pytest.approx(truth, rel=1e-9)


def test_many_events_do_not_vanish():
    exactly, more = Events().tails(2000.0, 2100)
    assert exactly.sum() + more[-1] == pytest.approx(1.0, abs=1e-9)
    assert exactly.argmax() in (1999, 2000)


def test_events_beyond_every_budget_count_once_each():
    events = Events.of({1: 0.9, 4096: 0.1})
    assert events.tails(0.01, 10).more[10] == pytest.approx(-math.expm1(-0.001), rel=1e-6)
    assert events.beyond(10) == 0.1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("1:0.5", "add up to 1, not 0.5"),
        ({0: 1.0}, "size of an event, in words, must be from 1 to .*, not 0"),
        ({1: 1.5, 2: -0.5}, "share of an event must be a number from 0 to 1, not 1.5"),
        ({1.5: 1.0}, r"size of an event, in words, must be a whole number, .* 1\.5"),
        ("one:1", "such as 1:0.85,2:0.15, not 'one:1'"),
        ("", "such as 1:0.85,2:0.15"),
        ("1:1,1:1", "events of 1 words are given twice in '1:1,1:1'"),
        ({}, "need a share for every size"),
        ({1: float("nan")}, "share of an event must be a number from 0 to 1, not nan"),
        ("1:0.5,99999999999999999999:0.5", "in words, must be from 1 to 281474976710656, not"),
    ],
)
def test_what_cannot_be_is_refused(given, says):
    with pytest.raises(SpecError, match=says):
        Events.of(given)
