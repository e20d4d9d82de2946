"""Outcomes, as frozen records: a value, a verdict and what it took to reach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Verdict(StrEnum):
    """What is known after looking.

    ``clean``: nothing is wrong. ``corrected``: everything that was wrong is known exactly, and the
    final syndrome is as sealed. ``uncorrectable``: something is wrong and it is not known what; a
    wrong answer is never called corrected. ``below_floor``: what can be seen above the noise was
    found, and whatever else there may be is smaller than the stated floor.
    """

    CLEAN = "clean"
    CORRECTED = "corrected"
    UNCORRECTABLE = "uncorrectable"
    BELOW_FLOOR = "below_floor"

    @property
    def ok(self) -> bool:
        """Whether the word is known, exactly or to within the floor."""
        return self is not Verdict.UNCORRECTABLE


@dataclass(frozen=True, eq=False)
class Decoding:
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
