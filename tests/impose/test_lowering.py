import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import LowBits
from parimend.decoders import Peeling
from parimend.errors import SpecError, WordError
from parimend.impose.lattice import kernel_modulo
from parimend.impose.lowering import lower_into
from parimend.outcomes import Verdict


def weights(n, seed, scale=0.05):
    return (np.random.default_rng(seed).normal(size=n) * scale).astype(np.float32)


@given(seed=st.integers(0, 1000), k=st.integers(2, 12))
def test_lattice_vectors_vanish_modulo_2_64_and_are_short(seed, k):
    a = np.random.default_rng(seed).integers(-(2**62), 2**62, k) | 1
    basis = kernel_modulo(a)
    for row in basis.tolist():
        assert sum(x * int(y) for x, y in zip(row, a, strict=True)) % 2**64 == 0
    # The determinant of the lattice is 2^64: a basis of it, not of a part of it.
    assert round(np.linalg.slogdet(basis.astype(float))[1] / np.log(2)) == 64
    norms = np.linalg.norm(basis.astype(float), axis=1)
    assert np.log2(norms).sum() < 64 + k * k / 4  # LLL's promise, nearly orthogonal


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_imposed_checks_hold_and_weights_hardly_move(seed, scale):
    code = LowBits.for_errors(1500, 20, seed=seed)
    before = weights(1500, seed, scale)
    lowered = lower_into(code, before.view(np.uint32))
    after = lowered.word.view(np.float32)
    assert not lowered.target[: code.imposed].any()
    assert (code.syndrome(lowered.word.astype(np.int64)) == lowered.target).all()
    assert np.isfinite(after).all()
    assert (np.signbit(after) == np.signbit(before)).all()
    moved = np.linalg.norm(after.astype(float) - before) / np.linalg.norm(before.astype(float))
    assert moved < 1e-5


def test_zeros_become_tiny_normal_numbers():
    code = LowBits.for_errors(1500, 20)
    after = lower_into(code, np.zeros(1500, np.uint32)).word.view(np.float32)
    moved = after[after != 0]
    assert np.finfo(np.float32).smallest_normal <= moved.min()
    assert moved.max() < 1e-37


def test_the_largest_numbers_are_refused():
    code = LowBits.for_errors(1500, 20)
    huge = np.full(1500, np.finfo(np.float32).max)
    with pytest.raises(WordError, match="too close to the largest"):
        lower_into(code, huge.view(np.uint32))


def test_only_its_own_bit_widths():
    with pytest.raises(SpecError, match="word_bits=32"):
        LowBits(5120, 319, coefficient_bits=60)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["any", "flip", "same", "burst"]))
def test_damage_within_the_budget_is_decoded(seed, kind):
    code = LowBits.for_errors(3000, 40)
    prepared = Peeling().prepare(code)
    rng = np.random.default_rng(seed)
    word = lower_into(code, weights(3000, seed).view(np.uint32))
    hurt = word.word.copy()
    start = int(rng.integers(0, 2960))
    where = np.arange(start, start + 40) if kind == "burst" else rng.choice(3000, 40, False)
    if kind == "flip":
        hurt[where] ^= np.uint32(1) << rng.integers(0, 32, 40).astype(np.uint32)
    else:
        hurt[where] = rng.integers(0, 2**32, 1 if kind == "same" else 40)
    syndrome = code.syndrome(hurt.astype(np.int64)) - word.target
    decoding = prepared.decode(syndrome)
    assert decoding.verdict is Verdict.CORRECTED
    repaired = hurt.astype(np.int64)
    repaired[decoding.positions] -= decoding.values
    assert (repaired == word.word).all()
