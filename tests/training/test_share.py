"""Shares of words, compared with the dense matrix."""

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.errors import MismatchError
from parimend.kernels import sparse_numba, sparse_torch
from parimend.training.share import Share

CODE = Sparse(n=600, m=48, seed=3)
H = CODE.dense() / CODE.unit


def cuts(rng):
    """A partition of the positions: ranges, of which some may be empty, or scattered ones."""
    if rng.integers(2):
        bounds = [0, *np.sort(rng.integers(0, CODE.n + 1, 3)).tolist(), CODE.n]
        return [slice(a, b) for a, b in pairwise(bounds)]
    owner = rng.integers(5, size=CODE.n)
    return [np.flatnonzero(owner == k) for k in range(6)]


@given(seed=st.integers(0, 2**32 - 1), step=st.sampled_from([1.0, 2.0**-18]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [sparse_numba, sparse_torch])
def test_shares_add_up_to_the_dense_products(kind, dtype, seed, step):
    rng = np.random.default_rng(seed)
    word = torch.from_numpy(rng.normal(size=CODE.n) * step).to(dtype)
    y = rng.normal(size=CODE.m)
    after = word.double().numpy() / step
    expected = after - H.T @ y
    result = np.zeros(CODE.n)
    pieces = cuts(rng)
    values = [
        word[elements if isinstance(elements, slice) else torch.from_numpy(elements)].clone()
        for elements in pieces
    ]
    share = Share(CODE, [(elements, step) for elements in pieces])
    with mock.patch("parimend.kernels.on", return_value=kind):
        total = share.checks(values)
        share.subtract_(values, y)
    for elements, each in zip(pieces, values, strict=True):
        result[elements] = each.double().numpy() / step
    accuracy = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(total, H @ after, atol=1e-10)
    np.testing.assert_allclose(result, expected, atol=accuracy)


@pytest.mark.parametrize("elements", [slice(0, 600), np.arange(600)])
@pytest.mark.parametrize("count", [0, 599, 601])
def test_pieces_of_another_length_are_refused(elements, count):
    memory = torch.full((2000,), 7.0)
    share = Share(CODE, [(elements, 1.0)])
    for use in (share.checks, lambda values: share.subtract_(values, np.ones(CODE.m))):
        with pytest.raises(MismatchError, match=rf"pieces of \[{count}\] weights, and .* \[600\]"):
            use([memory[:count]])
    assert bool((memory == 7).all())
