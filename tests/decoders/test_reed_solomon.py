"""Power sums decoded: every pattern within the promise, nothing wrongly beyond it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import PowerSums
from parimend.codes.power import LONGEST
from parimend.decoders import ReedSolomon
from parimend.outcomes import Verdict
from tests.decoders.contract import SumsDecoderContract

PRIME = 4_294_991_873


class TestContract(SumsDecoderContract):
    # The contract decodes as many erasures as errors, and both together.
    easy, overload, overload_trials = 6, (13, 40), 200

    @pytest.fixture
    def decoder(self):
        return ReedSolomon()

    @pytest.fixture(params=[PowerSums(200, 18), PowerSums(3000, 20, seed=5)])
    def code(self, request):
        return request.param


def placed(kind, n, count, rng):
    """Positions of damage: scattered, in a row, in rows of a tile, one lane of a tile."""
    if kind == "burst":
        return rng.integers(n - count + 1) + np.arange(count)
    if kind == "lane":
        return np.sort(rng.integers(n - 8 * count) + 8 * np.arange(count))
    if kind == "line":
        lines = rng.choice(n // 16, -(-count // 16), replace=False)
        return np.sort((16 * lines[:, None] + np.arange(16)).ravel()[:count])
    return np.sort(rng.choice(n, count, replace=False))


def valued(kind, count, rng):
    """What words changed by, as residues: single bits, all alike, anything, nearly p."""
    if kind == "bits":
        return (rng.choice([-1, 1], count) * (1 << rng.integers(0, 32, count))) % PRIME
    if kind == "same":
        return np.full(count, 1 << 31)
    if kind == "edge":
        return rng.choice([1, PRIME - 1], count)
    return rng.integers(1, PRIME, count)


@pytest.mark.parametrize("values", ["bits", "same", "edge", "random"])
@pytest.mark.parametrize("places", ["scattered", "burst", "lane", "line"])
@pytest.mark.parametrize("t", [1, 2, 3, 8, 33, 105])
def test_any_errors_and_erasures_within_the_promise_are_repaired(t, places, values, rng):
    code = PowerSums.for_errors(1_000_000, t, seed=t)
    prepared = ReedSolomon().prepare(code)
    for erased in sorted({0, 1, t, 2 * t}):
        count = (2 * t - erased) // 2 + erased
        positions = placed(places, code.n, count, rng)
        damage = valued(values, count, rng)
        erasures = rng.permutation(positions)[:erased]
        decoding = prepared.decode(code.sums_of(positions, damage), erasures)
        assert decoding.verdict is Verdict.CORRECTED, erased
        np.testing.assert_array_equal(decoding.positions, positions)
        np.testing.assert_array_equal(decoding.values, damage)


def test_all_patterns_of_a_short_code_are_repaired():
    code = PowerSums(7, 4)
    prepared = ReedSolomon().prepare(code)
    for positions in itertools.combinations(range(7), 2):
        for damage in itertools.product((1, 2, 1 << 31, PRIME - 1), repeat=2):
            decoding = prepared.decode(code.sums_of(positions, damage))
            assert decoding.positions.tolist() == list(positions)
            assert decoding.values.tolist() == list(damage)


@given(st.data())
def test_too_many_errors_are_told_or_repaired(data):
    t = data.draw(st.integers(1, 12))
    code = PowerSums.for_errors(data.draw(st.integers(4 * t, 500_000)), t)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    positions = np.sort(rng.choice(code.n, int(rng.integers(t + 1, 2 * t + 1)), replace=False))
    damage = rng.integers(1, PRIME, positions.size)
    syndrome = code.sums_of(positions, damage)
    assert syndrome.any(), "any 2 t wrong words are noticed"
    decoding = ReedSolomon().prepare(code).decode(syndrome)
    # What is called corrected explains every sum, and the true damage is no explanation of t words.
    if decoding.verdict is Verdict.CORRECTED:
        assert decoding.positions.size <= t
        again = code.sums_of(decoding.positions, decoding.values)
        np.testing.assert_array_equal(again, syndrome)


def test_words_at_the_end_of_the_longest_code_are_found():
    code = PowerSums(LONGEST, 6)
    where = np.array([0, LONGEST // 3, LONGEST - 1])
    decoding = ReedSolomon().prepare(code).decode(code.sums_of(where, [1, 2, 3]))
    assert decoding.positions.tolist() == where.tolist()


def test_sound_erasures_take_of_the_promise_and_are_told_apart(rng):
    code = PowerSums.for_errors(10_000, 10)
    wrong, sound = np.array([5, 77, 9_000]), np.array([3, 400, 8_000])
    syndrome = code.sums_of(wrong, [1, 2, 3])
    decoding = ReedSolomon().prepare(code).decode(syndrome, erasures=sound)
    assert decoding.verdict is Verdict.CORRECTED
    assert decoding.positions.tolist() == sorted([*wrong, *sound])
    assert decoding.values[np.isin(decoding.positions, sound)].tolist() == [0, 0, 0]


def test_more_erasures_than_sums_are_uncorrectable():
    code = PowerSums(100, 4)
    decoding = ReedSolomon().prepare(code).decode(code.sums_of([1], [1]), np.arange(5))
    assert decoding.verdict is Verdict.UNCORRECTABLE
    assert decoding.unexplained == 4
