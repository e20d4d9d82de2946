"""Small integer lattices: the moves of a few weights that leave one check unchanged.

For coefficients a the vectors v of integers with a . v = 0 form a lattice of dimension len(a) - 1.
With a reduced basis of it, and any u with a . u = 1, a short v with a . v = r is r u minus the
nearest lattice vector (Lenstra, Lenstra, Lovasz 1982; Babai 1986).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend import kernels


def kernel(a: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A reduced basis of the integer vectors v with a . v = 0, and a short u with a . u = 1.

    Args:
        a: (k,) int64, k >= 2, below 2^44 in magnitude.

    Returns:
        (k - 1, k) int64 and (k,) int64.

    Raises:
        ValueError: if no two entries of a are coprime.

    Example:
        >>> basis, u = kernel(np.array([101, 103, 107]))
        >>> (basis @ [101, 103, 107]).tolist(), int(u @ [101, 103, 107])
        ([0, 0], 1)
    """
    values = [int(x) for x in a]
    k = len(values)
    try:
        first, second = next(
            (i, j) for i in range(k) for j in range(i) if np.gcd(values[i], values[j]) == 1
        )
    except StopIteration:
        raise ValueError(f"no two of the coefficients {values} are coprime") from None
    order = [first, second] + [i for i in range(k) if i not in (first, second)]
    b = [values[i] for i in order]
    # Modulo b[0], every vector of the lattice is a combination of its entries from 2 on.
    inverse = pow(b[1], -1, abs(b[0]))
    basis = np.zeros((k - 1, k), np.int64)
    basis[0, :2] = -b[1], b[0]
    for i in range(2, k):
        c = -b[i] * inverse % abs(b[0])
        basis[i - 1, [0, 1, i]] = -(b[1] * c + b[i]) // b[0], c, 1
    u = np.zeros(k, np.int64)
    u[:2] = (1 - b[1] * inverse) // b[0], inverse
    kernels.on("lattice").reduce(basis)
    kernels.on("lattice").shorten(basis, u)
    back = np.argsort(order)
    return basis[:, back], u[back]


def kernel_modulo(a: NDArray[np.int64]) -> NDArray[np.int64]:
    """A reduced basis of the integer vectors v with a . v = 0 modulo 2^64.

    Args:
        a: (k,) int64, k >= 2, the first one odd.

    Returns:
        (k, k) int64.

    Example:
        >>> a = np.array([3**39, 5**27, 7**22])
        >>> basis = kernel_modulo(a)
        >>> bool((basis @ a == 0).all()), bool(np.abs(basis).max() < 2**23)
        (True, True)
    """
    modulus = 1 << 64
    inverse = pow(int(a[0]), -1, modulus)

    def first(i: int) -> int:
        x = -int(a[i]) * inverse % modulus
        return x - modulus if x >= modulus // 2 else x

    k = len(a)
    basis = np.zeros((k, k), np.int64)
    # (2^64, 0) is no int64: the first two rows are shortened by Gauss's algorithm beforehand.
    u, v = (modulus, 0), (first(1), 1)
    while True:
        dot, norm = u[0] * v[0] + u[1] * v[1], v[0] * v[0] + v[1] * v[1]
        q = (2 * dot + norm) // (2 * norm)
        u = (u[0] - q * v[0], u[1] - q * v[1])
        if u[0] * u[0] + u[1] * u[1] >= norm:
            break
        u, v = v, u
    basis[0, :2], basis[1, :2] = u, v
    for i in range(2, k):
        basis[i, 0], basis[i, i] = first(i), 1
    kernels.on("lattice").reduce(basis)
    return basis
