"""Approximate message passing."""

import numpy as np
import pytest

from parimend.codes import Gaussian
from parimend.decoders.amp import AMP
from parimend.decoders.l1 import L1
from parimend.outcomes import Verdict
from tests.decoders.contract import DecoderContract


class TestAmp(DecoderContract):
    easy, overload, overload_trials = 4, (25, 100), 100

    @pytest.fixture
    def decoder(self):
        return AMP()

    @pytest.fixture
    def code(self):
        return Gaussian(n=100, m=50, seed=1)


def test_needs_fewer_checks_than_linear_programming(rng):
    code = Gaussian(n=1024, m=150)
    amp, l1 = AMP().prepare(code), L1().prepare(code)
    verdicts = []
    for _ in range(4):
        damage = np.zeros(1024)
        damage[rng.choice(1024, 40, replace=False)] = rng.normal(size=40)
        syndrome = code.syndrome(damage)
        decoding = amp.decode(syndrome)
        verdicts.append((decoding.verdict, l1.decode(syndrome).verdict))
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(damage))
    assert verdicts == [(Verdict.CORRECTED, Verdict.UNCORRECTABLE)] * 4


def test_damage_of_all_sizes(rng):
    code = Gaussian(n=400, m=120)
    prepared = AMP().prepare(code)
    for _ in range(10):
        damage = np.zeros(400)
        damage[rng.choice(400, 10, replace=False)] = 2.0 ** -rng.uniform(0, 20, 10)
        decoding = prepared.decode(code.syndrome(damage))
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(damage))
