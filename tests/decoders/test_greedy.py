"""Orthogonal matching pursuit."""

import numpy as np
import pytest

from parimend.codes import Gaussian
from parimend.decoders.greedy import OMP
from parimend.outcomes import Verdict
from tests.decoders.contract import DecoderContract


class TestOmp(DecoderContract):
    easy, overload = 3, (16, 60)

    @pytest.fixture
    def decoder(self):
        return OMP()

    @pytest.fixture
    def code(self):
        return Gaussian(n=60, m=30)


def test_values_of_all_sizes(rng):
    code = Gaussian(n=200, m=80)
    prepared = OMP().prepare(code)
    for _ in range(20):
        damage = np.zeros(200)
        damage[rng.choice(200, 15, replace=False)] = rng.normal(size=15) * 2.0 ** -rng.uniform(
            0, 20
        )
        decoding = prepared.decode(code.syndrome(damage))
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(damage))
