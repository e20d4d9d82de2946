"""Decoding where a few sums say whether anything is wrong, and many say what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.screened import Screened
from parimend.codes.sums import Sums
from parimend.decoders.base import Decoder, PreparedSums, nothing
from parimend.decoders.decoding import Decoding
from parimend.decoders.reed_solomon import ReedSolomon
from parimend.outcomes import Verdict


@dataclass(frozen=True)
class ScreenedSums(Decoder):
    """Decoding of `Screened`: the many sums are decoded, and the few have to agree.

    Example:
        >>> code = Screened(n=1_000_000, m=24)
        >>> decoding = ScreenedSums().prepare(code).decode(code.sums_of([7, 400_000], [1, 5]))
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [7, 400000], [1, 5])
    """

    name: ClassVar[str] = "screened"
    families: ClassVar[tuple[str, ...]] = ("screened",)

    def _prepare(self, code: Screened) -> PreparedScreened:
        return PreparedScreened(code)


class PreparedScreened(PreparedSums):
    """`ScreenedSums`, made ready for one code."""

    code: Screened

    def __init__(self, code: Screened) -> None:
        super().__init__(code)
        self._many = ReedSolomon().prepare(code.parts[1])

    def _decode_sums(self, syndrome: Sums, erasures: NDArray[np.int64]) -> Decoding:
        few, many = self.code.split(syndrome)
        decoding = self._many.decode(many, erasures)
        if decoding.verdict is not Verdict.UNCORRECTABLE:
            explained = self.code.parts[0].sums_of(decoding.positions, decoding.values)
            if np.array_equal(explained, few):
                return decoding
        unexplained = int(np.count_nonzero(syndrome))
        return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=unexplained)
