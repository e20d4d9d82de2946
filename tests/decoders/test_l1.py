"""Linear programming: its two methods, erasures, noise, and what it must not claim."""

import numpy as np
import pytest

from parimend.codes import Gaussian
from parimend.decoders.l1 import L1
from parimend.errors import SpecError
from parimend.outcomes import Verdict
from tests.decoders.contract import DecoderContract

CODE = Gaussian(n=60, m=30)


class TestAdmm(DecoderContract):
    easy, overload, overload_trials = 4, (15, 60), 100

    @pytest.fixture
    def decoder(self):
        return L1()

    @pytest.fixture
    def code(self):
        return CODE


class TestHighs(DecoderContract):
    easy, overload, overload_trials = 4, (15, 60), 100

    @pytest.fixture
    def decoder(self):
        return L1("highs")

    @pytest.fixture
    def code(self):
        return CODE


def test_both_methods_find_the_same(rng):
    admm, highs = L1().prepare(CODE), L1("highs").prepare(CODE)
    found = 0
    for _ in range(60):
        damage = np.zeros(60)
        damage[rng.choice(60, rng.integers(1, 10), replace=False)] = 1.0
        a, b = (d.decode(CODE.syndrome(damage)) for d in (admm, highs))
        assert a.verdict is b.verdict
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-12)
        found += a.verdict is Verdict.CORRECTED
    assert found > 50


@pytest.mark.parametrize("values", ["normal", "equal", "opposite"])
def test_the_reference_case_at_a_fifth(values, rng):
    code = Gaussian(n=1024, m=205)
    prepared = L1().prepare(code)
    for _ in range(5):
        damage = np.zeros(1024)
        at = rng.choice(1024, 40, replace=False)
        damage[at] = rng.normal(size=40) if values == "normal" else 1.0
        if values == "opposite":
            damage[at[::2]] = -1.0
        decoding = prepared.decode(code.syndrome(damage))
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(damage))
        np.testing.assert_allclose(decoding.values, damage[decoding.positions], atol=1e-11)


def test_refuses_unknown_methods():
    with pytest.raises(SpecError, match="'simplex'"):
        L1("simplex")
