"""Agreement of checks: sparse codes on real weights, known only to within rounding noise.

Weights that are not on a grid (in training, say) meet their checks only approximately, and a
single check says nothing. But two checks of one word that lead to the same damage, to within the
noise, can be trusted: they agree by accident with a probability of about noise / damage for every
word of the check. Each such word is put right and the next one looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.sparse import Sparse
from parimend.decoders.base import Decoder, Prepared, nothing
from parimend.decoders.decoding import Decoding
from parimend.outcomes import Verdict


@dataclass(frozen=True)
class Agreement(Decoder):
    """Decoding of `Sparse` codes with noisy checks.

    It takes words with at least two checks that no other wrong word disturbs, so about 4 checks for
    an error with columns of weight 3. The verdict is at best ``below_floor``: what is smaller than
    `Decoding.floor`, in units of the word, cannot be seen. An explanation that needs words of less
    than four times the noise is none: such a word makes up for what estimates of others lack.

    Example:
        >>> code = Sparse(n=5120, m=320)
        >>> damage = np.zeros(5120)
        >>> damage[[7, 4000]] = 1000.3, -20000.7
        >>> noisy = code.matvec(damage + np.random.default_rng(0).normal(0, 1e-3, 5120))
        >>> syndrome = np.rint(noisy * code.unit).astype(np.int64)
        >>> decoding = Agreement().prepare(code).decode(syndrome, noise=0.1 * code.unit)
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.round(1).tolist()
        ('below_floor', [7, 4000], [1000.3, -20000.7])
    """

    name: ClassVar[str] = "agreement"
    families: ClassVar[tuple[str, ...]] = ("sparse",)
    usual: ClassVar[bool] = False

    def _prepare(self, code: Sparse) -> _Prepared:
        return _Prepared(code)


class _Prepared(Prepared):
    code: Sparse

    def __init__(self, code: Sparse) -> None:
        super().__init__(code)
        self._rows = kernels.on("peeling").by_rows(code.columns.start, code.columns.row, code.m)

    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        code = self.code
        rest = syndrome.astype(np.float64)
        tolerance = np.full(code.m, max(noise, 0.5))
        damage = np.zeros(code.n)
        erased = np.zeros(code.n, np.uint8)
        erased[erasures] = 1
        limit = float(1 << code.word_bits)
        found = kernels.on("agreement").agree(
            *code.columns, *self._rows, rest, tolerance, damage, erased, limit
        )
        steps = {"agree": int(found)}
        if erasures.size:
            steps["erasures"] = self._solve(erasures, rest, damage)
        least, most = max(noise, 0.5), float(tolerance.max())
        lowest, floor = 4.0 * least / code.unit, 4.0 * most / code.unit  # coefficients >= unit / 2
        rest, damage = self._simplest(rest, damage, erasures, tolerance, lowest)
        unexplained = int(np.count_nonzero(np.abs(rest) > tolerance))
        seen = np.setdiff1d(np.flatnonzero(damage), erasures)
        if unexplained or (np.abs(damage[seen]) < lowest).any():
            return nothing(
                Verdict.UNCORRECTABLE, rest, unexplained=unexplained, floor=floor, steps=steps
            )
        positions = np.union1d(np.flatnonzero(damage), erasures)
        return Decoding(Verdict.BELOW_FLOOR, positions, damage[positions], floor=floor, steps=steps)

    def _simplest(
        self,
        rest: NDArray[np.float64],
        damage: NDArray[np.float64],
        erasures: NDArray[np.int64],
        tolerance: NDArray[np.float64],
        lowest: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is left of the checks, and the damage, without words below the lowest floor that
        the others do not need to explain all checks.
        """
        there = np.union1d(np.flatnonzero(damage), erasures)
        small = np.setdiff1d(there[np.abs(damage[there]) < lowest], erasures)
        if 2 * there.size > self.code.m:
            return rest, damage
        for i in small[np.argsort(np.abs(damage[small]))]:
            fewer, left = damage.copy(), rest.copy()
            rows, coefficients = self.code.column(int(i))
            left[rows] += damage[i] * coefficients
            fewer[i] = 0.0
            self._solve(there[there != i], left, fewer)
            if (np.abs(left) <= tolerance).all():
                rest, damage, there = left, fewer, there[there != i]
        return rest, damage

    def _solve(
        self, words: NDArray[np.int64], rest: NDArray[np.float64], damage: NDArray[np.float64]
    ) -> int:
        """Least squares for the values of some words; 0 if they are not determined."""
        H = np.zeros((self.code.m, words.size))
        for k, i in enumerate(words):
            rows, coefficients = self.code.column(int(i))
            H[rows, k] = coefficients
        unit = self.code.unit
        x, _, rank, _ = np.linalg.lstsq(H / unit, rest / unit, rcond=None)
        if rank < words.size:
            return 0
        damage[words] += x
        rest -= H @ x
        return int(words.size)
