"""The bound on what peeling leaves: exact for few words, and above what is simulated."""

import itertools
import math

import numpy as np
import pytest

from parimend.codes import Hashed, Modular
from parimend.codes.stopping import log_none_alone, stopping_bound
from parimend.decoders import Buckets
from parimend.errors import SpecError


def ways_with_none_alone(size, most):
    """In how many of the size^s ways s words fall into buckets with none alone, for all s."""
    ways = [1] + most * [0]
    for _ in range(size):
        ways = [
            sum(math.comb(s, k) * ways[s - k] for k in range(s + 1) if k != 1)
            for s in range(most + 1)
        ]
    return ways


def test_the_oracle_counts():
    for s, ways in enumerate(ways_with_none_alone(3, 6)):
        every = itertools.product(range(3), repeat=s)
        assert ways == sum(1 not in [way.count(b) for b in range(3)] for way in every)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_chances_that_no_word_is_alone(size):
    q = np.exp(log_none_alone(size, 5 * size))
    exact = [w / size**s for s, w in enumerate(ways_with_none_alone(size, 5 * size))]
    np.testing.assert_allclose(q[: 2 * size + 1], exact[: 2 * size + 1], rtol=1e-11)
    # Further on it is a bound, loose by no more than a root.
    for s in range(2 * size + 1, 5 * size + 1):
        assert exact[s] <= q[s] <= min(1.0, exact[s] * math.sqrt(8 * math.pi * s))


def left_by_peeling(words, bands, size, trials, rng):
    """How many words are left in each trial: one that is alone somewhere goes, until none is."""
    left = []
    for _ in range(trials):
        places = rng.integers(0, size, (words, bands)) + size * np.arange(bands)
        while len(places):
            counts = np.bincount(places.ravel(), minlength=bands * size)
            alone = (counts[places] == 1).any(axis=1)
            if not alone.any():
                break
            places = places[~alone]
        left.append(len(places))
    return np.array(left)


@pytest.mark.parametrize(
    ("words", "bands", "size", "trials"),
    [(4, 2, 16, 4000), (8, 2, 40, 4000), (6, 3, 16, 20_000), (12, 3, 16, 4000), (20, 2, 30, 1000)],
)
def test_it_lies_above_what_is_simulated(words, bands, size, trials, rng):
    left = left_by_peeling(words, bands, size, trials, rng)
    for most in (0, 2, 4):
        failed = int((left > most).sum())
        bound = stopping_bound(words, bands, size, most)
        assert failed <= bound * trials + 4 * np.sqrt(bound * trials) + 1
    # Where failures are few and of two words, they are all there is to the bound.
    if failed == 0 and stopping_bound(words, bands, size, 0) < 0.2:
        assert (left > 0).sum() > 0.5 * stopping_bound(words, bands, size, 0) * trials


@pytest.mark.long
def test_buckets_are_peeled_as_often(rng):
    words, trials = 12, 4000
    code = Modular(n=10**6, m=3 * 16, bands=3, version=2)
    failed = 0
    for seed in range(trials):
        code = Modular(code.n, code.m, seed, version=2, bands=3)
        groups = rng.choice(code.n // 16, words, replace=False)
        positions = 16 * groups + rng.integers(0, 16, words)
        syndrome = code.sums_of(positions, rng.integers(1, 1 << 32, words))
        failed += Buckets().prepare(code).decode(syndrome).unexplained > 0
    simulated = (left_by_peeling(words, 3, 16, trials, rng) > 0).sum()
    assert abs(failed - simulated) < 5 * np.sqrt(simulated) + 5
    assert 0 < failed <= code.bound(words) * trials * 1.3


def test_more_words_more_room_less_left():
    code = Hashed.for_errors(17_200_000, 3000)
    bounds = [code.bound(errors) for errors in (0, 4, 5, 10, 100, 1000, 2400, 3000, 10**6)]
    assert bounds[:2] == [0.0, 0.0]
    assert all(a < b for a, b in itertools.pairwise(bounds[1:-1]))
    assert bounds[-2:] == [1.0, 1.0]
    assert bounds[6] < 1e-13
    hashed = code.parts[1]
    assert hashed.bound(1000, left=4) == code.bound(1000) < hashed.bound(1000)
    assert hashed.bound(1) == 0.0
    # Only pairs that share their buckets count, as long as there are few words.
    assert hashed.bound(10) == pytest.approx(45 / hashed.size**4, rel=0.01)


def test_numbers_below_zero_are_refused():
    for arguments in ((-1, 0), (3, -1)):
        with pytest.raises(SpecError, match="not negative"):
            Modular(100, 64).bound(*arguments)
