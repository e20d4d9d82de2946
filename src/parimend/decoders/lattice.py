"""Short vectors of small lattices, excluded in exact integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from parimend import kernels

Vectors = list[list[int]]

_SMALL = 62
"""Bits of a modulus that is an int64, as sums of two entries are."""


def none_shorter_than(matrix: Sequence[Sequence[int]], square: int) -> bool:
    """Whether it is proven that no integer z != 0 with A z = 0 modulo 2^64 has a square of its
    length below ``square``.

    A compiled loop in floats proposes a basis for a smaller modulus, of a lattice that holds all
    such z, and exact integers prove what follows from it. Where that is too little, they do all.

    Args:
        matrix: (r, k) integers, r >= 1.
        square: least square of a length.

    Example:
        >>> none_shorter_than([[3**39, 5**27]], 2**60), none_shorter_than([[1, 3]], 11)
        (True, False)
    """
    basis = kernel_basis(matrix, _SMALL)
    proposed = np.array(basis, np.int64)
    kernels.on("lattice").reduce(proposed)
    # The lattice holds 2^64 times everything: a sum that wrapped around is in it all the same. So
    # all rows are, and with its determinant, the modulus for each pivot, they are a basis of it.
    determinant = 1 << _SMALL * sum(1 << _SMALL in vector for vector in basis)
    gram = _gram_schmidt(proposed.tolist())[0]
    if gram[-1] == determinant**2 and _are_all_longer(gram, square):
        return True
    return all_longer_than(kernel_basis(matrix), square)


def kernel_basis(matrix: Sequence[Sequence[int]], bits: int = 64) -> Vectors:
    """A basis of a lattice that holds all integer z with A z = 0 modulo 2^bits.

    Gaussian elimination with odd pivots; a check that is left without one is passed over, which
    makes the lattice larger, and so what is proven of it stays true.

    Args:
        matrix: (r, k) integers, r >= 1.
        bits: of the modulus.

    Example:
        >>> kernel_basis([[1, 3]])
        [[18446744073709551616, 0], [-3, 1]]
    """
    k, modulus = len(matrix[0]), 1 << bits
    solved: dict[int, list[int]] = {}  # pivot -> a check with 1 there and 0 at other pivots
    for check in matrix:
        rest = _cleared(check, solved, modulus)
        pivot = next((i for i in range(k) if rest[i] % 2), None)
        if pivot is None:
            continue
        inverse = pow(rest[pivot], -1, modulus)
        rest = [inverse * x % modulus for x in rest]
        solved = {i: _cleared(other, {pivot: rest}, modulus) for i, other in solved.items()}
        solved[pivot] = rest
    basis = [[modulus * (i == pivot) for i in range(k)] for pivot in solved]
    for free in (i for i in range(k) if i not in solved):
        vector = [int(i == free) for i in range(k)]
        for pivot, check in solved.items():
            vector[pivot] = (modulus // 2 - check[free]) % modulus - modulus // 2
        basis.append(vector)
    return basis


def _cleared(check: Sequence[int], solved: dict[int, list[int]], modulus: int) -> list[int]:
    rest = list(check)
    for pivot, other in solved.items():
        factor = rest[pivot]
        rest = [(x - factor * y) % modulus for x, y in zip(rest, other, strict=True)]
    return rest


def all_longer_than(basis: Vectors, square: int) -> bool:
    """Whether it is proven that no nonzero vector of a lattice is shorter than sqrt(``square``).

    No vector is shorter than the shortest of the Gram-Schmidt vectors b*_i, of whatever basis. The
    basis is reduced until that proves it, or can no more.

    Args:
        basis: (k, k) integers, independent.
        square: least square of a length.

    Example:
        >>> basis = [[1, 1000], [0, 1 << 20]]
        >>> all_longer_than(basis, 900**2), all_longer_than(basis, 1100**2)
        (True, False)
    """
    return any(_are_all_longer(gram, square) for gram in _reduction([*basis]))


def _are_all_longer(gram: list[int], square: int) -> bool:
    """Whether |b*_i|^2, the ratio of two Gram determinants, is at least ``square`` for all i."""
    return all(after >= square * before for before, after in pairwise(gram))


def reduced(basis: Vectors) -> Vectors:
    """A basis of short vectors, the first of which is about the shortest there is.

    Example:
        >>> reduced([[1, 1000], [0, 1 << 20]])
        [[1, 1000], [-1049, -424]]
    """
    basis = [*basis]
    for _ in _reduction(basis):
        pass
    return basis


def _reduction(basis: Vectors) -> Iterator[list[int]]:
    """Reduce a basis in place; gives the Gram determinants of its first 0, 1, ... vectors before
    every step and at the end.

    The algorithm of A. K. Lenstra, H. W. Lenstra and L. Lovasz (Mathematische Annalen 261, 1982),
    without fractions (H. Cohen, A Course in Computational Algebraic Number Theory, 2.6.7).
    """
    gram, factor = _gram_schmidt(basis)
    i = 1
    while i < len(basis):
        yield gram
        _subtract(basis, gram, factor, i, i - 1)
        # |b*_i|^2 >= (3/4 - mu^2) |b*_(i-1)|^2, times what makes both sides integers
        mu = factor[i][i - 1]
        if 4 * (gram[i + 1] * gram[i - 1] + mu * mu) < 3 * gram[i] ** 2:
            _swap(basis, gram, factor, i)
            i = max(i - 1, 1)
        else:
            for j in range(i - 2, -1, -1):
                _subtract(basis, gram, factor, i, j)
            i += 1
    yield gram


def _gram_schmidt(basis: Vectors) -> tuple[list[int], Vectors]:
    """(Gram determinants of the first 0, 1, ... vectors; mu_ij times determinant j + 1)."""
    gram: list[int] = [1]
    factor: Vectors = []
    for i, vector in enumerate(basis):
        row: list[int] = []
        for j in range(i + 1):
            u = sum(x * y for x, y in zip(vector, basis[j], strict=True))
            for s in range(j):
                lower = row[s] if j == i else factor[j][s]
                u = (gram[s + 1] * u - row[s] * lower) // gram[s]
            row.append(u)
        gram.append(row.pop())
        factor.append(row)
    return gram, factor


def _subtract(basis: Vectors, gram: list[int], factor: Vectors, i: int, j: int) -> None:
    """Subtract from vector i the multiple of vector j that makes |mu_ij| at most one half."""
    times = (2 * factor[i][j] + gram[j + 1]) // (2 * gram[j + 1])
    if not times:
        return
    basis[i] = [x - times * y for x, y in zip(basis[i], basis[j], strict=True)]
    for s in range(j):
        factor[i][s] -= times * factor[j][s]
    factor[i][j] -= times * gram[j + 1]


def _swap(basis: Vectors, gram: list[int], factor: Vectors, i: int) -> None:
    """Exchange vectors i - 1 and i."""
    basis[i], basis[i - 1] = basis[i - 1], basis[i]
    mu = factor[i][i - 1]
    factor[i][: i - 1], factor[i - 1] = factor[i - 1], factor[i][: i - 1]
    determinant = (gram[i - 1] * gram[i + 1] + mu * mu) // gram[i]
    for row in factor[i + 1 :]:
        before, this = row[i - 1], row[i]
        row[i] = (gram[i + 1] * before - mu * this) // gram[i]
        row[i - 1] = (determinant * this + mu * row[i]) // gram[i + 1]
    gram[i] = determinant
