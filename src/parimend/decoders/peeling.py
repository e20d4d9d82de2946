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

Rules can take a wrong path, and do for damage that is made for it. So where they give no answer, or
one of more than `FEW` words, and so few checks are wrong that `FEW` words may be all, *every*
explanation by that many is searched for, from the start: one is the answer, several are none.
The search is complete if no two wrong words can cancel in a check and no three columns have the
same checks. `parimend.decoders.certificate` proves that for a code at hand, and that there never
are several; any `FEW` wrong words are then repaired, always. Without pairs, words are found only
if one after the other is alone in a check.

Rules 1, 2 and elimination on the stuck rest need about m = 1.45 t checks for t errors; rules 3
and 4 (a 3-core instead of a 2-core has to be empty) need about m = 0.75 t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.certificate import FEW
from parimend.codes.structure import SparseIntegers
from parimend.decoders.base import Decoder, Prepared, nothing
from parimend.decoders.decoding import Decoding
from parimend.decoders.elimination import solve_components
from parimend.errors import SpecError
from parimend.lasting import cached_property
from parimend.outcomes import Verdict

_RULES = ("agree", "alone", "pair", "pair alone")


@dataclass(frozen=True)
class Peeling(Decoder):
    """Peeling for `Sparse` and `LowBits` codes.

    Args:
        max_pairs: rules 3 and 4 are used if the pairs of columns that meet in a check are at most
            this many in all; 8 bytes are prepared for each. 0 switches the rules off.

    Example:
        >>> import numpy as np
        >>> from parimend.codes import Sparse
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

    def _prepare(self, code: SparseIntegers) -> PreparedPeeling:
        return PreparedPeeling(code, self.max_pairs)


class PreparedPeeling(Prepared):
    """`Peeling`, made ready for one code.

    Attributes:
        rows: H by rows; see `parimend.kernels.peeling_numba.by_rows`.
        inverse: of every coefficient, in the order of the rows.
        uses_pairs: whether two wrong words in one check are told apart.
    """

    code: SparseIntegers

    def __init__(self, code: SparseIntegers, max_pairs: int) -> None:
        super().__init__(code)
        loops = kernels.on("peeling")
        self.rows = loops.by_rows(code.columns.start, code.columns.row, code.m)
        self.inverse = loops.inverses(code.columns.row, self.rows[0], code.columns.coefficient)
        self._matrix = (*code.columns, self.inverse, *self.rows)
        self._heaviest = int(np.diff(code.columns.start).max())
        weight = np.diff(self.rows[0])
        pairs = int((weight * (weight - 1) // 2).sum())
        # From 30 bits on, the test with the multiplier overflows, and coefficients are too short.
        self.uses_pairs = pairs <= max_pairs and code.word_bits < 30

    @cached_property
    def _multipliers(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Prepared on the first syndrome that needs them."""
        loops, coefficient = kernels.on("peeling"), self.code.columns.coefficient
        return loops.pair_multipliers(*self.rows, self.inverse, coefficient)

    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        if noise:
            raise SpecError(
                "peeling needs exact syndromes: decode noisy ones with the 'agreement' decoder"
            )
        decoding = self._peel(syndrome.copy(), erasures)
        if decoding.verdict is Verdict.CORRECTED and decoding.positions.size <= FEW:
            return decoding
        return self._search(syndrome, erasures, decoding)

    def _peel(self, syndrome: NDArray[np.int64], erasures: NDArray[np.int64]) -> Decoding:
        """The rules and elimination; changes ``syndrome``."""
        code, loops = self.code, kernels.on("peeling")
        damage = np.zeros(code.n, np.int64)
        erased = self._mask(erasures)
        counts = np.zeros(len(_RULES), np.int64)
        state = (syndrome, damage, erased)
        limit = 1 << code.word_bits
        steps = dict.fromkeys((*_RULES, "elimination", "search"), 0)

        left = loops.peel(*self._matrix, *loops.NO_PAIRS, *state, limit, counts)
        before = left + 1
        while 0 < left < before:  # wrong repairs could undo each other for ever
            before = left
            if self.uses_pairs:
                left = loops.peel(*self._matrix, *self._multipliers, *state, limit, counts)
                if not left:
                    break
            solved = solve_components(code, *state, limit)
            if not solved:
                break
            steps["elimination"] += solved
            left = loops.peel(*self._matrix, *loops.NO_PAIRS, *state, limit, counts)

        steps |= dict(zip(_RULES, counts.tolist(), strict=True))
        if left or syndrome.any():
            return _unexplained(syndrome, steps)
        positions = np.union1d(np.flatnonzero(damage), erasures)
        return Decoding(Verdict.CORRECTED, positions, damage[positions], steps=steps)

    def _search(
        self, syndrome: NDArray[np.int64], erasures: NDArray[np.int64], peeled: Decoding
    ) -> Decoding:
        """The only explanation by `FEW` words; ``peeled`` if there is none."""
        if erasures.size > FEW or np.count_nonzero(syndrome) > FEW * self._heaviest:
            return peeled
        pairs = self._multipliers if self.uses_pairs else kernels.on("peeling").NO_PAIRS
        erased, limit = self._mask(erasures), 1 << self.code.word_bits
        loops = kernels.on("search")
        found, columns, values = loops.explanations(
            *self._matrix, *pairs, syndrome, erased, limit, FEW
        )
        if not found:
            return peeled
        steps = {**peeled.steps, "search": 1}
        if found > 1:
            return _unexplained(syndrome, steps)
        damage = np.zeros(self.code.n, np.int64)
        damage[columns[columns >= 0]] = values[columns >= 0]
        positions = np.union1d(np.flatnonzero(damage), erasures)
        return Decoding(Verdict.CORRECTED, positions, damage[positions], steps=steps)

    def _mask(self, erasures: NDArray[np.int64]) -> NDArray[np.uint8]:
        erased = np.zeros(self.code.n, np.uint8)
        erased[erasures] = 1
        return erased


def _unexplained(syndrome: NDArray[np.int64], steps: dict[str, int]) -> Decoding:
    unexplained = int(np.count_nonzero(syndrome))
    return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=unexplained, steps=steps)
