"""What a decoder answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.outcomes import Verdict
from parimend.record import Record


@dataclass(frozen=True, eq=False, repr=False)
class Decoding(Record):
    """What a decoder read out of one syndrome.

    Attributes:
        verdict: see `Verdict`.
        positions: (k,) int64, increasing: the wrong words.
        values: (k,), the damage at each position, received minus original: int64 where arithmetic
            is exact, float64 where it is not. Subtract it to repair. Empty if uncorrectable.
        unexplained: number of checks that the damage found so far does not explain.
        floor: errors smaller than this cannot be told from noise; 0 for exact arithmetic.
        steps: how often each stage of the decoder made progress, by its name.
    """

    verdict: Verdict
    positions: NDArray[np.int64]
    values: NDArray[Any]
    unexplained: int = 0
    floor: float = 0.0
    steps: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        found, left = len(self.positions), self.unexplained
        return f"<Decoding: {self.verdict}, {found} wrong words, {left} checks unexplained>"
