"""Lattices: what is said to hold no short vector holds none."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parimend.decoders import lattice
from parimend.decoders.lattice import (
    _gram_schmidt,
    all_longer_than,
    kernel_basis,
    none_shorter_than,
    reduced,
)


def determinant_squared(basis):
    return _gram_schmidt(basis)[0][-1]


def test_determinants_are_those_of_gram_matrices(rng):
    for k in range(1, 7):
        basis = rng.integers(-5, 6, (k, k))
        gram, _ = _gram_schmidt(basis.tolist())
        for i in range(1, k + 1):
            part = basis[:i] @ basis[:i].T
            assert gram[i] == round(np.linalg.det(part))
            if not gram[i]:
                break


SMALL = st.integers(-30, 30)


@given(
    st.lists(st.lists(SMALL, min_size=3, max_size=3), min_size=3, max_size=3), st.integers(1, 900)
)
def test_short_vectors_are_not_missed(basis, square):
    assume(abs(np.linalg.det(basis)) > 0.5)
    shortest = min(
        sum(x * x for x in np.array(times) @ np.array(basis))
        for times in itertools.product(range(-6, 7), repeat=3)
        if any(times)
    )
    proven = all_longer_than(basis, square)
    if proven:
        assert shortest >= square
    # Its first vector is at most twice as long as the shortest Gram-Schmidt vector of three.
    assert proven or sum(x * x for x in reduced(basis)[0]) < 4 * square


@given(st.lists(st.lists(SMALL, min_size=4, max_size=4), min_size=4, max_size=4))
def test_reduced_is_a_basis_of_the_same_lattice(basis):
    assume(abs(np.linalg.det(basis)) > 0.5)
    short = reduced(basis)
    assert determinant_squared(short) == determinant_squared(basis)
    times = np.rint(np.linalg.solve(np.array(basis, float).T, np.array(short, float).T))
    np.testing.assert_array_equal(times.T @ np.array(basis), np.array(short))
    assert sum(x * x for x in short[0]) <= 8 * min(sum(x * x for x in v) for v in basis)


def test_kernel_is_exactly_that(rng):
    for _ in range(100):
        k, r = rng.integers(2, 7), rng.integers(1, 6)
        matrix = (rng.integers(-(2**43), 2**43, (r, k)) * 2 + 1) * (rng.random((r, k)) < 0.8)
        matrix = [[int(x) for x in check] for check in matrix]
        if not any(map(any, matrix)):
            continue
        for bits in (62, 64):
            basis = kernel_basis(matrix, bits)
            pivots = sum(2**bits in map(abs, v) and sum(map(bool, v)) == 1 for v in basis)
            assert determinant_squared(basis) == 2 ** (2 * bits * pivots)
            if pivots == r:
                for vector in basis:
                    assert all(
                        sum(a * z for a, z in zip(check, vector, strict=True)) % 2**bits == 0
                        for check in matrix
                    )


@given(
    st.lists(
        st.lists(st.integers(-(2**44), 2**44), min_size=5, max_size=5), min_size=1, max_size=6
    ),
    st.integers(2, 120),
)
def test_what_floats_propose_proves_what_integers_do_and_nothing_false(matrix, bits):
    basis = kernel_basis(matrix)
    proven, first = none_shorter_than(matrix, 2**bits), sum(x * x for x in reduced(basis)[0])
    assert proven or not all_longer_than(basis, 2**bits)
    # The first vector is at most four times as long as the shortest Gram-Schmidt vector of five.
    assert first >= 2**bits if proven else first < 16 * 2**bits


@pytest.mark.parametrize(
    "proposal", [lambda basis: basis * 3, lambda basis: basis[::-1] * 0, lambda basis: basis]
)
def test_a_proposal_that_is_no_basis_proves_nothing(monkeypatch, proposal):
    class Wrong:
        def reduce(self, basis):
            basis[:] = proposal(basis)

    monkeypatch.setattr(lattice.kernels, "on", lambda name: Wrong())
    assert not none_shorter_than([[1, 3]], 11)  # (-3, 1)
    assert none_shorter_than([[1, 3]], 10)


def test_planted_vectors_are_not_excluded_and_others_are(rng):
    """z in the kernel of six columns and four checks, each with five of the columns."""
    for _ in range(40):
        z = [int(x) for x in rng.integers(1, 2**18, 6) * 2 + 1]
        matrix, other = [], []
        for missing in range(4):
            columns = [i for i in rng.permutation(6).tolist() if i != missing]
            check = [0] * 6
            for i in columns:
                check[i] = int(rng.integers(2**43, 2**44)) | 1
            other.append(list(check))
            last = columns[-1]
            rest = sum(check[i] * z[i] for i in columns[:-1])
            check[last] = -rest * pow(z[last], -1, 2**64) % 2**64
            matrix.append(check)
        square = sum(x * x for x in z)
        assert not none_shorter_than(matrix, square + 1)
        assert none_shorter_than(other, square + 1)
