"""Codes with a dense real H, which is made on first use and kept with the code."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.base import RealCode, from_spec
from parimend.errors import SpecError


class Dense(RealCode):
    """A code whose H is an array: fewer checks than words, as only the zero word meets n checks."""

    word_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    syndrome_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m >= self.n:
            raise SpecError(
                f"this {self.family} code needs m < n, not m={self.m}, n={self.n}: take fewer "
                "checks"
            )

    @property
    @abstractmethod
    def matrix(self) -> NDArray[np.float64]:
        """H, (m, n) float64, read-only."""

    @abstractmethod
    def _columns(self, start: int, count: int) -> NDArray[np.float64]:
        """Columns start .. start + count - 1 of H, (m, count), made without the rest of it."""

    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """All checks, and column ``i`` of H, (m,) float64."""
        return np.arange(self.m), self._columns(i, 1)[:, 0]

    def _syndrome(self, word: NDArray[Any]) -> NDArray[np.float64]:
        return self.matvec(word)

    def matvec(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """H x, (n,) -> (m,)."""
        return self.matrix @ x

    def rmatvec(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transpose of H times y, (m,) -> (n,)."""
        return self.matrix.T @ y

    def __reduce__(self) -> tuple[Any, ...]:
        # H would travel along, and is made faster than it is read.
        return from_spec, (self.spec(),)
