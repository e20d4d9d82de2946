"""Grids of words whose tensors grow while they are trained.

A projection moves all weights of a word by about as many steps of their grids. That is little as
long as tensors are about as large as when their grids were chosen, or have grown by about one
factor. A layer scale that begins at a millionth and grows to one would be a million times the range
of its grid: projecting it would take the weights beside it along, far from where training led them,
and steps of the whole word that are large enough for it would leave nothing of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from parimend.words.grid import LOWEST, Grid, finest

UNEVEN = 4
"""Doublings by which a tensor may outgrow its grid more than others of its word."""
COARSE = 12
"""The same when a word is sealed: its tensors have 6 bits less then. Another constraint would cost
more than losing the others does, as nothing is learned after it."""


def doublings(size: float, grid: Grid) -> int:
    """How often the steps of a grid have to be doubled to hold weights as large as ``size`` and no
    larger ones: by how much they have grown, negative if they have shrunk. 0 if that is no number.

    >>> [doublings(size, Grid(18, -17)) for size in (0.0, 0.01, 0.93, 0.95, 3.0, float("inf"))]
    [-126, -6, 0, 1, 2, 0]
    """
    if not size:
        return -LOWEST
    return finest(size, grid.bits) - grid.exponent if math.isfinite(size) else 0


def evenly(exponents: Sequence[int], grown: Sequence[int], bits: int) -> list[int]:
    """The steps, as exponents, that the grids of a word should have where all change by one factor:
    the finest that hold its weights. That leaves the constraint of the word what it is.

    Args:
        exponents: of the grid of every part of the word.
        grown: `doublings` of each.
        bits: of the grids.

    >>> evenly([-20, -17], [1, 3], bits=18), evenly([-20, -17], [-9, -5], bits=18)
    ([-17, -14], [-25, -22])
    """
    most = max(max(grown), bits - LOWEST - min(exponents))
    return [exponent + most for exponent in exponents]


def uneven(exponents: Sequence[int], grown: Sequence[int], most: int = UNEVEN) -> list[int] | None:
    """The steps, as exponents, that the grids of a word should have where some of its tensors have
    grown far more than others; None where none has.

    What has grown is given room to grow on, until it is as large as the others may be.

    Args:
        exponents: of the grid of every part of the word.
        grown: `doublings` of each.
        most: so many doublings more than others are not far.

    >>> uneven([-20, -20, -37], [1, 0, 15]), uneven([-20, -37], [1, 5]), uneven([-9, -9], [4, 0])
    ([-19, -20, -19], None, None)
    """
    grown = [max(0, more) for more in grown]  # what shrinks may well grow again
    if max(grown) <= min(grown) + most:
        return None
    fit = [exponent + more for exponent, more in zip(exponents, grown, strict=True)]
    return [
        min(exponent + UNEVEN, max(fit)) if more > min(grown) + most else exponent
        for exponent, more in zip(fit, grown, strict=True)
    ]
