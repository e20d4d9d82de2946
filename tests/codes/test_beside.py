"""A few power sums beside others, whatever these are: in parts, never deceived, never misused."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Hashed, Screened
from parimend.errors import SealError, SpecError

KINDS = pytest.mark.parametrize("kind", [partial(Screened, m=24), partial(Hashed, m=136)])


def words_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint32)


@KINDS
@given(st.data())
def test_few_and_all_sums_come_in_parts(kind, data):
    code = kind(data.draw(st.integers(1, 4000)), seed=data.draw(st.integers(0, 99)))
    words = words_of(code.n)
    cut = 16 * data.draw(st.integers(0, code.n // 16))
    expected = code.syndrome(words)
    for few in (False, True):
        sums = code.accumulate(code.zeros(few), words[cut:], cut)
        sums = code.add(sums, code.accumulate(code.zeros(few), words[:cut]))
        np.testing.assert_array_equal(sums, code.few(expected) if few else expected)
    assert code.few_shape == (code.first,)


@KINDS
@given(st.data())
def test_as_many_wrong_words_as_there_are_few_always_change_these(kind, data):
    code, rng = kind(10_000), np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    count = data.draw(st.integers(1, code.first))
    positions = rng.choice(10_000, count, replace=False)
    assert code.few(code.sums_of(positions, rng.integers(1, code.prime, count))).any()


@KINDS
def test_refuses_what_cannot_be(kind):
    code = kind(100)
    for first in (0, code.m, True, 2.0):
        with pytest.raises(SpecError, match="first must be a number of sums below m="):
            kind(100, first=first)
    with pytest.raises(SpecError, match=r"first|power sums"):
        kind(100, first=3)
    for wrong in (np.zeros(3, np.uint64), np.zeros((2, 4, 16), np.uint64)):
        with pytest.raises(SpecError, match="uint64"):
            code.accumulate(wrong, words_of(16))
    with pytest.raises(SealError, match="sums"):
        code.unpack(b"\0" * (code.packed_bytes - 1))
