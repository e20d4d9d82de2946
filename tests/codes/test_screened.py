"""Few sums beside many: they are power sums, tell apart what is wrong, and cost little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Screened
from parimend.errors import SealError, SpecError
from tests.codes.contract import CodeContract

PRIME = 4_294_991_873


class TestContract(CodeContract):
    @pytest.fixture(params=[Screened(100, 24), Screened(333, 22, seed=5, first=2)])
    def code(self, request):
        return request.param

    def word(self, code, rng):
        return rng.integers(0, 1 << 32, code.n, dtype=np.uint32)

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


@given(st.data())
def test_few_and_all_sums_come_in_parts(data):
    code = Screened(data.draw(st.integers(1, 4000)), 24, data.draw(st.integers(0, 99)))
    words = words_of(code.n)
    cut = 16 * data.draw(st.integers(0, code.n // 16))
    for few in (False, True):
        sums = code.accumulate(code.zeros(few), words[cut:], cut)
        sums = code.add(sums, code.accumulate(code.zeros(few), words[:cut]))
        expected = code.syndrome(words)
        np.testing.assert_array_equal(sums, code.few(expected) if few else expected)


@given(st.integers(1, 4), st.integers(0, 1 << 30))
def test_four_wrong_words_always_change_the_few(count, seed):
    code, rng = Screened(10_000, 24), np.random.default_rng(seed)
    positions = rng.choice(10_000, count, replace=False)
    assert code.few(code.sums_of(positions, rng.integers(1, PRIME, count))).any()


def test_refuses_what_cannot_be():
    for first in (0, 24, 3, True, 2.0):
        with pytest.raises(SpecError, match=r"first|power sums"):
            Screened(100, 24, first=first)
    code = Screened(100, 24)
    with pytest.raises(SpecError, match="uint64"):
        code.accumulate(np.zeros(3, np.uint64), words_of(16))
    with pytest.raises(SealError, match="sums"):
        code.unpack(b"\0" * (code.packed_bytes - 1))
