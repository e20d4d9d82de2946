"""Hashed sums, and beside them a few power sums that solve what peeling leaves.

Hashed sums are for thousands of errors, see `parimend.codes.modular`. But two groups whose starts
differ by the same amount in all bands share all their buckets, and two wrong words in them can
never be told apart: a *floor* of failures that more buckets lower slowly. Such sets are small. Once
all other words are taken out of the power sums as well, these name what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from parimend.codes.beside import Beside
from parimend.codes.modular import Modular
from parimend.codes.power import PowerSums
from parimend.codes.promise import MEASURED, Chance
from parimend.errors import SpecError
from parimend.kernels.modular import GROUP
from parimend.lasting import cached_property

SIMULATED = 50_000
"""The largest budget that was simulated."""

_BOUNDED = 6000  # words


@dataclass(frozen=True)
class Hashed(Beside):
    """``first`` power sums beside the two sums of (m - ``first``) / 2 buckets.

    Args:
        n, m, seed, version: see `Code`; m counts all sums.
        first: even; so many power sums, which are computed for a check.
        bands: every word is in one bucket of each band; see `Modular`.

    Raises:
        SpecError: if no such code exists.

    Example:
        >>> code = Hashed.for_errors(n=17_200_000, errors=10_000)
        >>> code.guaranteed, code.packed_bytes
        (4, 111144)
    """

    first: int = 8
    bands: int = 4

    family: ClassVar[str] = "hashed"

    @classmethod
    def for_errors(cls, n: int, errors: int, seed: int = 0) -> Hashed:
        """The code from which any ``errors`` wrong words can be expected to be repaired.

        It has as many buckets as `Modular.for_errors` takes, and eight power sums. How often damage
        of all kinds is then repaired is measured by ``benchmarks/sidecar.py``.

        Raises:
            SpecError: if ``errors`` is not positive.
        """
        hashed = Modular.for_errors(n, errors)
        return cls(n, cls.first + 2 * hashed.m, seed, bands=hashed.bands)

    @cached_property
    def parts(self) -> tuple[PowerSums, Modular]:
        """The codes of the power sums and of the buckets."""
        buckets, half = divmod(self.m - self.first, 2)
        if half:
            raise SpecError(
                f"a bucket has two sums: m={self.m} less first={self.first} must be even"
            )
        return self._screen, Modular(self.n, buckets, self.seed, version=2, bands=self.bands)

    @property
    def guaranteed(self) -> int:
        """Any that many wrong words are repaired."""
        return self.first // 2

    def measured(self, errors: int) -> Chance | None:
        if self.m < Hashed.for_errors(self.n, errors).m:
            return None
        what = "random damage, bursts, lines and pages"
        if errors > SIMULATED:
            what += f"; by the rule that held in all simulations, up to {SIMULATED:,} errors"
        return Chance(errors, MEASURED, what)

    def bounded(self, errors: int) -> Chance | None:
        """See `bound`: it says nothing of the last quarter of a budget, or of more words than there
        are groups, and takes long for large budgets.
        """
        fewer = min(errors * 3 // 4, -(-self.n // GROUP), _BOUNDED)
        what = "words in different groups of 16, over the draw of the seed"
        bound = self.bound(fewer)
        return Chance(fewer, bound, what) if bound < 1.0 else None

    def bound(self, errors: int) -> float:
        """Bound on the probability, over the draw of the seed, that a decoding fails.

        For any fixed wrong words in different groups of 16: it fails only if peeling leaves more of
        them than `guaranteed`, see `Modular.bound`.

        Example:
            >>> code = Hashed.for_errors(n=17_200_000, errors=10_000)
            >>> [f"{code.bound(errors):.0e}" for errors in (4, 1000, 5000, 8000, 10_000)]
            ['0e+00', '3e-23', '5e-19', '9e-18', '1e+00']
        """
        return self.parts[1].bound(errors, left=self.guaranteed)
