"""Integers within bounds near a code: what is left in the checks, and how far they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.impose.near import near
from parimend.stores.spread import Spread
from tests.impose.filling import filled


def nearest_codeword(code, x, edge):
    """The nearest real codeword within bounds, by projecting onto both sets in turn (Dykstra)."""
    H = code.dense().astype(float) / code.unit
    inverse, z, beyond = np.linalg.pinv(H), x.copy(), np.zeros(code.n)
    for _ in range(2000):
        inside = np.clip(z + beyond, -edge, edge)
        beyond += z - inside
        z = inside - inverse @ (H @ inside)
    return z


@settings(max_examples=40)
@given(
    word_bits=st.sampled_from([4, 8, 12, 16, 18]),
    n=st.integers(200, 6000),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    room=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_bounds_hold_and_little_is_left(word_bits, n, share, room, seed):
    code = Sparse.for_errors(n, n // 60, word_bits=word_bits, seed=seed)
    rng = np.random.default_rng(seed)
    limit = 1 << (word_bits - 1)
    edges = np.full(n, limit - 1.0)
    edges[code.owned] -= limit * room // 16
    x = code.project(filled(code, share, rng))
    before = x.copy()
    q = near(code, code.columns, x, edges, Spread())
    np.testing.assert_array_equal(x, before)
    assert q.dtype == np.int64
    assert (np.abs(q) <= edges).all()
    left = code.matvec(q)[: code.imposed]
    assert np.sqrt(np.mean(left**2)) < (len(code.columns.row) / code.m) ** 0.25


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("n", "errors"), [(400, 4), (800, 20)])
def test_not_farther_than_the_nearest_codeword_within_bounds(n, errors, share, rng):
    code = Sparse.for_errors(n, errors, word_bits=8)
    x = filled(code, share, rng)
    q = near(code, code.columns, code.project(x), np.full(n, 127.0), Spread())
    # That one has all checks at zero, also the free ones.
    shortest = np.linalg.norm(nearest_codeword(code, x, 127.0) - x)
    assert np.linalg.norm(q - x) < shortest + np.sqrt(n)


def test_in_long_words_weights_move_by_single_steps(rng):
    """Rounding half a million weights leaves about 100 steps in every check of 200,000."""
    code = Sparse.for_errors(500_000, 4, word_bits=8)
    x = filled(code, 0.01, rng)
    q = near(code, code.columns, code.project(x), np.full(code.n, 127.0), Spread())
    assert np.abs(q - x).max() <= 2
    assert np.abs(code.matvec(q)[: code.imposed]).max() < 80
