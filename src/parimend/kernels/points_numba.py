"""The points of `parimend.codes.power`: where words lie, their factors, sums over a few words."""
# mypy: ignore-errors

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from parimend.hashing import word as random_word
from parimend.kernels.field_numba import (
    INTEGER_PRIME,
    PRIME,
    centered,
    element,
    multiply,
    multiply_integers,
    power,
    residue,
)

LANES = 8
"""Words in a row of a tile."""


class Points(NamedTuple):
    """What says where words lie and which factors they have.

    Attributes:
        generator: g, a primitive root.
        key: of the random stream of factors.
        rows: B, rows of a tile.
    """

    generator: int
    key: int
    rows: int

    @property
    def tile(self) -> int:
        """Words in a tile."""
        return LANES * self.rows

    def shift(self, words: int) -> int:
        """By what the points of words differ that lie ``words``, whole tiles, further on."""
        return pow(self.generator, -LANES * (words // self.tile), PRIME)

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """The points of words, (k,) float64 elements of the field."""
        return points_of(positions, self.rows, *_steps(self.generator, self.rows))

    def factors(
        self, positions: NDArray[np.int64], points: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint64]:
        """The factors of words, (k,) uint64 residues; ``points`` are theirs, if at hand."""
        x = self.of(positions) if points is None else points
        return factors_of(positions, x, self.tile, np.uint64(self.key))


@lru_cache(maxsize=256)
def _steps(generator: int, rows: int) -> tuple[float, float]:
    """1 / g and w, elements of the field: what a lane and a row more multiply a point with."""
    root = pow(generator, (PRIME - 1) // rows, PRIME)
    return element(pow(generator, -1, PRIME)), element(root)


@nb.njit(cache=True, nogil=True)
def add_powers(points, values, sums):
    """Add values times powers of points to ``sums``, (2 t,) uint64; points, values: float64."""
    count = sums.size
    total = np.zeros(count)
    for i in range(points.size):
        x, v = points[i], values[i]
        for j in range(count):
            total[j] = centered(total[j] + v)
            v = multiply(v, x)
    for j in range(count):
        sums[j] = (sums[j] + residue(total[j])) % INTEGER_PRIME


@nb.njit(cache=True, nogil=True)
def points_of(positions, rows, backwards, root):
    """The points of words, (k,) float64, closest to zero: g^-(8 s + l) w^c for the word in tile s,
    row c and lane l; ``backwards`` is 1 / g, ``root`` is w.
    """
    out = np.empty(positions.size)
    for k in range(positions.size):
        row, lane = positions[k] // LANES, positions[k] % LANES
        along = power(backwards, row // rows * LANES + lane)
        out[k] = centered(multiply(along, power(root, row % rows)))
    return out


@nb.njit(cache=True, nogil=True)
def factors_of(positions, points, tile, key):
    """The factors of words with these points, (k,) uint64: x_i times a random residue that is not
    zero, one for every place in a tile of ``tile`` words; ``key`` is that of the random stream.
    """
    out = np.empty(positions.size, np.uint64)
    for k in range(positions.size):
        drawn = random_word(key, np.uint64(positions[k] % tile))
        out[k] = multiply_integers(
            drawn % (INTEGER_PRIME - np.uint64(1)) + np.uint64(1), residue(points[k])
        )
    return out


@nb.njit(cache=True, nogil=True)
def products(a, b):
    """a b modulo p, element by element, for residues as uint64."""
    out = np.empty(a.size, np.uint64)
    for k in range(a.size):
        out[k] = multiply_integers(a[k], b[k])
    return out


@nb.njit(cache=True, nogil=True)
def powers_of(points, count):
    """x^j of every point, for j below ``count``: (k, count) int64 residues; points: float64."""
    out = np.empty((points.size, count), np.int64)
    for k in range(points.size):
        value = 1.0
        x = centered(points[k])
        for j in range(count):
            out[k, j] = np.int64(residue(value))
            value = multiply(value, x)
    return out


@nb.njit(cache=True, nogil=True)
def shifted(sums, shift):
    """Sums of words that lie further on: S_j shift^(j + 1), (count,) uint64; sums: residues."""
    out = np.empty(sums.size, np.uint64)
    factor = shift
    for j in range(sums.size):
        out[j] = residue(multiply(centered(np.float64(sums[j])), factor))
        factor = multiply(factor, shift)
    return out


@nb.njit(cache=True, nogil=True)
def joined(sums, step):
    """Sums of words of which those of blocks are known, (count,) uint64.

    Args:
        sums: (blocks, count) uint64 residues: of every block as if it were the first one.
        step: by what the points of neighbouring blocks differ.
    """
    out = np.zeros(sums.shape[1], np.uint64)
    shift = 1.0
    for b in range(sums.shape[0]):
        out = (out + shifted(sums[b], shift)) % INTEGER_PRIME
        shift = multiply(shift, step)
    return out
