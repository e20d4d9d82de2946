"""Decoding of power sums: any t errors, or e errors and f erasures with 2 e + f <= 2 t.

Sums of damage v_k at points x_k are S_j = sum_k v_k u_k x_k^j, a sequence with a linear recurrence
whose polynomial has the x_k for roots. The shortest recurrence is found (Berlekamp and Massey), its
roots are (Cantor and Zassenhaus), each root is a word by its discrete logarithm, and the v_k u_k
follow by Forney's formula. The answer counts only if it gives all the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.power import PowerSums
from parimend.codes.sums import Sums
from parimend.decoders.base import Decoder, PreparedSums, nothing
from parimend.decoders.decoding import Decoding
from parimend.kernels.field import PRIME, element
from parimend.kernels.points import LANES
from parimend.outcomes import Verdict

_BABY_STEPS = 1 << 16


@dataclass(frozen=True)
class ReedSolomon(Decoder):
    """Decoding of `PowerSums`; values are residues modulo p.

    Example:
        >>> code = PowerSums.for_errors(n=1_000_000, errors=4)
        >>> syndrome = code.sums_of([7, 400_000, 999_999], [1, 5, 2**32 - 1])
        >>> decoding = ReedSolomon().prepare(code).decode(syndrome)
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [7, 400000, 999999], [1, 5, 4294967295])
    """

    name: ClassVar[str] = "reed-solomon"
    families: ClassVar[tuple[str, ...]] = ("power",)

    def _prepare(self, code: PowerSums) -> PreparedReedSolomon:
        return PreparedReedSolomon(code)


class PreparedReedSolomon(PreparedSums):
    """`ReedSolomon`, made ready for one code: tables for logarithms."""

    code: PowerSums

    def __init__(self, code: PowerSums) -> None:
        super().__init__(code)
        g, B, loops = code.generator, code.rows, kernels.on("reed_solomon")
        most = -(-code.n // code.tile) * LANES
        steps = min(most, _BABY_STEPS)
        small = loops.powers_of(element(pow(g, -B, PRIME)), steps)
        rooted = loops.powers_of(element(pow(g, (PRIME - 1) // B, PRIME)), B)
        giant = element(pow(g, B * steps, PRIME))
        by_small, by_rooted = np.argsort(small), np.argsort(rooted)
        tables = (small[by_small], by_small, giant, rooted[by_rooted], by_rooted)
        self._logarithms = (B, most, *tables, element(g))

    def _decode_sums(self, syndrome: Sums, erasures: NDArray[np.int64]) -> Decoding:
        found = self._damage(syndrome, erasures)
        if found is None:
            unexplained = int(np.count_nonzero(syndrome))
            return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=unexplained)
        positions, values = found
        return Decoding(Verdict.CORRECTED, positions, values)

    def _damage(
        self, syndrome: NDArray[np.uint64], erasures: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Positions and values that give the syndrome, or None."""
        if len(erasures) > self.code.m:
            return None
        sums, loops = syndrome.astype(np.float64), kernels.on("reed_solomon")
        sums = np.where(sums > PRIME // 2, sums - PRIME, sums)
        erased = self.code.points(erasures)
        recurrence, length = loops.locator(sums, erased)
        if 2 * length - len(erasures) > self.code.m or not length:
            return None
        if recurrence[length] == 0.0 or recurrence[length + 1 :].any():
            return None
        # The roots of the reversed polynomial are the points, and it is monic. Those of erasures
        # are known; finding a thousand others takes a hundred times longer than dividing by them.
        split, others = loops.roots(loops.without_roots(recurrence[length::-1].copy(), erased))
        if not split:
            return None
        points = np.concatenate([erased, others])
        positions = loops.positions_of(points, *self._logarithms)
        if (positions < 0).any() or (positions >= self.code.n).any():
            return None
        if np.unique(positions).size < positions.size:  # a root of several erasures, or errors
            return None
        weighted = loops.values_at(recurrence, length, sums, points).astype(np.int64) % PRIME
        factors = self.code.factors(positions, points).tolist()
        values = np.array(
            [v * pow(u, -1, PRIME) % PRIME for v, u in zip(weighted.tolist(), factors, strict=True)]
        )
        order = np.argsort(positions)
        positions, values = positions[order], values[order]
        if not np.array_equal(self.code.sums_of(positions, values), syndrome):
            return None
        if not erasures.size:  # then no value is zero: the recurrence would be shorter
            return positions, values
        keep = (values != 0) | np.isin(positions, erasures)
        return positions[keep], values[keep]
