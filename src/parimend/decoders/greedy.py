"""Orthogonal matching pursuit: one wrong word after the other, the best match first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.gaussian import Gaussian
from parimend.decoders.base import Prepared
from parimend.decoders.support import Guesser, Problem, RealDecoder


@dataclass(frozen=True)
class OMP(RealDecoder):
    """Orthogonal matching pursuit.

    Takes the column that matches the unexplained part of the syndrome best, fits all columns taken
    so far, and repeats until nothing is unexplained or half of the checks are used up (J. A. Tropp
    and A. C. Gilbert, *Signal recovery from random measurements via orthogonal matching pursuit*,
    IEEE Trans. Inf. Theory 53, 2007).

    Args:
        resolution: see `RealDecoder`.

    Raises:
        SpecError: if the resolution is not a positive number.

    >>> code = Gaussian(n=100, m=40)
    >>> damage = np.zeros(100)
    >>> damage[[7, 33, 70]] = 0.5, -1.0, 2.0
    >>> OMP().prepare(code).decode(code.syndrome(damage)).positions
    array([ 7, 33, 70])
    """

    name: ClassVar[str] = "omp"

    def _prepare(self, code: Gaussian) -> Prepared:
        return _Omp(code, self.resolution)


class _Omp(Guesser):
    def __init__(self, code: Gaussian, resolution: float) -> None:
        super().__init__(code, resolution)
        self._norms = np.linalg.norm(code.matrix, axis=0)

    def _guesses(self, problem: Problem) -> Iterator[NDArray[np.int64]]:
        H = problem.H
        steps = min(problem.limit, (H.shape[0] - problem.erasures.size) // 2)
        chosen: list[int] = []
        basis = np.empty((H.shape[0], steps), order="F")
        rest = problem.target.copy()
        usable = np.where(problem.erased, 0.0, 1.0 / self._norms)
        for k in range(steps):
            i = int(np.argmax(np.abs(H.T @ rest) * usable))
            usable[i] = 0.0
            chosen.append(i)
            # Gram-Schmidt, twice: once loses orthogonality when columns are nearly dependent.
            q = problem.clear(H[:, i])
            for _ in range(2):
                q = q - basis[:, :k] @ (basis[:, :k].T @ q)
            basis[:, k] = q / np.linalg.norm(q)
            rest = rest - basis[:, k] * (basis[:, k] @ rest)
            if np.linalg.norm(rest) <= problem.bound:
                break
        yield np.array(chosen, dtype=np.int64)
