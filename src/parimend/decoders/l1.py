"""Linear programming (basis pursuit): the damage with the smallest sum of magnitudes.

min |e|_1 subject to H e = s finds the sparsest e as long as it is sparse enough (Candès and Tao,
*Decoding by linear programming*, IEEE Trans. Inf. Theory 51, 2005; for weights, arXiv 2602.00076).
For Gaussian H success falls from nearly always to hardly ever within a few per cent of m (Donoho
and Tanner, *Counting faces of randomly projected polytopes*, J. AMS 22, 2009): t = 210 wrong words
among n = 5,120 need about m = 906 checks to be found half of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from parimend.codes.gaussian import Gaussian
from parimend.decoders.base import Prepared
from parimend.decoders.support import Guesser, Problem, RealDecoder
from parimend.errors import SpecError

# The step has to follow the size of the damage that is still in motion, whatever its values are.
# Measured at n = 5,120, t = 210, m = 906 to 1,024: falling by 0.7 every 25 iterations finds what
# linear programming can find in 25 to 400 iterations; fixed steps need up to three times as many.
_RELAXATION = 1.6
_FIRST_STEP = 3.0
_FALL = 0.7
_PERIOD = 25
_ITERATIONS = 800


@dataclass(frozen=True)
class L1(RealDecoder):
    """Basis pursuit.

    The least sum is as right for damage of very different sizes, but harder to find: beyond a ratio
    of about 1e6 between them (flips of any bits of a float32) both methods often stop short, and
    `OMP` or `AMP` are better.

    Args:
        method: "admm", a first-order method whose supports are tried on the way, for any size; or
            "highs", a simplex or interior point solver that finds the exact minimum, up to about
            n = 1,000.
        resolution: see `RealDecoder`.

    Raises:
        SpecError: for an unknown method or resolution.

    >>> code = Gaussian(n=100, m=40)
    >>> damage = np.zeros(100)
    >>> damage[[7, 33, 70]] = 0.5, -1.0, 2.0
    >>> L1().prepare(code).decode(code.syndrome(damage)).positions
    array([ 7, 33, 70])
    """

    name: ClassVar[str] = "l1"

    method: Literal["admm", "highs"] = "admm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("admm", "highs"):
            raise SpecError(f"method of the l1 decoder must be 'admm' or 'highs': {self.method!r}")

    def _prepare(self, code: Gaussian) -> Prepared:
        return (_Admm if self.method == "admm" else _Highs)(code, self.resolution)


class _Highs(Guesser):
    def _guesses(self, problem: Problem) -> Iterator[NDArray[np.int64]]:
        from scipy.optimize import linprog  # takes 0.2 s to load, which few will need

        # e = p - q with p, q >= 0; what the erasures take is free.
        H, cost = problem.H, np.where(problem.erased, 0.0, 1.0)
        b = problem.target / np.abs(problem.target).max()  # its tolerances are absolute
        solution = linprog(np.concatenate([cost, cost]), A_eq=np.hstack([H, -H]), b_eq=b)
        if solution.x is not None:
            p, q = solution.x.reshape(2, -1)
            yield _largest(p - q, problem)


class _Admm(Guesser):
    """Alternating directions between {e: H e = s} and the shrinkage of magnitudes.

    S. Boyd et al., *Distributed optimization and statistical learning via the alternating direction
    method of multipliers*, 2011, section 6.2, with over-relaxation.
    """

    def __init__(self, code: Gaussian, resolution: float) -> None:
        super().__init__(code, resolution)
        # Rows made orthonormal, so that a projection is two products.
        import scipy.linalg as sl  # see RealCode.solve_gram

        self._rows = sl.solve_triangular(code.gram_factor, code.matrix, lower=True)

    def _guesses(self, problem: Problem) -> Iterator[NDArray[np.int64]]:
        A = self._rows
        import scipy.linalg as sl  # see RealCode.solve_gram

        b = sl.solve_triangular(self.code.gram_factor, problem.target, lower=True)
        # In units of the root mean square of the shortest solution.
        step = _FIRST_STEP * np.linalg.norm(b) / np.sqrt(A.shape[1])
        shrink = np.where(problem.erased, 0.0, step)
        z = u = np.zeros(A.shape[1])
        guess = _PERIOD
        for i in range(1, _ITERATIONS + 1):
            v = z - u
            x = v - A.T @ (A @ v - b)
            y = _RELAXATION * x + (1.0 - _RELAXATION) * z + u
            z = y - np.clip(y, -shrink, shrink)
            u = y - z
            if i >= guess:
                guess += max(_PERIOD, i // 4)  # a guess costs as much as about 20 iterations
                yield _largest(z, problem)
            if i % _PERIOD == 0:
                shrink *= _FALL
                u *= _FALL  # the multipliers, u over the step, stay


def _largest(e: NDArray[np.float64], problem: Problem) -> NDArray[np.int64]:
    """Where ``e`` is not zero, by decreasing magnitude, without the erasures."""
    size = np.where(problem.erased, 0.0, np.abs(e))
    return np.argsort(-size, kind="stable")[: np.count_nonzero(size)]
