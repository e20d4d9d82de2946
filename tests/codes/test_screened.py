"""Few sums beside many: they are power sums, tell apart what is wrong, and cost little."""

import numpy as np
import pytest

from parimend.codes import Screened
from tests.codes.contract import CodeContract

PRIME = 4_294_991_873


class TestContract(CodeContract):
    @pytest.fixture(params=[Screened(100, 24), Screened(333, 22, seed=5, first=2)])
    def code(self, request):
        return request.param

    def oracle(self, code, word):
        dense = code.dense().astype(object)
        return np.array([int(row @ word.astype(object)) % PRIME for row in dense], np.uint64)


def words_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint32)


@pytest.mark.parametrize("together", [64, 1 << 20])
def test_its_sums_are_those_of_two_codes(monkeypatch, together):
    monkeypatch.setattr("parimend.codes.beside._READ_AGAIN", together)
    code = Screened(5000, 44, seed=3)
    first, others = code.parts
    assert (first.m, others.m, code.guaranteed) == (4, 40, 20)
    assert first.generator != others.generator
    words = words_of(5000)
    few, many = code.split(code.syndrome(words))
    np.testing.assert_array_equal(few, first.syndrome(words))
    np.testing.assert_array_equal(many, others.syndrome(words))
