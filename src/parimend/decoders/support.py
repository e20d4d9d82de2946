"""Least squares on a support, and what its fit proves: the end of every decoder in the reals.

The decoders of `Gaussian` codes differ in how they guess which words are wrong. Here the guess is
judged, by the residual of least squares on the guessed columns. Let the damage be any fixed vector,
S a set of k columns (erasures not counted), K erasures, and f the norm of the damage outside of
both. Because the columns of H are independent normal vectors, what these columns cannot explain of
that damage has the norm f chi, where chi^2 is chi-square with d = m - K - k degrees of freedom,
whatever S, the damage and its number of wrong words are, and

    P(chi <= x) <= x^d / (2^(d/2) Gamma(d/2 + 1)).

A union over the C(n - K, k) sets that a decoder may choose from gives the *floor*: with probability
1 - 2^-64 over the draw of H, no set of k columns reaches a residual r and misses damage of norm

    f = r (2^64 C(n - K, k) / (2^(d/2) Gamma(d/2 + 1)))^(1/d).

While d is large, f is about r sqrt(e / d); when k + K comes close to m, a fit proves ever less, f
grows without bound, and the guess is refused. This is the quantitative form of "a solution with
fewer than m nonzeros is no accident". It presumes damage that was not chosen knowing H.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import exp, inf, lgamma, log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import real_number
from parimend.codes.gaussian import Gaussian
from parimend.decoders.base import Decoder, Prepared, nothing
from parimend.decoders.decoding import Decoding
from parimend.outcomes import Verdict

_EPS = 2.0**-52
_LOG_ODDS = 64 * log(2.0)
_LOG_WEAKEST = 10 * log(2.0)
"""A fit is refused if its floor exceeds 2^10 times the residual per check."""


def log_floor(n: int, m: int, k: int) -> float:
    """log(f / r) of the module's formula for m checks left by the erasures, n words left by them.

    Infinite if k >= m.

    >>> round(exp(log_floor(5120, 1024, 210)), 3)
    0.177
    """
    d = m - k
    if d < 1:
        return inf
    sets = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return (_LOG_ODDS + sets - 0.5 * d * log(2.0) - lgamma(0.5 * d + 1.0)) / d


class Problem:
    """One syndrome that waits for an explanation.

    Everything inside is in units of ``unit``, a power of two near the largest check: squares
    neither overflow nor vanish, and nothing is rounded.

    Args:
        H: (m, n) float64.
        syndrome: (m,) float64, finite.
        erasures: (K,) int64, increasing.
        noise: bound on the part of each check that is noise.
        resolution: damage smaller than this does not count.

    Attributes:
        syndrome: (m,) float64.
        target: (m,) float64, the part of the syndrome that no values of the erasures explain.
        erased: (n,) bool.
        bound: norm that noise and rounding alone may reach. Rounding is allowed n + 64 units in
            the last place of the syndrome.
        limit: so many wrong words can be proved beside the erasures; -1 if not even these can.
    """

    def __init__(
        self,
        H: NDArray[np.float64],
        syndrome: NDArray[np.float64],
        erasures: NDArray[np.int64],
        noise: float,
        resolution: float,
    ) -> None:
        m, n = H.shape
        largest = float(np.abs(syndrome).max())
        self.unit = float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest else 1.0
        self.H, self.erasures = H, erasures
        self.syndrome = syndrome / self.unit
        self.resolution = resolution if noise == 0.0 else 0.0
        rounding = (n + 64) * _EPS * float(np.linalg.norm(self.syndrome))
        self.bound = m**0.5 * (noise / self.unit) + rounding
        self.erased = np.zeros(n, bool)
        self.erased[erasures] = True
        self.limit = self._limit()
        self._basis = np.empty((m, 0))
        if erasures.size and self.limit >= 0:
            import scipy.linalg as sl  # see RealCode.solve_gram

            self._basis = sl.qr(H[:, erasures], mode="economic")[0]
        self.target = self.clear(self.syndrome)

    def _limit(self) -> int:
        m, n = self.H.shape
        K = self.erasures.size
        weakest = _LOG_WEAKEST - 0.5 * log(m)
        return bisect_right(range(m - K), weakest, key=lambda k: log_floor(n - K, m - K, k)) - 1

    def clear(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of ``y``, (m,), that is orthogonal to all erased columns."""
        return y - self._basis @ (self._basis.T @ y)

    def explain(self, candidates: NDArray[np.int64]) -> Decoding | None:
        """The damage with the fewest of the candidates that explains every check, if there is one.

        Args:
            candidates: (k,) distinct positions that are not erased, at most ``limit``.

        Returns:
            ``corrected``, or ``below_floor`` if there is noise or the floor exceeds the resolution.
        """
        (m, n), K = self.H.shape, self.erasures.size
        values, _ = self._fit(candidates)
        if values is None:
            return None
        # The largest first, so that those of no weight are at the end, where they can be left out.
        order = np.argsort(-np.abs(values[K:]), kind="stable")
        values, residual = self._fit(candidates[order])
        if values is None:
            return None
        k = values.size - K
        positions = np.concatenate([self.erasures, candidates[order[:k]]])
        floor = exp(log_floor(n - K, m - K, k)) * (residual + self.bound) * self.unit
        order = np.argsort(positions)
        return Decoding(
            Verdict.CORRECTED if floor <= self.resolution else Verdict.BELOW_FLOOR,
            positions[order],
            values[order] * self.unit,
            floor=floor,
        )

    def _fit(self, candidates: NDArray[np.int64]) -> tuple[NDArray[np.float64] | None, float]:
        """Values of the erasures and of the shortest prefix of ``candidates`` that fits.

        Returns:
            the values, (K + length of the prefix,) float64, or None, and the norm of the residual.
        """
        K = self.erasures.size
        columns = np.concatenate([self.erasures, candidates])
        if not columns.size:
            residual = float(np.linalg.norm(self.syndrome))
            return (np.empty(0) if residual <= self.bound else None), residual
        B = self.H[:, columns]
        # In the basis of the columns, one after the other, the residual of every prefix is a sum.
        import scipy.linalg as sl  # see RealCode.solve_gram

        part, R = sl.qr_multiply(B, self.syndrome, mode="right")
        whole = self.syndrome - B @ sl.solve_triangular(R, part)
        squares = np.concatenate([[whole @ whole], part[::-1] ** 2]).cumsum()[::-1]
        residuals = np.sqrt(squares[K:])
        fits = np.flatnonzero(residuals <= self.bound)
        if not fits.size:
            return None, float(residuals[-1])
        k = K + int(fits[0])
        return sl.solve_triangular(R[:k, :k], part[:k]), float(residuals[fits[0]])


@dataclass(frozen=True)
class RealDecoder(Decoder):
    """The settings of a decoder in the reals.

    A syndrome of float64 has 53 bits for the largest and the smallest damage alike: beside a damage
    of 1e30, one of 1 leaves no trace. So what counts as damage has to be said.

    Args:
        resolution: ``corrected`` is said if all damage of this size and above is known, in the
            units of the words; else, and wherever there is noise, ``below_floor``. The default is a
            quarter of the last bit of a float32 weight of 0.05.

    Raises:
        SpecError: if the resolution is not a positive number.
    """

    families: ClassVar[tuple[str, ...]] = ("gaussian",)

    resolution: float = field(default=2.0**-30, kw_only=True)

    def __post_init__(self) -> None:
        real_number(self.resolution, "resolution", above=0)


class Guesser(Prepared):
    """A decoder that guesses which words are wrong and lets least squares judge."""

    code: Gaussian

    def __init__(self, code: Gaussian, resolution: float) -> None:
        super().__init__(code)
        self._resolution = resolution

    def _decode(
        self, syndrome: NDArray[np.float64], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        guesses = 0
        if np.isfinite(syndrome).all() and np.isfinite(noise):
            problem = Problem(self.code.matrix, syndrome, erasures, noise, self._resolution)
            if problem.limit >= 0:
                if (decoding := problem.explain(np.empty(0, np.int64))) is not None:
                    return decoding
                for candidates in self._guesses(problem):
                    guesses += 1
                    decoding = problem.explain(candidates[: problem.limit])
                    if decoding is not None:
                        return replace(decoding, steps={"guesses": guesses})
        unexplained = int(np.count_nonzero(~(np.abs(syndrome) <= noise)))
        return nothing(
            Verdict.UNCORRECTABLE, syndrome, unexplained=unexplained, steps={"guesses": guesses}
        )

    @abstractmethod
    def _guesses(self, problem: Problem) -> Iterator[NDArray[np.int64]]:
        """Distinct positions that are not erased and may be wrong, the likeliest first."""
