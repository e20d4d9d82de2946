"""Many power sums that say what is wrong, and beside them a few that say whether anything is.

The few cost a fifth of what all sums cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from parimend.codes.beside import Beside
from parimend.codes.power import PowerSums
from parimend.lasting import cached_property


@dataclass(frozen=True)
class Screened(Beside):
    """``first`` power sums beside m - ``first`` others.

    Args:
        n, m, seed, version: see `Code`; m counts all sums.
        first: even; so many sums are computed for a check.

    Raises:
        SpecError: if no such code exists.

    Example:
        >>> code = Screened(n=17_200_000, m=424)
        >>> code.guaranteed, code.packed_bytes
        (210, 1749)
    """

    family: ClassVar[str] = "screened"
    erasures: ClassVar[bool] = True

    @cached_property
    def parts(self) -> tuple[PowerSums, PowerSums]:
        """The codes of the first sums and of the others."""
        return self._screen, PowerSums(self.n, self.m - self.first, self.seed)

    @property
    def guaranteed(self) -> int:
        """Any that many wrong words are repaired."""
        return (self.m - self.first) // 2

    @property
    def proves(self) -> bool:
        return self.first >= 4
