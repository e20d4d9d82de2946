"""Exact rounding: imposed checks end at zero, and weights hardly move."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.errors import SpecError, WordError
from parimend.impose.rounding import round_into
from parimend.words.grid import Grid
from tests.impose.filling import filled


def near_codeword(code, seed, scale=0.25):
    """A real codeword with entries of ``scale`` of the range, up to four times that."""
    rng = np.random.default_rng(seed)
    sigma = scale * (1 << (code.word_bits - 1))
    return code.project(np.clip(rng.normal(size=code.n), -3.5, 3.5) * sigma)


def assert_inside(code, rounded, x):
    limit = 1 << (code.word_bits - 1)
    assert rounded.word.dtype == rounded.target.dtype == np.int64
    np.testing.assert_array_equal(code.syndrome(rounded.word), rounded.target)
    assert not rounded.target[: code.imposed].any()
    assert np.abs(rounded.word).max() < limit
    assert rounded.moved == pytest.approx(np.linalg.norm(rounded.word - x))


@pytest.mark.parametrize("word_bits", [8, 12, 16, 18, 24, 32])
@settings(max_examples=15)
@given(n=st.integers(120, 3000), errors=st.integers(1, 100), seed=st.integers(0, 1000))
def test_imposed_checks_end_at_zero_and_moves_are_small(word_bits, n, errors, seed):
    try:
        code = Sparse.for_errors(n, errors, word_bits=word_bits, seed=seed)
    except SpecError:
        assume(False)
    assume(code.own >= 8)  # with fewer the moves are longer than the range of short words
    x = near_codeword(code, seed)
    before = x.copy()
    rounded = round_into(code, x)
    np.testing.assert_array_equal(x, before)
    assert_inside(code, rounded, x)
    if np.abs(x).max() < 15 / 16 * (1 << (word_bits - 1)):
        # Every check moves its own columns by about the shortest vectors of their lattice.
        step = 2.0 ** (code.coefficient_bits / (code.own - 1))
        assert rounded.moved < (1 + 0.6 * step) * np.sqrt(n)


@given(st.integers(0, 1000))
def test_a_word_inside_the_code_stays(seed):
    code = Sparse.for_errors(1000, 30, seed=seed)
    first = round_into(code, near_codeword(code, seed))
    again = round_into(code, first.word.astype(np.float64))
    np.testing.assert_array_equal(again.word, first.word)
    np.testing.assert_array_equal(again.target, first.target)
    assert again.moved == 0.0


def test_the_reference_case_moves_by_a_few_steps():
    code = Sparse.for_errors(5120, 210)
    x = near_codeword(code, 0)
    rounded = round_into(code, x)
    assert_inside(code, rounded, x)
    assert rounded.moved < 4 * np.sqrt(5120)
    assert np.abs(rounded.word - x).max() < 40


def test_coefficients_with_common_factors_can_be_imposed():
    # Of merely random coefficients, one check in twenty would own multiples of 3 or of 5 alone.
    for seed in range(30):
        code = Sparse(n=320, m=60, seed=seed, own=3, free=9, word_bits=18, coefficient_bits=8)
        x = near_codeword(code, seed)
        assert_inside(code, round_into(code, x), x)


@pytest.mark.parametrize(
    ("word_bits", "coefficient_bits", "own"), [(2, 60, 40), (32, 30, 3), (20, 42, 4), (30, 3, 2)]
)
def test_of_the_longest_and_shortest_coefficients(word_bits, coefficient_bits, own):
    code = Sparse(
        n=2000, m=50, own=own, free=40, word_bits=word_bits, coefficient_bits=coefficient_bits,
        weights=((3, 1000),),
    )  # fmt: skip
    try:
        assert_inside(code, round_into(code, x := near_codeword(code, 0, 0.1)), x)
    except WordError:
        assert word_bits == 2  # a range of three values leaves no room


@settings(max_examples=60)
@given(
    word_bits=st.sampled_from([4, 6, 8, 12, 16]),
    n=st.integers(300, 6000),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_share_of_integer_weights_may_be_at_the_ends(word_bits, n, share, seed):
    code = Sparse.for_errors(n, n // 60, word_bits=word_bits, seed=seed)
    q = filled(code, share, np.random.default_rng(seed))
    x = code.project(q)
    rounded = round_into(code, x)
    assert_inside(code, rounded, x)
    # Where there are no ends, the way to the code is the share sqrt(m / n) of the weights.
    share_moved = np.linalg.norm(rounded.word - q) / np.linalg.norm(q)
    assert share_moved < (3 if word_bits == 4 else 1.6) * np.sqrt(code.m / n)


def test_float_weights_come_back_exactly_from_their_grid():
    code = Sparse.for_errors(1000, 30)
    rounded = round_into(code, near_codeword(code, 3))
    for exponent, dtype in ((-20, np.float32), (-120, np.float32), (90, np.float32), (-5, "f8")):
        grid = Grid(code.word_bits, exponent)
        integers, erased = grid.read(grid.write(rounded.word, np.dtype(dtype)))
        np.testing.assert_array_equal(integers, rounded.word)
        assert not erased.any()


def test_nothing_imposed_is_plain_rounding(rng):
    code = Sparse(n=100, m=20, free=20)
    x = rng.normal(size=100) * 1000
    rounded = round_into(code, x)
    np.testing.assert_array_equal(rounded.word, np.rint(x))
    np.testing.assert_array_equal(rounded.target, code.syndrome(rounded.word))


class TestRange:
    @pytest.fixture
    def code(self):
        return Sparse.for_errors(1000, 30)

    def test_what_lies_beyond_ends_inside(self, code):
        x = np.zeros(1000)
        x[17] = -170_000
        rounded = round_into(code, x)
        assert_inside(code, rounded, x)
        assert rounded.word[17] < -100_000

    def test_no_room_at_all(self):
        # Words of two bits are -1, 0 and 1, and every check would have to move dozens.
        code = Sparse(n=1000, m=60, own=4, free=20, word_bits=2, coefficient_bits=40)
        with pytest.raises(WordError, match="below 2"):
            round_into(code, np.ones(1000))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, code, bad):
        x = np.zeros(1000)
        x[17] = bad
        with pytest.raises(WordError, match="element 17 of the word is not finite"):
            round_into(code, x)

    def test_another_length(self, code):
        with pytest.raises(SpecError, match="word"):
            round_into(code, np.zeros(999))
