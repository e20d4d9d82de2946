"""Every code sums up elements on another device, which may be named one after the other."""

import numpy as np
import pytest
import torch

from parimend.codes import Modular, PowerSums, sums_for
from parimend.errors import SpecError
from parimend.words.bits import byte_view, words_of
from tests.elsewhere import Distant

COUNTS = (40, 7, 300, 1)


def pieces():
    start = 0
    for seed, count in enumerate(COUNTS):
        torch.manual_seed(seed)
        yield torch.randn(count), start
        start += -(-count // 16) * 16


N = 16 * sum(-(-count // 16) for count in COUNTS)


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize(
    "code",
    [PowerSums(N, 4), Modular.for_errors(N, 5), *(sums_for(N, errors) for errors in (2, 60, 5000))],
    ids=lambda code: f"{code.family}-{code.m}",
)
def test_sums_of_elements_elsewhere(code, few):
    right = code.zeros(few)
    for elements, start in pieces():
        code.accumulate(right, words_of(byte_view(elements)), start)
    named = ((Distant(elements), start) for elements, start in pieces())
    found = code.accumulate_resident(code.zeros(few), named)
    np.testing.assert_array_equal(found, right)
    assert found.any()


def test_words_begin_where_rows_do():
    code = PowerSums(100, 4)
    for start in (-8, 5):
        with pytest.raises(SpecError, match=f"must begin at a multiple of 8, not at {start}"):
            code.accumulate_resident(code.zeros(), iter([(Distant(torch.ones(3)), start)]))
