"""Peeling: sparse integer checks that name their own errors.

All arithmetic is exact, modulo 2^64. Four rules are used, the safest one that applies first:

1. *agree*: a check with syndrome s holds one wrong word i only if s / a_i is a small integer x, and
   another check of word i, with syndrome a'_i x, says the same. An erased word needs no second
   check.
2. *alone*: the same without the second check, if no check of word i is zero. A coefficient has 44
   bits, so a column passes by accident with probability about 2^-43.
3. *pair*: a check holds two wrong words i, k if s = a_i x + a_k y has a solution in small integers.
   For every pair a multiplier l is prepared for which l a_i and l a_k are both only about 32 bits
   long modulo 2^64; l s must then be small, which rejects all but 1 in 4,000 pairs with one
   multiplication. The solution must be confirmed by another check of either word.
4. *pair alone*: the same without a confirmation, if it is the only solution in that check.

What is still open afterwards is solved by elimination on the columns that may still be wrong. The
answer counts only if every check is explained exactly. (The numbers are for words of 18 bits.)

Rules 1, 2 and elimination on the stuck rest need about m = 1.45 t checks for t errors; rules 3
and 4 (a 3-core instead of a 2-core has to be empty) need about m = 0.75 t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.sparse import Sparse
from parimend.decoders.base import Decoder, Prepared, nothing
from parimend.decoders.elimination import solve_components
from parimend.errors import SpecError
from parimend.kernels import peeling_numba as kernels
from parimend.outcomes import Decoding, Verdict

_RULES = ("agree", "alone", "pair", "pair alone")


@dataclass(frozen=True)
class Peeling(Decoder):
    """Peeling for `Sparse` and `LowBits` codes.

    Args:
        max_pairs: rules 3 and 4 are used if the pairs of columns that meet in a check are at most
            this many in all; 8 bytes are prepared for each. 0 switches the rules off.

    Example:
        >>> import numpy as np
        >>> code = Sparse(n=5120, m=160)
        >>> damage = np.zeros(5120, np.int64)
        >>> damage[[7, 4000]] = 1000, -262143
        >>> decoding = Peeling().prepare(code).decode(code.syndrome(damage))
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [7, 4000], [1000, -262143])
    """

    max_pairs: int = 4_000_000

    name: ClassVar[str] = "peeling"
    families: ClassVar[tuple[str, ...]] = ("sparse", "lowbits")

    def _prepare(self, code: Sparse) -> PreparedPeeling:
        return PreparedPeeling(code, self.max_pairs)


class PreparedPeeling(Prepared):
    """`Peeling`, made ready for one code."""

    code: Sparse

    def __init__(self, code: Sparse, max_pairs: int) -> None:
        super().__init__(code)
        self._rows = kernels.by_rows(code.columns.start, code.columns.row, code.m)
        self._inverse = kernels.inverses(code.columns.row, self._rows[0], code.columns.coefficient)
        weight = np.diff(self._rows[0])
        pairs = int((weight * (weight - 1) // 2).sum())
        # From 30 bits on, the test with the multiplier overflows, and coefficients are too short.
        self._use_pairs = pairs <= max_pairs and code.word_bits < 30

    @cached_property
    def _multipliers(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Prepared on the first syndrome that needs them."""
        return kernels.pair_multipliers(*self._rows, self._inverse, self.code.columns.coefficient)

    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        if noise:
            raise SpecError(
                "peeling needs exact syndromes: decode noisy ones with the 'agreement' decoder"
            )
        code = self.code
        damage = np.zeros(code.n, np.int64)
        erased = np.zeros(code.n, np.uint8)
        erased[erasures] = 1
        counts = np.zeros(len(_RULES), np.int64)
        limit = 1 << code.word_bits
        state = (syndrome, damage, erased)
        matrix = (*code.columns, self._inverse, *self._rows)
        steps = dict.fromkeys((*_RULES, "elimination"), 0)

        left = kernels.peel(*matrix, *kernels.NO_PAIRS, *state, limit, counts)
        before = left + 1
        while 0 < left < before:  # wrong repairs could undo each other for ever
            before = left
            if self._use_pairs:
                left = kernels.peel(*matrix, *self._multipliers, *state, limit, counts)
                if not left:
                    break
            solved = solve_components(code, *state, limit)
            if not solved:
                break
            steps["elimination"] += solved
            left = kernels.peel(*matrix, *kernels.NO_PAIRS, *state, limit, counts)

        steps |= dict(zip(_RULES, counts.tolist(), strict=True))
        if left or syndrome.any():
            return nothing(
                Verdict.UNCORRECTABLE,
                syndrome,
                unexplained=int(np.count_nonzero(syndrome)),
                steps=steps,
            )
        positions = np.union1d(np.flatnonzero(damage), erasures)
        return Decoding(Verdict.CORRECTED, positions, damage[positions], steps=steps)
