import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.training.outliers import FACTOR, FEWEST, Outliers

CODE = Sparse.for_errors(5120, 210)
NONE = np.empty(0, np.int64)


def watching(rng, scale=2.0, steps=FEWEST):
    watch = Outliers(CODE)
    for _ in range(steps):
        assert watch.ordinary(CODE.matvec(rng.normal(0, scale, CODE.n)))
    return watch


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8))
@example(seed=752, count=7)  # a small one beside the true ones would explain them, too
@example(seed=514, count=8)
@example(seed=717, count=7)  # one below the floor in the place of one above it
@example(seed=776, count=7)
def test_located_damage_is_right_to_within_the_noise(seed, count):
    rng = np.random.default_rng(seed)
    watch = watching(rng)
    positions = np.sort(rng.choice(CODE.n, count, replace=False))
    sizes = rng.choice([-1, 1], count) * rng.uniform(2_000, 100_000, count)
    step = rng.normal(0, 2.0, CODE.n)
    step[positions] += sizes
    checks = CODE.matvec(step)
    assert not watch.ordinary(checks)
    damage = watch.locate(checks, NONE)
    if damage is not None:  # one weight in the checks of another may hide it; never a wrong answer
        assert damage.positions.tolist() == positions.tolist()
        assert np.abs(damage.values - sizes).max() < 4 * watch.limit


def test_what_only_seems_to_be_damage_is_left_out():
    rng = np.random.default_rng(752)
    watch = watching(rng)
    positions = np.sort(rng.choice(CODE.n, 7, replace=False))
    sizes = rng.choice([-1, 1], 7) * rng.uniform(2_000, 100_000, 7)
    step = rng.normal(0, 2.0, CODE.n)
    step[positions] += sizes
    damage = watch.locate(CODE.matvec(step), NONE)
    assert damage.positions.tolist() == positions.tolist()
    assert np.abs(damage.values - sizes).max() < 50


def test_what_rounding_to_the_grid_explains_is_no_damage(rng):
    """Where an optimizer steps along the code its checks are noise, until the data change."""
    watch = watching(rng, 1e-6)
    for _ in range(1000):
        assert watch.ordinary(CODE.matvec(rng.uniform(-0.5, 0.5, CODE.n)))
    assert not watching(rng, 1e-6).ordinary(CODE.matvec(200.0 * np.eye(CODE.n)[7]))


def test_single_weights_are_located_nearly_always(rng):
    watch = watching(rng)
    found = 0
    for _ in range(200):
        step = rng.normal(0, 2.0, CODE.n)
        at = rng.integers(CODE.n)
        step[at] += 20_000
        damage = watch.locate(CODE.matvec(step), NONE)
        found += damage is not None and damage.positions.tolist() == [at]
    assert found >= 195


def test_wild_weights_are_solved_for(rng):
    watch = watching(rng)
    original = CODE.project(rng.normal(0, 3e4, CODE.n))
    wild = np.array([17, 1700, 4242])
    zeroed = original.copy()
    zeroed[wild] = 0.0
    damage = watch.locate(CODE.matvec(zeroed), wild)
    assert damage.positions.tolist() == wild.tolist()
    assert np.abs(-damage.values - original[wild]).max() < 1.0


def test_too_much_is_not_located(rng):
    watch = watching(rng)
    assert watch.locate(CODE.matvec(rng.normal(0, 1e4, CODE.n)), NONE) is None


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e6])
def test_steps_like_those_before_are_ordinary(scale, rng):
    watch = watching(rng, scale, 100)
    for _ in range(200):
        assert watch.ordinary(CODE.matvec(rng.normal(0, scale, CODE.n)))


def test_judgement_needs_something_to_compare_with(rng):
    watch = watching(rng, steps=FEWEST - 1)
    assert watch.limit == np.inf
    assert not watch.ordinary(np.full(CODE.m, np.nan))
    assert watch.locate(np.ones(CODE.m), NONE) is None
    assert watch.ordinary(np.full(CODE.m, 1.0))
    assert watch.limit >= FACTOR
    other = Outliers(CODE)
    other.load(watch.state())
    assert other.limit == watch.limit
