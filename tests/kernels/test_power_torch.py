"""Power sums by operations of torch are those of the compiled loops, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend.codes import PowerSums
from parimend.kernels import power_torch
from parimend.words.bits import byte_view, words_of

DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.float64, torch.bool)


def sums_there(code, elements, start=0):
    return power_torch.sums_of(code.places, code.m, [(elements, start)])


def elements_of(dtype, count, seed=0):
    rng = np.random.default_rng(seed)
    size = torch.empty(0, dtype=dtype).element_size()
    data = rng.integers(0, 2 if dtype is torch.bool else 256, count * size, dtype=np.uint8)
    return torch.from_numpy(data).view(dtype)


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(DTYPES),
    m=st.sampled_from([2, 4, 8, 30, 64]),
    count=st.integers(1, 30_000),
    first=st.integers(0, 3000),
)
def test_sums_are_those_of_the_processor(dtype, m, count, first):
    elements = elements_of(dtype, count)
    words = words_of(byte_view(elements))
    code = PowerSums(16 * first + words.size, m, seed=count)
    expected = code.accumulate(code.zeros(), words, 16 * first)
    found = sums_there(code, elements, 16 * first)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "m", [2, 420, *(pytest.param(m, marks=pytest.mark.long) for m in (2000, 4096))]
)
def test_largest_words_in_every_size_of_tile(m, monkeypatch):
    monkeypatch.setattr(power_torch, "_PIECE", 1 << 14)  # several pieces
    elements = torch.full((20_003,), -1, dtype=torch.int32)
    code = PowerSums(elements.numel(), m)
    expected = code.syndrome(np.full(code.n, 0xFFFFFFFF, np.uint32))
    found = sums_there(code, elements)
    np.testing.assert_array_equal(found, expected)
