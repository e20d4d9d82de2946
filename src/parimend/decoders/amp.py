"""Approximate message passing with a learned prior: fewer checks than linear programming needs.

Every iteration sees the damage behind white noise of a known size, keeps of each word what a
mixture of "sound" and "wrong by a normal amount" makes likely, and learns the share of wrong words
and their size on the way (D. L. Donoho, A. Maleki and A. Montanari, *Message-passing algorithms for
compressed sensing*, PNAS 106, 2009; J. P. Vila and P. Schniter, *Expectation-maximization
Gaussian-mixture approximate message passing*, IEEE Trans. Signal Process. 61, 2013). That holds for
H with independent entries, as here, and for large n. It is a heuristic: what it finds is judged by
least squares as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.gaussian import Gaussian
from parimend.decoders.base import Prepared
from parimend.decoders.support import Guesser, Problem, RealDecoder

_ITERATIONS = 200


@dataclass(frozen=True)
class AMP(RealDecoder):
    """Approximate message passing with a Bernoulli-Gaussian prior.

    Args:
        resolution: see `RealDecoder`.

    Raises:
        SpecError: if the resolution is not a positive number.

    >>> code = Gaussian(n=400, m=100)
    >>> damage = np.zeros(400)
    >>> damage[[7, 33, 270]] = 0.5, -1.0, 2.0
    >>> AMP().prepare(code).decode(code.syndrome(damage)).positions
    array([  7,  33, 270])
    """

    name: ClassVar[str] = "amp"

    def _prepare(self, code: Gaussian) -> Prepared:
        return _Amp(code, self.resolution)


class _Amp(Guesser):
    def _guesses(self, problem: Problem) -> Iterator[NDArray[np.int64]]:
        H, b, sound = problem.H, problem.target, ~problem.erased
        # Orthogonal to the erased columns, H is again Gaussian, with fewer rows.
        m, n = H.shape[0] - problem.erasures.size, np.count_nonzero(sound)
        share = 0.1 * m / n
        size = (b @ b) / (m * n * share)
        x, z = np.zeros(H.shape[1]), b
        last = tried = np.empty(0, np.int64)
        lowest, highest = 1e-3 * problem.bound, 1e3 * np.linalg.norm(b)
        for _ in range(_ITERATIONS):
            if not lowest < np.linalg.norm(z) < highest:  # arrived, or diverged
                break
            noise = (z @ z) / m**2
            v = x + H.T @ z / m
            keep = size / (size + noise)
            prior = np.log(share / (1.0 - share)) + 0.5 * np.log(noise / (size + noise))
            odds = prior + 0.5 * keep * v * v / noise
            wrong = 0.5 * (1.0 + np.tanh(0.5 * odds)) * sound
            x = wrong * keep * v
            slope = wrong * keep * (1.0 + (1.0 - wrong) * keep * v * v / noise)
            count = wrong.sum()
            if count == 0.0:
                break
            share = min(max(count / n, 1.0 / n), 0.9 * m / n)
            size = (wrong @ ((keep * v) ** 2 + keep * noise)) / count
            z = b - problem.clear(H @ x) + z * (slope.sum() / m)
            now = np.flatnonzero(wrong > 0.5)
            if np.array_equal(now, last) and not np.array_equal(now, tried):
                tried = now
                yield now[np.argsort(-np.abs(x[now]), kind="stable")]
            last = now
        if not np.array_equal(last, tried):
            yield last
