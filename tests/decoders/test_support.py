"""What a fit proves: the floor, noise, erasures, and the syndromes that no one can use."""

from dataclasses import replace
from math import comb, exp, inf

import numpy as np
import pytest
from scipy import stats

from parimend.codes import Gaussian
from parimend.decoders.amp import AMP
from parimend.decoders.greedy import OMP
from parimend.decoders.l1 import L1
from parimend.decoders.support import Problem, log_floor
from parimend.errors import SpecError
from parimend.outcomes import Verdict

DECODERS = pytest.mark.parametrize("decoder", [L1(), OMP(), AMP()], ids=lambda d: d.name)


@pytest.mark.parametrize(("n", "m", "k"), [(60, 30, 0), (60, 30, 5), (200, 80, 30), (100, 10, 3)])
def test_the_floor_bounds_the_chance_of_an_accident(n, m, k):
    # A residual r = 1 from damage of norm f: the chi distribution itself, against the formula.
    f = exp(log_floor(n, m, k))
    assert comb(n, k) * stats.chi(m - k).cdf(1 / f) <= 2.0**-64


def test_the_floor_grows_without_bound():
    floors = [log_floor(100, 40, k) for k in range(41)]
    assert floors == sorted(floors)
    assert floors[40] == inf


def test_the_limit_leaves_a_margin():
    def limit(n, m, erased=0):
        erasures = np.arange(erased)
        return Problem(np.ones((m, n)), np.zeros(m), erasures, 0.0, 1.0).limit

    assert limit(60, 30) == 17
    assert limit(60, 30, erased=10) == 9
    assert limit(60, 5) == limit(60, 30, erased=30) == limit(60, 30, erased=40) == -1
    assert limit(5120, 1024) == 677


@DECODERS
def test_too_few_checks_prove_nothing(decoder):
    code = Gaussian(n=20, m=4)
    decoding = decoder.prepare(code).decode(code.column(3)[1])
    assert decoding.verdict is Verdict.UNCORRECTABLE
    assert decoding.unexplained == 4


@DECODERS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_syndromes_that_are_not_finite(decoder, bad):
    code = Gaussian(n=60, m=30)
    syndrome = np.zeros(30)
    syndrome[3] = bad
    decoding = decoder.prepare(code).decode(syndrome)
    assert decoding.verdict is Verdict.UNCORRECTABLE
    assert decoding.unexplained == 1


@DECODERS
@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_damage_of_any_size(decoder, size):
    code = Gaussian(n=60, m=30)
    damage = np.zeros(60)
    damage[[3, 50]] = size, -2 * size
    decoder = replace(decoder, resolution=1e-9 * size)
    decoding = decoder.prepare(code).decode(code.syndrome(damage))
    assert decoding.verdict is Verdict.CORRECTED
    np.testing.assert_allclose(decoding.values, [size, -2 * size], rtol=1e-12)
    assert 0 < decoding.floor < 1e-9 * size


@DECODERS
def test_only_erasures(decoder, rng):
    code = Gaussian(n=60, m=30)
    prepared = decoder.prepare(code)
    erasures = np.sort(rng.choice(60, 15, replace=False))
    damage = np.zeros(60)
    damage[erasures] = rng.normal(size=15)
    decoding = prepared.decode(code.syndrome(damage), erasures)
    assert decoding.verdict is Verdict.CORRECTED
    np.testing.assert_array_equal(decoding.positions, erasures)
    np.testing.assert_allclose(decoding.values, damage[erasures], atol=1e-11)
    untouched = prepared.decode(np.zeros(30), erasures)
    assert untouched.verdict is Verdict.CORRECTED
    assert not untouched.values.any()
    assert prepared.decode(code.syndrome(damage), np.arange(30)).verdict is Verdict.UNCORRECTABLE


@DECODERS
def test_erasures_far_larger_than_the_errors(decoder):
    code = Gaussian(n=60, m=30)
    damage = np.zeros(60)
    damage[[5, 20, 40]] = 1e8, 0.5, -1.0
    decoding = decoder.prepare(code).decode(code.syndrome(damage), np.array([5]))
    assert decoding.verdict is Verdict.BELOW_FLOOR
    assert decoding.floor < 1e-3
    np.testing.assert_array_equal(decoding.positions, [5, 20, 40])
    np.testing.assert_allclose(decoding.values, [1e8, 0.5, -1.0], atol=1e-6)


@DECODERS
@pytest.mark.parametrize("t", [0, 5, 20, 60])
def test_noise(decoder, t, rng):
    code = Gaussian(n=200, m=80)
    prepared, noise = decoder.prepare(code), 1e-4
    for _ in range(20):
        damage = np.zeros(200)
        damage[rng.choice(200, t, replace=False)] = rng.normal(size=t) * 10.0 ** -rng.uniform(
            0, 6, t
        )
        syndrome = code.syndrome(damage) + rng.uniform(-noise, noise, 80)
        decoding = prepared.decode(syndrome, noise=noise)
        if t <= 5:
            assert decoding.verdict is Verdict.BELOW_FLOOR
            assert noise < decoding.floor < 20 * noise
        if decoding.verdict is Verdict.BELOW_FLOOR:
            found = np.zeros(200)
            found[decoding.positions] = decoding.values
            missed = np.where(found == 0.0, damage, 0.0)
            assert np.linalg.norm(missed) <= decoding.floor
            assert np.abs(found - damage).max() <= decoding.floor
        else:
            assert decoding.verdict is Verdict.UNCORRECTABLE


@DECODERS
def test_damage_that_is_hidden_by_rounding_is_below_the_floor(decoder):
    code = Gaussian(n=60, m=30)
    damage = np.zeros(60)
    damage[[3, 50]] = 1e30, 1.0
    decoding = decoder.prepare(code).decode(code.syndrome(damage))
    assert decoding.verdict is Verdict.BELOW_FLOOR
    np.testing.assert_array_equal(decoding.positions, [3])
    assert decoding.floor > 1.0


@DECODERS
@pytest.mark.parametrize("resolution", [0.0, -1.0, np.nan, np.inf])
def test_refuses_resolutions_that_mean_nothing(decoder, resolution):
    with pytest.raises(SpecError, match="resolution"):
        replace(decoder, resolution=resolution)
