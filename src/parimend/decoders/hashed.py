"""Decoding of hashed sums with a few power sums beside them.

Either the power sums alone name all that is wrong; any `Hashed.guaranteed` words or fewer they do.
Or else buckets are peeled, see `parimend.decoders.buckets`, what they name is taken out of the
power sums, and these name what the buckets leave. What was found counts only if it explains every
sum of both kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.hashed import Hashed
from parimend.codes.sums import Sums
from parimend.decoders.base import Decoder, PreparedSums, nothing
from parimend.decoders.buckets import merged, peeled
from parimend.decoders.decoding import Decoding
from parimend.decoders.reed_solomon import ReedSolomon
from parimend.outcomes import Verdict

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class HashedSums(Decoder):
    """Decoding of `Hashed`; values are residues modulo p.

    ``steps`` counts the words that buckets named, by rule, and those that power sums did.

    Example: two words that share their buckets in all bands.
        >>> code = Hashed.for_errors(n=17_200_000, errors=210)
        >>> changed = code.sums_of([5_140_651, 7_534_416], [1, 5])
        >>> decoding = HashedSums().prepare(code).decode(changed)
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [5140651, 7534416], [1, 5])
    """

    name: ClassVar[str] = "hashed"
    families: ClassVar[tuple[str, ...]] = ("hashed",)

    def _prepare(self, code: Hashed) -> PreparedHashed:
        return PreparedHashed(code)


class PreparedHashed(PreparedSums):
    """`HashedSums`, made ready for one code."""

    code: Hashed

    def __init__(self, code: Hashed) -> None:
        super().__init__(code)
        self._power = ReedSolomon().prepare(code.parts[0])

    def _decode_sums(self, syndrome: Sums, erasures: NDArray[np.int64]) -> Decoding:
        first, hashed = self.code.parts
        power, buckets = self.code.split(syndrome)
        positions, values, steps = _NONE, _NONE, dict[str, int]()
        left = self._named(power, buckets, erasures)
        if left is None:
            positions, values, steps = peeled(hashed, buckets)
            power = first.subtract(power, first.sums_of(positions, values))
            left = self._named(power, buckets, _NONE)
        if left is None:
            unexplained = int(np.count_nonzero(power) + np.count_nonzero(buckets))
            return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=unexplained, steps=steps)
        steps["power"] = left.positions.size
        positions = np.concatenate([positions, left.positions])
        values = np.concatenate([values, left.values])
        found = merged(positions, values, erasures, self.code.prime)
        return Decoding(Verdict.CORRECTED, *found, steps=steps)

    def _named(self, power: Sums, buckets: Sums, erasures: NDArray[np.int64]) -> Decoding | None:
        """What power sums say is wrong, if it explains the buckets as well."""
        decoding = self._power.decode(power, erasures)
        if decoding.verdict is Verdict.UNCORRECTABLE:
            return None
        explained = self.code.parts[1].sums_of(decoding.positions, decoding.values)
        return decoding if np.array_equal(explained, buckets) else None
