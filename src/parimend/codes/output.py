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

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.base import RealCode, from_spec
from parimend.codes.gaussian import normals
from parimend.errors import SpecError
from parimend.hashing import stream_key


class Output(RealCode):
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
    word_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    syndrome_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m >= self.n:
            raise SpecError(
                f"an output code needs m < n, not m={self.m}, n={self.n}: take fewer checks"
            )

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """P, (m, n) float64, read-only."""
        P = np.ascontiguousarray(self._columns(0, self.n))
        P.flags.writeable = False
        return P

    def _columns(self, start: int, count: int) -> NDArray[np.float64]:
        """Columns start .. start + count - 1, (m, count)."""
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

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """All checks, and column ``i`` of P, (m,) float64."""
        return np.arange(self.m), self._columns(i, 1)[:, 0]

    def _syndrome(self, word: NDArray[Any]) -> NDArray[np.float64]:
        return self.matvec(word)

    def matvec(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """P x, (n,) -> (m,)."""
        return self.matrix @ x

    def rmatvec(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transpose of P times y, (m,) -> (n,)."""
        return self.matrix.T @ y

    def __reduce__(self) -> tuple[Any, ...]:
        return from_spec, (self.spec(),)
