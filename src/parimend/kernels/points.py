"""The points of `parimend.codes.power`: where words lie, and which factors they have."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.kernels.field import PRIME, element

LANES = 8
"""Words in a row of a tile."""
LINE = 64
"""Bytes of a line of the processor's caches."""
SIZES = tuple(1 << k for k in range(1, 13))
"""Rows that a tile may have."""


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
        return kernels.on("points").points_of(
            positions, self.rows, *_steps(self.generator, self.rows)
        )

    def factors(
        self, positions: NDArray[np.int64], points: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint64]:
        """The factors of words, (k,) uint64 residues; ``points`` are theirs, if at hand."""
        x = self.of(positions) if points is None else points
        return kernels.on("points").factors_of(positions, x, self.tile, np.uint64(self.key))


@lru_cache(maxsize=256)
def _steps(generator: int, rows: int) -> tuple[float, float]:
    """1 / g and w, elements of the field: what a lane and a row more multiply a point with."""
    root = pow(generator, (PRIME - 1) // rows, PRIME)
    return element(pow(generator, -1, PRIME)), element(root)
