"""Elimination modulo 2^64 against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parimend.codes import Sparse
from parimend.decoders.elimination import solve_components
from parimend.kernels import elimination_numba as kernels

LIMIT = 1 << 18


def rank_and_twos(A):
    """Rank over the rationals, and the factors of 2 in the product of the pivots."""
    rows = [[Fraction(int(a)) for a in row] for row in A]
    rank, twos = 0, 0
    for k in range(A.shape[1]):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][k]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        top = rows[rank]
        twos += (top[k].numerator & -top[k].numerator).bit_length() - 1
        for r in range(rank + 1, len(rows)):
            factor = rows[r][k] / top[k]
            rows[r] = [a - factor * b for a, b in zip(rows[r], top, strict=True)]
        rank += 1
    return rank, twos


def product(A, x):
    """A x modulo 2^64, in Python integers."""
    sums = [sum(int(a) * int(v) for a, v in zip(row, x, strict=True)) for row in A]
    return np.array([s % 2**64 for s in sums], np.uint64)


def eliminate(A, b, limit=LIMIT):
    return kernels.eliminate(A.view(np.uint64).copy(), b.copy(), limit)


@st.composite
def systems(draw):
    """Sparse systems of odd coefficients, as checks make them, and small solutions."""
    columns = draw(st.integers(1, 6))
    rows = draw(st.integers(columns, 9))
    bits = draw(st.sampled_from([3, 8, 20, 44, 63]))
    odd = st.integers(1 << (bits - 1), (1 << bits) - 1).map(lambda a: a | 1)
    entry = st.one_of(st.just(0), odd, odd.map(lambda a: -a))
    A = draw(
        st.lists(st.lists(entry, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    )
    x = draw(st.lists(st.integers(-LIMIT + 1, LIMIT - 1), min_size=columns, max_size=columns))
    return np.array(A, np.int64), np.array(x, np.int64)


@given(systems())
# A cycle of even length is singular modulo 2; sums of large terms wrap.
@example((np.array([[3, 5], [7, 9]]), np.array([5, -7])))
@example((np.full((1, 1), 2**63 - 1), np.array([LIMIT - 1])))
@example((np.array([[2**44 - 1] * 3, [1, 3, 5], [1, 5, 3]]), np.array([LIMIT - 1] * 3)))
def test_finds_the_solution_if_there_is_but_one(system):
    A, x = system
    solved, found = eliminate(A, product(A, x))
    rank, twos = rank_and_twos(A)
    if rank == A.shape[1] and twos < 40:
        assert solved
    if rank < A.shape[1]:
        assert not solved
    if solved:
        np.testing.assert_array_equal(found, x)


@given(systems(), st.data())
def test_what_it_finds_solves_the_system(system, data):
    A, x = system
    b = product(A, x)
    wrong = data.draw(st.integers(0, len(b) - 1))
    b[wrong] = data.draw(st.integers(0, 2**64 - 1))
    solved, found = eliminate(A, b)
    if solved:
        np.testing.assert_array_equal(product(A, found), b)
        assert (np.abs(found) < LIMIT).all()


def test_out_of_range_is_no_solution():
    A = np.array([[3, 5], [7, 9]])
    assert eliminate(A, product(A, [LIMIT - 1, 1]))[0]
    assert not eliminate(A, product(A, [LIMIT, 1]))[0]
    assert not eliminate(A, product(A, [1, -LIMIT]))[0]


def test_two_solutions_in_range_are_none():
    # 2^50 x = 0 has the solutions 0, 2^14, ...
    A = np.array([[2**50]])
    assert not eliminate(A, product(A, [0]))[0]
    assert eliminate(A, product(A, [0]), 1 << 13)[0]


class TestComponents:
    @pytest.fixture
    def code(self):
        return Sparse(n=120, m=40, weights=((3, 1000),), own=2, free=16)

    def state(self, code, truth, erasures):
        erased = np.zeros(code.n, np.uint8)
        erased[erasures] = 1
        return code.syndrome(truth), np.zeros(code.n, np.int64), erased

    def truth(self, code, positions, value=LIMIT - 1):
        truth = np.zeros(code.n, np.int64)
        truth[positions] = value
        return truth

    def test_solves_erasures_however_large(self, code, rng):
        positions = rng.choice(code.n, 18, replace=False)
        truth = self.truth(code, positions)
        syndrome, damage, erased = self.state(code, truth, positions)
        assert solve_components(code, syndrome, damage, erased, LIMIT) >= 1
        np.testing.assert_array_equal(damage, truth)
        assert not syndrome.any()
        assert not erased.any()

    def test_solves_what_it_can_of_several(self, code):
        # Columns 0 and others that share no check with it; the second lot has one error more.
        sets = [set(code.column(i)[0]) for i in range(code.n)]
        apart = [i for i in range(code.n) if not sets[0] & sets[i]]
        truth = self.truth(code, [0, apart[0], apart[1]], 5)
        truth[next(i for i in apart[2:] if sets[i] & sets[apart[0]])] = 1
        syndrome, damage, erased = self.state(code, truth, [0, apart[0]])
        assert solve_components(code, syndrome, damage, erased, LIMIT) == 1
        assert damage[0] == 5
        assert np.count_nonzero(damage) == 1
        np.testing.assert_array_equal(syndrome, code.syndrome(truth - damage))

    def test_adds_to_what_was_found_before(self, code):
        truth = self.truth(code, [7], 100)
        syndrome, damage, erased = self.state(code, truth, [7])
        damage[7] = 33
        solve_components(code, syndrome, damage, erased, LIMIT)
        assert damage[7] == 133

    def test_refuses_totals_out_of_range(self, code):
        truth = self.truth(code, [7], 100)
        syndrome, damage, erased = self.state(code, truth, [7])
        damage[7] = LIMIT - 100
        assert solve_components(code, syndrome, damage, erased, LIMIT) == 0
        assert damage[7] == LIMIT - 100
        assert syndrome.any()

    def test_more_columns_than_checks_are_left_alone(self, code, rng):
        truth = rng.integers(-LIMIT + 1, LIMIT, code.n)
        syndrome, damage, erased = self.state(code, truth, np.arange(code.n))
        before = syndrome.copy()
        assert solve_components(code, syndrome, damage, erased, LIMIT) == 0
        np.testing.assert_array_equal(syndrome, before)
        assert not damage.any()
