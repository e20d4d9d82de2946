"""The compiled loops of `parimend.kernels.points`, and sums over a few words."""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from parimend.kernels.field_numba import (
    INTEGER_PRIME,
    centered,
    multiply,
    multiply_integers,
    power,
    residue,
)
from parimend.kernels.hashing_numba import word as random_word
from parimend.kernels.keeping_numba import kept
from parimend.kernels.points import LANES


@kept()
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


@kept()
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


@kept()
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


@kept()
def products(a, b):
    """a b modulo p, element by element, for residues as uint64."""
    out = np.empty(a.size, np.uint64)
    for k in range(a.size):
        out[k] = multiply_integers(a[k], b[k])
    return out


@kept()
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


@kept()
def shifted(sums, shift):
    """Sums of words that lie further on: S_j shift^(j + 1), (count,) uint64; sums: residues."""
    out = np.empty(sums.size, np.uint64)
    factor = shift
    for j in range(sums.size):
        out[j] = residue(multiply(centered(np.float64(sums[j])), factor))
        factor = multiply(factor, shift)
    return out


@kept()
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
