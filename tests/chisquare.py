"""Chi-square, for tests with fixed seeds: they check the code, not luck."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def assert_uniform(hits: npt.NDArray[Any]) -> None:
    """Counts in equally likely cells lie within five standard deviations of what they should."""
    cells, expected = hits.size, hits.sum() / hits.size
    assert expected >= 10
    chi_square = float(((hits - expected) ** 2).sum() / expected)
    assert abs(chi_square - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1)), chi_square
