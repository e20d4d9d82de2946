"""Kernels of integer vectors: exact, complete and short."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from parimend.impose.lattice import kernel, kernel_modulo
from parimend.kernels.lattice_numba import shorten


def determinant(rows):
    """Exactly, by elimination over the rationals."""
    rows = [[Fraction(int(a)) for a in row] for row in rows]
    result = Fraction(1)
    for k in range(len(rows)):
        pivot = next((r for r in range(k, len(rows)) if rows[r][k]), None)
        if pivot is None:
            return 0
        if pivot != k:
            rows[k], rows[pivot] = rows[pivot], rows[k]
            result = -result
        result *= rows[k][k]
        for r in range(k + 1, len(rows)):
            factor = rows[r][k] / rows[k][k]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[k], strict=True)]
    return int(result)


def dot(v, a):
    return sum(int(x) * y for x, y in zip(v, a, strict=True))


def norm(v):
    return math.sqrt(sum(int(x) ** 2 for x in v))


def pairwise_coprime_somewhere(a):
    return any(math.gcd(x, y) == 1 for i, x in enumerate(a) for y in a[:i])


def magnitudes(bits):
    """Random numbers, small ones, powers of two and their neighbours."""
    power = st.integers(1, bits - 1).map(lambda e: 1 << e)
    return st.one_of(
        st.integers(1 << (bits - 1), (1 << bits) - 1),
        st.integers(1, 9),
        power,
        power.map(lambda x: x - 1),
        power.map(lambda x: x + 1),
    )


@st.composite
def coefficients(draw, bits=44):
    value = st.tuples(magnitudes(bits), st.sampled_from([-1, 1])).map(math.prod)
    a = draw(st.lists(value, min_size=2, max_size=12))
    if draw(st.booleans()):  # repeats make the shortest vectors there are
        a += draw(st.lists(st.sampled_from(a), max_size=4))
    assume(pairwise_coprime_somewhere(a))
    return a


ADVERSARIAL = [
    [1, 1],
    [1, -1, 1, -1],
    [2**44 - 1] * 7 + [2**44 - 3],
    [2**j + 1 for j in range(43, 35, -1)],
    [2**j - 1 for j in range(43, 31, -1)],
    [1] + [2**43] * 11,
    [3, 2**43 + 1, 3, 2**43 - 1],
    [2**44 - 1, 2**44 - 2],
    [3**27, 3**27 + 2, 3**26, 3**25, 3**24, 3**23],
    [433494437, 267914296, 165580141, 102334155, 63245986, 39088169, 24157817, 14930352],
]


class TestKernel:
    @given(coefficients())
    @example(ADVERSARIAL[0])
    @example(ADVERSARIAL[2])
    def test_is_the_whole_kernel(self, a):
        basis, u = kernel(np.array(a))
        assert basis.shape == (len(a) - 1, len(a))
        assert basis.dtype == u.dtype == np.int64
        assert all(dot(v, a) == 0 for v in basis)
        assert dot(u, a) == 1
        # A unimodular matrix generates all integer vectors, so its rows with a . v = 0 generate
        # all of those with a . v = 0.
        assert abs(determinant([*basis, u])) == 1

    @given(coefficients())
    def test_is_reduced(self, a):
        basis, u = kernel(np.array(a))
        d = len(basis)
        # Of an LLL-reduced basis (0.99, and 0.501 for a half) the product of the lengths is near
        # the determinant, and that of this lattice is |a|.
        bound = (1 / (0.99 - 0.501**2)) ** (d * (d - 1) / 4) * norm(a)
        assert math.prod(norm(v) for v in basis) <= 1.001 * bound
        # u is the nearest to a / |a|^2 that Babai's method finds.
        assert norm(u) <= 1.001 * (0.5 * math.sqrt(sum(norm(v) ** 2 for v in basis)) + 1)

    @pytest.mark.parametrize("a", ADVERSARIAL, ids=str)
    def test_ends_on_hard_inputs(self, a):
        basis, u = kernel(np.array(a))
        assert not (basis @ np.array(a)).any()
        assert dot(u, a) == 1

    @pytest.mark.parametrize("bits", [20, 30, 44, 55, 60])
    def test_of_random_coefficients_has_short_vectors(self, bits, rng):
        for k in (4, 8, 12):
            for _ in range(5):
                a = (rng.integers(1 << (bits - 1), 1 << bits, k) | 1).tolist()
                if pairwise_coprime_somewhere(a):
                    basis, u = kernel(np.array(a))
                    expected = norm(a) ** (1 / (k - 1))
                    assert max(norm(v) for v in [*basis, u]) < 6 * expected + 2
                    R = np.linalg.qr(basis.T.astype(np.float64), mode="r")
                    assert np.abs(np.triu(R, 1) / np.diag(R)[:, None]).max() < 0.502
                    assert all(dot(v, a) == 0 for v in basis)

    @pytest.mark.parametrize("a", [[3, 3], [6, 10, 15], [9, -15, 21], [0, 2]])
    def test_needs_two_coprime_coefficients(self, a):
        with pytest.raises(ValueError, match=r"no two of the coefficients .* are coprime"):
            kernel(np.array(a))


class TestShorten:
    @given(coefficients(), st.data())
    def test_stays_in_the_coset_and_gets_short(self, a, data):
        basis, _ = kernel(np.array(a))
        v = data.draw(st.lists(st.integers(-(2**50), 2**50), min_size=len(a), max_size=len(a)))
        short = np.array(v)
        shorten(basis, short)
        assert dot(short, a) == dot(v, a)
        # What is left beside the part along a is at most half of every orthogonalized vector.
        along = abs(dot(v, a)) / norm(a)
        rest = math.sqrt(sum(norm(b) ** 2 for b in basis)) / 2
        assert norm(short) <= 1.001 * math.hypot(along, rest) + 1

    def test_leaves_the_basis_alone(self):
        basis, _ = kernel(np.array([101, 103, 107]))
        before = basis.copy()
        shorten(basis, np.array([2**40, 5, -7]))
        np.testing.assert_array_equal(basis, before)


class TestKernelModulo:
    @given(st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=12), st.integers(2**40, 2**61))
    def test_is_the_whole_kernel(self, rest, first):
        a = [2 * first + 1, *rest]
        assume((rest[0] * pow(a[0], -1, 2**64)) % 2**64 not in (0, 1, 2**64 - 1))
        basis = kernel_modulo(np.array(a))
        assert all(dot(v, a) % 2**64 == 0 for v in basis)
        assert abs(determinant(basis)) == 2**64
