"""Peeling buckets: damage of all kinds is found exactly, and never a wrong answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Modular, restore
from parimend.codes.base import MAX_WORDS
from parimend.codes.modular import PRIMES
from parimend.decoders import Buckets
from parimend.kernels import modular_numba
from parimend.kernels.buckets_numba import _inverse
from parimend.outcomes import Verdict
from tests.decoders.contract import SumsDecoderContract, assert_overload_is_told

N = 1_000_000
PRIME = PRIMES[1]


class TestContract(SumsDecoderContract):
    easy, overload, overload_trials = 10, (40, 150), 500

    @pytest.fixture
    def decoder(self):
        return Buckets()

    @pytest.fixture(
        params=[
            Modular.for_errors(200, 10),
            Modular(3000, 4 * 30, seed=5),
            Modular(3000, 4 * 30, seed=5, version=2),
        ]
    )
    def code(self, request):
        return request.param


def positions_of(kind, n, t, rng):
    if kind == "burst":
        return rng.integers(n - t + 1) + np.arange(t)
    if kind == "lines":
        lines = rng.choice(n // 16, -(-t // 16), replace=False)
        return np.sort((16 * lines[:, None] + np.arange(16)).ravel()[:t])
    if kind == "page":
        return np.sort(1024 * rng.integers(n // 1024) + rng.choice(1024, t, replace=False))
    return np.sort(rng.choice(n, t, replace=False))


def patterns_of(kind, original, rng):
    if kind == "same":
        return np.full_like(original, 0xFFFFFFFF)
    if kind == "zero":
        return np.zeros_like(original)
    if kind == "bits":
        return original ^ (np.uint32(1) << rng.integers(0, 32, original.size, dtype=np.uint32))
    return rng.integers(0, 1 << 32, original.size, dtype=np.uint32)


@pytest.mark.parametrize("pattern", ["same", "zero", "bits", "random"])
@pytest.mark.parametrize("place", ["scattered", "burst", "lines", "page"])
@pytest.mark.parametrize("t", [1, 10, 210])
def test_damage_within_the_budget_is_repaired(t, place, pattern):
    rng = np.random.default_rng(t)
    repaired = 0
    for trial in range(15):
        code = Modular.for_errors(N, t, seed=trial)
        positions = positions_of(place, N, t, rng)
        original = rng.normal(size=t).astype(np.float32).view(np.uint32)
        received = patterns_of(pattern, original, rng)
        damage = (received.astype(np.int64) - original) % PRIME
        decoding = Buckets().prepare(code).decode(code.sums_of(positions, damage))
        if decoding.verdict is Verdict.UNCORRECTABLE:
            continue
        repaired += 1
        wrong = received != original
        np.testing.assert_array_equal(decoding.positions, positions[wrong])
        words = restore(received[wrong], decoding.values, PRIME)
        np.testing.assert_array_equal(words, original[wrong])
    assert repaired >= 14


def test_every_single_word_is_found():
    code = Modular(n=333, m=5 * 16, bands=5)
    prepared = Buckets().prepare(code)
    for i in range(code.n):
        for value in (1, PRIME - 1, 1 << 32, 0x80000000):
            decoding = prepared.decode(code.sums_of(np.array([i]), np.array([value])))
            assert decoding.verdict is Verdict.CORRECTED
            assert decoding.positions.tolist() == [i]
            assert decoding.values.tolist() == [value]


@given(n=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_whole_words_of_few_groups(n, seed):
    rng = np.random.default_rng(seed)
    code = Modular.for_errors(n, n, seed=seed)
    damage = rng.integers(0, PRIME, n)
    decoding = Buckets().prepare(code).decode(code.sums_of(np.arange(n), damage))
    if decoding.verdict is not Verdict.UNCORRECTABLE:
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(damage))
        np.testing.assert_array_equal(decoding.values, damage[damage != 0])


@pytest.mark.parametrize("trials", [200, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("n", [5000, 17_200_000, 2**32, MAX_WORDS])
def test_too_much_damage_is_never_called_corrected_wrongly(n, trials):
    prepared = Buckets().prepare(Modular.for_errors(n, 20, seed=1))
    assert_overload_is_told(prepared, np.random.default_rng(n), trials)


def test_words_taken_out_by_accident_are_put_back():
    # In a code this long buckets name the wrong word every few times.
    code = Modular(MAX_WORDS, 5 * 100, bands=5)
    prepared = Buckets().prepare(code)
    rng = np.random.default_rng(0)
    detours = 0
    for _ in range(30):
        positions = np.sort(rng.integers(0, code.n, 210))
        damage = rng.integers(1, PRIME, 210)
        decoding = prepared.decode(code.sums_of(positions, damage))
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, positions)
        np.testing.assert_array_equal(decoding.values, damage)
        detours += sum(decoding.steps.values()) > 210
    assert detours


def test_two_words_in_the_same_buckets_are_uncorrectable():
    code = Modular(n=200_000, m=2 * 16, bands=2)
    where: dict[tuple[int, ...], int] = {}
    for i in range(code.n):
        buckets = tuple(code.column(i)[0].tolist())
        if buckets in where:
            break
        where[buckets] = i
    pair = np.array([where[buckets], i])
    decoding = Buckets().prepare(code).decode(code.sums_of(pair, np.array([5, 7])))
    assert decoding.verdict is Verdict.UNCORRECTABLE
    assert decoding.unexplained == 2
    assert decoding.positions.size == decoding.values.size == 0


def test_sound_erasures_are_reported_with_zero_damage():
    code = Modular(n=500, m=64)
    prepared = Buckets().prepare(code)
    sums = code.sums_of(np.array([3]), np.array([9]))
    decoding = prepared.decode(sums, erasures=np.array([3, 40]))
    assert decoding.positions.tolist() == [3, 40]
    assert decoding.values.tolist() == [9, 0]


@given(st.sampled_from(list(PRIMES.values())), st.data())
def test_inverse_modulo_p(prime, data):
    residues = st.integers(1, prime - 1) | st.integers(1, 40) | st.integers(prime - 40, prime - 1)
    a, excess = np.uint64(data.draw(residues)), np.uint64(prime - 2**32)
    inverse = _inverse(a, np.uint64(prime))
    assert int(modular_numba.multiply(a, inverse, excess)) == 1
