"""Codes on the outputs of a layer: a row of ones, and dense rows with columns of equal length.

A guarded layer meets P W = 0, so P y = 0 for every output y = W x. The row of ones is a plain sum
of the outputs and sees every single error as it is. The further rows give each output a direction
of its own, so that the syndrome of a wrong one points at it; since all columns are equally long, no
output is seen worse than another.

The plain sum is the checksum of K.-H. Huang, J. A. Abraham, "Algorithm-based fault tolerance for
matrix operations", IEEE Transactions on Computers C-33, 1984; several weighted sums that locate:
J.-Y. Jou, J. A. Abraham, "Fault-tolerant matrix arithmetic and signal processing on highly
concurrent computing structures", Proceedings of the IEEE 74, 1986.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.dense import Dense
from parimend.codes.gaussian import normals
from parimend.hashing import stream_key
from parimend.lasting import cached_property


class Output(Dense):
    """P, with as many columns as the layer has outputs: every column has length sqrt(m).

    Args:
        n: number of outputs.
        m: number of checks, less than n. 1 detects; from 3 on, wrong outputs can be located.
        seed: selects one code of the family, 0 <= seed < 2^64.
        version: of the construction.

    Raises:
        SpecError: if no such code exists.

    >>> code = Output(n=5, m=3)
    >>> code.matrix[0].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    >>> bool(np.allclose((code.matrix**2).sum(0), 3))
    True
    """

    family: ClassVar[str] = "output"

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """P, (m, n) float64, read-only."""
        P = np.ascontiguousarray(self._columns(0, self.n))
        P.flags.writeable = False
        return P

    def _columns(self, start: int, count: int) -> NDArray[np.float64]:
        P = np.ones((self.m, count))
        if dense := self.m - 1:
            key = stream_key(self.seed, self.version)
            x = normals(key, start * dense, count * dense).reshape(count, dense).T
            # Added row by row: numpy's own sums may round differently on another platform.
            square = np.zeros(count)
            for row in x:
                square += row * row
            P[1:] = x * np.sqrt(dense / square)
        return P
