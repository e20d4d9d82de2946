"""Weights before they are sealed: inside their code, as training leaves them, or damaged.

Where no step was taken since the last projection the weights are inside their code to within
rounding, and everything else is damage. After steps they are where steps like those before may have
led. Where nothing is known of steps, a weight is damaged if it explains the checks and is far
larger than all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parimend.carriers import Chosen
from parimend.codes import Sparse
from parimend.events import Event
from parimend.training.outliers import (
    FACTOR,
    OUTGROWN,
    Noise,
    Outliers,
    Suspects,
    accepted,
    set_back_,
    suspects,
    unexplained,
)
from parimend.training.projection import Projection

USUAL = 2.0
"""Checks of so many times the largest of those before hold no damage that can be told from a
step."""
APART = 100.0
"""Where nothing is known of steps, a wrong weight is so many times as large as all others."""
FLOAT_BITS = 20
"""Weights of so many bits are rounded to whole steps at worst by what has moved them, in float32
and not solved for exactly."""

Since = Literal["inside", "stepped", "unknown"]
"""What the weights have been through since they were projected: nothing, steps like those before,
or what nothing is known of."""


def judge_(
    projection: Projection,
    words: Sequence[Chosen],
    outliers: Sequence[Outliers],
    since: Since,
    step: int,
) -> list[Event]:
    """Put back single weights that are no result of training; tells what was done.

    Args:
        projection: of all words.
        words: all of them.
        outliers: what the checks of each were before.
        since: what they have been through since they were projected.
        step: number of the step, for the events.

    Returns:
        An event ``repaired`` for every word of which weights were put back, ``unexplained`` where
        there is damage and it cannot be told which, and ``accepted`` where there may be.
    """
    return [
        event
        for number, (word, each) in enumerate(zip(words, outliers, strict=True))
        for event in _judge_(projection, number, word, each, since, step)
    ]


def _judge_(
    projection: Projection,
    number: int,
    word: Chosen,
    outliers: Outliers,
    since: Since,
    step: int,
) -> list[Event]:
    least = partial(_rounding, word.code, outliers)

    def at_least(level: float) -> Noise:
        return lambda checks, scale: max(level, least(checks, scale))

    # Averages of weights that steps led to are as far from the code as these at most.
    is_known = since == "inside" and outliers.enough
    checks, put_back = projection.checks_of(number), None
    limit = max((USUAL if is_known else FACTOR) * outliers.largest, outliers.rounding)
    if _largest(checks) > limit:
        limit = max(limit, least(checks, _outgrown(projection, number, outliers.most // 2)))
    levels: list[Noise]
    if since == "inside":
        levels, what = [least, at_least(limit)], "the weights have left their code without a step"
    elif since == "stepped" and outliers.enough:
        levels = [at_least(USUAL * outliers.largest), at_least(limit)]
        what = "the checks have moved far more than in the steps before"
    else:
        # What few wrong weights do is not in most checks.
        levels = [lambda c, s: max(FACTOR * float(np.median(np.abs(c))), least(c, s))]
        limit, what = np.inf, "the weights have left the range that training can lead to"
    events = list[Event]()
    for level in levels if not _largest(checks) <= levels[0](checks, 1.0) else ():
        found = suspects(projection, number, outliers, level)
        if found is None:
            continue
        if limit == np.inf:
            found = _apart(projection, number, found)
        if found.positions.size:
            put_back = found
            events.append(set_back_(projection, number, found, step))
            checks = projection.checks_of(number)
        break
    left = _largest(checks)
    if not left <= limit or projection.wild(number, OUTGROWN).size:
        if put_back:  # what is not all of it may be none of it
            projection.set_(number, put_back.positions, put_back.received)
        return [unexplained(word, step, what)]
    if since == "inside" and left > FACTOR * least(checks, _outgrown(projection, number)):
        events.append(accepted(word, step, f"{what}, no farther than steps lead"))
    return events


def _largest(checks: NDArray[np.float64]) -> float:
    return float(np.abs(checks).max())


def _rounding(code: Sparse, outliers: Outliers, checks: NDArray[np.float64], scale: float) -> float:
    """What rounding may make of checks: to the grid, or to floats where weights are larger."""
    return outliers.rounding * max(1.0, scale * 2.0 ** (code.word_bits - FLOAT_BITS))


def _outgrown(projection: Projection, number: int, most: int = 0) -> float:
    """By which power of two all weights but a few have outgrown the range of their grid."""
    scale = 1.0
    while scale < OUTGROWN and projection.wild(number, scale).size > most:
        scale *= 2.0
    return scale


def _apart(projection: Projection, number: int, found: Suspects) -> Suspects:
    """Those that are far larger than all others."""
    projection.set_(number, found.positions, found.now)
    others = max(projection.sizes(number))
    projection.set_(number, found.positions, found.received)
    sizes = np.abs(found.received) * projection.steps(number, found.positions)
    # Where all others are zero, training has begun to make something of them.
    apart = ~(sizes <= (APART * others or float(np.finfo(np.float64).max)))
    return found.where(apart)
