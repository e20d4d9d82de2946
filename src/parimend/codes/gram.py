"""Products of H with its transpose, and what they are solved for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.lasting import cached_property

if TYPE_CHECKING:
    from parimend.codes.structure import Columns

_LARGEST = 4096  # rows up to which they are factorized, 128 MB


@dataclass(frozen=True, eq=False)
class Gram:
    """H D^2 H^T, whose D is one number for each of some pieces of a word.

    Args:
        pieces: pairs of the columns of H and the scale of their coefficients, on the diagonal of D.
        m: number of rows of H.

    Example:
        >>> from parimend.codes import Sparse
        >>> code = Sparse(n=2000, m=64)
        >>> y = Gram([(code.columns, 1 / code.unit)], 64).solve(np.ones(64))
        >>> bool(np.allclose(code.matvec(code.rmatvec(y)), 1.0))
        True
    """

    pieces: Sequence[tuple[Columns, float]]
    m: int

    def product(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Itself times ``y``, (m,) -> (m,)."""
        total = np.zeros(self.m)
        for columns, scale in self.pieces:
            kernels.on("sparse").multiply_gram(*columns, y, scale, total)
        return total

    def solve(self, residual: NDArray[np.float64], rtol: float = 1e-13) -> NDArray[np.float64]:
        """The y whose product is ``residual``, (k,) -> (k,), of the first k of m rows; see
        `RealCode.solve_gram`.

        Raises:
            ArithmeticError: if the rows are dependent.
        """
        k = len(residual)
        if self.m > _LARGEST:
            rest = np.zeros(self.m - k)
            return conjugate_gradients(
                lambda y: self.product(np.concatenate([y, rest]))[:k],
                residual,
                rtol,
                self.diagonal[:k],
            )
        import scipy.linalg  # see conjugate_gradients

        factor, lower = self._factor
        # The factor of the leading block is the leading block of the factor.
        return scipy.linalg.cho_solve((factor[:k, :k], lower), residual, check_finite=False)

    @cached_property
    def diagonal(self) -> NDArray[np.float64]:
        """(m,): squares of the rows of H D."""
        total = np.zeros(self.m)
        for columns, scale in self.pieces:
            entries = slice(columns.start[0], columns.start[-1])
            squares = (columns.coefficient[entries] * scale) ** 2
            total += np.bincount(columns.row[entries], squares, self.m)
        return total

    @cached_property
    def _factor(self) -> tuple[NDArray[np.float64], bool]:
        """Of Cholesky: worth keeping, training solves thousands of times."""
        import scipy.linalg  # see conjugate_gradients

        gram = np.zeros((self.m, self.m))
        for columns, scale in self.pieces:
            gram += kernels.on("sparse").gram(*columns, self.m, scale)
        try:
            return scipy.linalg.cho_factor(gram, lower=True)
        except scipy.linalg.LinAlgError as error:
            raise ArithmeticError("dependent rows") from error


def conjugate_gradients(
    product: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    residual: NDArray[np.float64],
    rtol: float,
    diagonal: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The y with product(y) = residual, (m,) -> (m,), of a symmetric matrix.

    Args:
        product: with the matrix, (m,) -> (m,).
        residual: (m,) float64.
        rtol: how exactly, relative to the norm of the residual.
        diagonal: of the matrix, (m,), or something like it, which speeds up.

    Raises:
        ArithmeticError: if it does not get there: the matrix is close to singular.
    """
    # Not at the top: it takes longer to load than a file to check.
    import scipy.sparse.linalg as spl

    m = len(residual)
    inverse = np.ones(m) if diagonal is None else 1.0 / np.maximum(diagonal, 1e-300)
    matrix = spl.LinearOperator((m, m), matvec=product, dtype=np.float64)
    scaling = spl.LinearOperator((m, m), matvec=lambda y: inverse * y, dtype=np.float64)
    most = 20 * m + 100
    y, failed = spl.cg(matrix, residual, rtol=rtol, atol=0.0, maxiter=most, M=scaling)
    if failed:
        raise ArithmeticError("not reached")
    return y
