"""Products of elements of the field, exact in float64."""

import numba as nb
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from parimend.kernels import field_numba
from parimend.kernels.field import PRIME

elements = st.integers(-PRIME, PRIME)


@nb.njit
def product(a, b):
    return field_numba.multiply(a, b)


@given(elements, elements)
@example(PRIME, PRIME)
@example(-PRIME, PRIME)
@example(PRIME - 1, PRIME - 1)
@example(PRIME // 2, PRIME - 1)
@example((PRIME + 1) // 2, -1)
def test_products_are_congruent_and_small(a, b):
    found = product(float(a), float(b))
    assert int(found) == found
    assert (int(found) - a * b) % PRIME == 0
    assert abs(found) <= PRIME // 2 + 2


@given(st.integers(-PRIME, PRIME))
def test_residues_are_those_of_integers(a):
    assert int(residue(float(a))) == a % PRIME


@nb.njit
def residue(a):
    return field_numba.residue(a)


def test_powers_and_inverses():
    assert int(field_numba.power(3.0, 1000)) % PRIME == pow(3, 1000, PRIME)
    inverse = field_numba.inverse(np.float64(7.0))
    assert int(inverse) * 7 % PRIME == 1
