import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.decoders import Agreement, Peeling
from parimend.errors import SpecError
from parimend.outcomes import Verdict

CODE = Sparse(n=2000, m=256, weights=((4, 1000),), own=4)
PREPARED = Agreement().prepare(CODE)
NOISE = 1e-3  # of every word, in grid steps


def noisy_syndrome(damage, seed):
    noise = np.random.default_rng(seed).normal(0, NOISE, CODE.n)
    bound = 8 * NOISE * np.sqrt(CODE.n * 4 / CODE.m)
    return np.rint(CODE.matvec(damage + noise) * CODE.unit).astype(np.int64), bound * CODE.unit


@given(seed=st.integers(0, 10_000), errors=st.integers(1, 12))
def test_damage_is_found_to_within_the_floor(seed, errors):
    rng = np.random.default_rng(seed)
    damage = np.zeros(CODE.n)
    where = rng.choice(CODE.n, errors, replace=False)
    damage[where] = rng.uniform(10, 1e5, errors) * rng.choice([-1, 1], errors)
    syndrome, bound = noisy_syndrome(damage, seed)
    decoding = PREPARED.decode(syndrome, noise=bound)
    # What it cannot explain it does not claim.
    if decoding.verdict is Verdict.UNCORRECTABLE:
        assert errors > 4
        assert decoding.positions.size == 0
        assert decoding.unexplained > 0
        return
    assert decoding.verdict is Verdict.BELOW_FLOOR
    answer = np.zeros(CODE.n)
    answer[decoding.positions] = decoding.values
    assert np.abs(answer - damage).max() <= decoding.floor
    assert decoding.floor < 1.0


def test_noise_alone_is_below_the_floor():
    syndrome, bound = noisy_syndrome(np.zeros(CODE.n), 3)
    decoding = PREPARED.decode(syndrome, noise=bound)
    assert decoding.verdict is Verdict.BELOW_FLOOR
    assert decoding.positions.size == 0


def test_erased_words_are_solved_for():
    damage = np.zeros(CODE.n)
    erased = np.arange(40)
    damage[erased] = np.linspace(-1e4, 1e4, 40)
    syndrome, bound = noisy_syndrome(damage, 4)
    decoding = PREPARED.decode(syndrome, erased, noise=bound)
    assert decoding.verdict is Verdict.BELOW_FLOOR
    assert decoding.positions.tolist() == erased.tolist()
    assert np.abs(decoding.values - damage[erased]).max() < 1.0


def test_overload_is_never_explained_away():
    rng = np.random.default_rng(5)
    for seed in range(100):
        damage = np.zeros(CODE.n)
        damage[rng.choice(CODE.n, 400, replace=False)] = rng.normal(0, 1e4, 400)
        syndrome, bound = noisy_syndrome(damage, seed)
        assert PREPARED.decode(syndrome, noise=bound).verdict is Verdict.UNCORRECTABLE


def test_exact_decoder_refuses_noise():
    with pytest.raises(SpecError, match="agreement"):
        Peeling().prepare(CODE).decode(np.ones(CODE.m, np.int64), noise=1.0)
